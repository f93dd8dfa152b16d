"""URL lists: which addresses are blocked, and which are allowed all the same. Pure.

The grammar of an entry is in `webguard.policy.pattern`. Two rules decide what is
meant where it could be either, and both err towards blocking:

- in a *blocked* list a `*` in the host reaches over the `/` into the path, so
  `*casino*` is every address with that word; in an *allowed* list it ends with
  the host, or anybody could append `/shop.example` to an address and be allowed;
- what is not known (the path in TLS that is not decrypted) matches no entry
  that names it; of an unknown scheme or port a blocked list assumes its own.

Names and `*.names` are looked up, so 100,000 of them cost no more than ten; only
entries with a wildcard elsewhere in the host are tried one by one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from webguard.policy import pattern, wildcard
from webguard.policy.address import LONGEST_HOST, Address
from webguard.policy.pattern import Pattern

MOST_WILD = 1000
"""Entries of one list with a wildcard within the host. Each costs every request a search."""


class Kind(StrEnum):
    """What a list says about its addresses. Allowed beats blocked."""

    BLOCKED = "blocked"
    ALLOWED = "allowed"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One pattern whose host has been found already."""

    text: str
    scheme: str
    port: int
    path: str | None  # None for any
    wild: re.Pattern[str] | None

    def fits(self, address: Address, lenient: bool) -> bool:
        """Return whether the rest of the address is the entry's as well."""
        if self.scheme and self.scheme != address.scheme and (address.scheme or not lenient):
            return False
        if self.port and self.port != address.port and (address.port or not lenient):
            return False
        if self.path is None:
            return True
        if self.wild is None or not address.path:
            return self.path == address.path
        return self.wild.fullmatch(address.path) is not None


@dataclass(frozen=True, slots=True)
class _Wild:
    """One pattern with a wildcard in the host."""

    entry: _Entry
    site: _Entry  # the same without the path
    part: str  # the longest text without wildcards: searching for it first is ten times faster
    host: re.Pattern[str]
    across: re.Pattern[str] | None  # over host and path together, in a blocked list

    def fits(self, address: Address, whole: str, lenient: bool) -> bool:
        """Return whether this address is meant; `whole` is host and path."""
        if self.part not in whole:
            return False
        if self.host.fullmatch(address.host) and self.entry.fits(address, lenient):
            return True
        if self.across is None or not address.path or not self.across.fullmatch(whole):
            return False
        return self.site.fits(address, lenient)


@dataclass(slots=True)
class _Index:
    """The entries of one list by how they are found. Not changed once it is made."""

    whole: set[str] = field(default_factory=set)  # everything on this host
    below: set[str] = field(default_factory=set)  # and on those below it
    some: dict[tuple[str, bool], list[_Entry]] = field(default_factory=dict)
    pages: dict[tuple[str, bool, str], list[_Entry]] = field(default_factory=dict)
    wild: list[_Wild] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlList:
    """One list. Raises `ValueError` for an entry that is not a pattern."""

    name: str
    kind: Kind
    entries: tuple[str, ...] = ()
    description: str = ""
    _found: _Index = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_found", _index(self.entries, self.kind))

    def find(self, address: Address) -> str:
        """Return the entry that `address` matches, "" if none does. Never raises."""
        index = self._found
        for name, below in _names(address.host):
            if name in (index.below if below else index.whole):
                return f"*.{name}" if below else name
        if index.some or index.pages:
            for name, below in _names(address.host):
                if found := self._under(name, below, address):
                    return found
        return self._wild(address) if index.wild else ""

    def _under(self, name: str, below: bool, address: Address) -> str:
        """Return the entry about a part of this host that matches."""
        lenient = self.kind is Kind.BLOCKED
        pages = self._found.pages.get((name, below, address.path), [])
        some = self._found.some.get((name, below), [])
        for entry in pages + some:
            if entry.fits(address, lenient):
                return entry.text
        return ""

    def _wild(self, address: Address) -> str:
        """Return the entry with a wildcard in the host that matches."""
        lenient = self.kind is Kind.BLOCKED
        whole = address.host + address.path
        for each in self._found.wild:
            if each.fits(address, whole, lenient):
                return each.entry.text
        return ""


def _names(host: str) -> Iterator[tuple[str, bool]]:
    """Yield the host, and it and all domains above it as names that a `*.` may stand before.

    Longer names than DNS allows are no pattern's, so only the end of a hostile
    one of megabytes is looked at.
    """
    yield host, False
    yield host, True
    start = max(0, len(host) - LONGEST_HOST - 1)
    while (dot := host.find(".", start)) >= 0:
        start = dot + 1
        yield host[start:], True


def _index(entries: tuple[str, ...], kind: Kind) -> _Index:
    index = _Index()
    for text in entries:
        parts = pattern.parse(text)
        if wildcard.is_wild(parts.host):
            if len(index.wild) == MOST_WILD:
                raise ValueError(
                    f"more than {MOST_WILD} entries have a wildcard inside the host"
                    " (write names and *.names instead)"
                )
            index.wild.append(_wild(text, parts, kind))
        elif not (parts.scheme or parts.port or parts.path):
            (index.below if parts.below else index.whole).add(parts.host)
        elif parts.path and not wildcard.is_wild(parts.path):
            key = parts.host, parts.below, parts.path
            index.pages.setdefault(key, []).append(_entry(text, parts))
        else:
            index.some.setdefault((parts.host, parts.below), []).append(_entry(text, parts))
    return index


def _entry(text: str, parts: Pattern) -> _Entry:
    wild = wildcard.compiled(parts.path) if wildcard.is_wild(parts.path) else None
    return _Entry(text, parts.scheme, parts.port, parts.path or None, wild)


def _wild(text: str, parts: Pattern, kind: Kind) -> _Wild:
    within = parts.host.replace("?", wildcard.WITHIN)
    inside = wildcard.expression(within, text="[^/]", below=parts.below)
    across = None
    if kind is Kind.BLOCKED:
        across = re.compile(wildcard.expression(within + parts.path, below=parts.below), re.DOTALL)
    return _Wild(
        entry=_entry(text, parts),
        site=_Entry(text, parts.scheme, parts.port, None, None),
        part=max(re.split(r"[*?]", parts.host), key=len),
        host=re.compile(inside, re.DOTALL),
        across=across,
    )
