"""Hash lists: contents that are known by their MD5, SHA-1 or SHA-256. Pure.

They hold for every container: what a content is does not depend on who asks
for it. Matching is `webguard.scan`'s; this is what the operator's files say.
"""

import re
from dataclasses import dataclass

_LINE = re.compile(r"([0-9A-Fa-f]+)(?:[ \t]+(\S.*))?")
_LENGTHS = (32, 40, 64)
_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class HashList:
    """One list: (digest in lower case, name of what it is)."""

    name: str
    entries: tuple[tuple[str, str], ...] = ()
    description: str = ""


def parse(text: str) -> tuple[str, str]:
    """Return digest and name ("" if none), or raise `ValueError` that says what to do."""
    found = _LINE.fullmatch(text.strip())
    if not found or len(found[1]) not in _LENGTHS:
        raise ValueError(
            "this is not a hash (write the 32, 40 or 64 hex digits of an MD5, SHA-1 or SHA-256,"
            " and behind it a name if you like)"
        )
    name = (found[2] or "").strip()
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ValueError(f"this is not a name (write at most {_LONGEST_NAME} visible characters)")
    return found[1].lower(), name
