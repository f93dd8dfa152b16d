"""The grammar of URL lists: one pattern, understood. Pure.

    [http://|https://] host [:port] [/path]

- `*` stands for any text and `?` for one character;
- a leading `*.` is special: `*.shop.example` is the domain and everything below
  it, and never text behind a `/`;
- a host alone, or with `/` or `/*`, is everything on it; a path is compared
  whole, query included, with its case: end it with `*` to take what follows;
- without a scheme or a port it is any;
- letters of hosts have no case, `bücher.example` is `xn--bcher-kva.example`.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv6Address

from webguard.policy import address, wildcard

LONGEST = 2048

# Most lists are hundreds of thousands of these: lower case, nothing to normalise.
_PLAIN = re.compile(r"(\*\.)?(?:[a-z0-9_-]{1,63}\.)+[a-z][a-z0-9-]{1,62}")
_SCHEME = re.compile(r"(https?|\*)://", re.IGNORECASE)
_PORT = re.compile(r":([0-9]{1,5}|\*)")
_LABEL = re.compile(r"[a-z0-9_*?-]{1,63}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern in its parts."""

    scheme: str  # "" for any
    below: bool  # it had a leading "*."
    host: str  # without that; may hold wildcards
    port: int  # 0 for any
    path: str  # "" for any; may hold wildcards


def parse(text: str) -> Pattern:
    """Return the pattern in `text`, or raise `ValueError` that says what to do."""
    if (plain := _PLAIN.fullmatch(text)) and len(text) <= 200:
        below = plain[1] is not None
        return Pattern("", below, text[2:] if below else text, 0, "")
    _check(text)
    scheme, rest = "", text
    if found := _SCHEME.match(text):
        scheme, rest = found[1].lower().replace("*", ""), text[found.end() :]
    name, slash, tail = rest.partition("/")
    if name.endswith(":") and tail.startswith("/"):
        raise ValueError("only http:// and https:// are schemes here (remove this one)")
    name, port = _split_port(name)
    below = name.startswith("*.") and len(name) > 2
    return Pattern(
        scheme=scheme,
        below=below,
        host=_host(name[2:] if below else name, below),
        port=port,
        path="" if tail in ("", "*") else _path(slash + tail),
    )


def _check(text: str) -> None:
    if not text:
        raise ValueError("this is empty (write a host or an address, or remove it)")
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters (shorten it with *)")
    if not text.isprintable() or " " in text:
        raise ValueError("white space and control characters cannot be in an address (remove them)")
    if "#" in text:
        raise ValueError("what follows a # is never sent to a server (remove it)")


def _split_port(name: str) -> tuple[str, int]:
    if "@" in name:
        raise ValueError("user names are not compared (remove everything up to the @)")
    before, _, digits = name.rpartition(":")
    if not before or "]" in digits:
        return name, 0
    found = _PORT.fullmatch(f":{digits}")
    if ":" in before and not before.startswith(("[", "*.[")):
        raise ValueError("this is not a port (write IPv6 addresses in brackets)")
    if not found or (found[1] != "*" and not 1 <= int(found[1]) <= 65535):
        raise ValueError("this is not a port (write 1 to 65535)")
    return before, 0 if found[1] == "*" else int(found[1])


def _host(name: str, below: bool) -> str:
    if not wildcard.is_wild(name):
        name = address.host(name)
        if name.startswith("["):
            return _ipv6(name, below)
    # A name that mixes both is made ASCII label by label.
    labels = [
        each if each.isascii() else _label(each) for each in name.lower().rstrip(".").split(".")
    ]
    if not name or any(not _LABEL.fullmatch(label) for label in labels):
        raise ValueError("this is not the name of a host (write it as in example.com/path)")
    if len(".".join(labels)) > address.LONGEST_HOST:
        raise ValueError(f"no host has more than {address.LONGEST_HOST} characters (shorten it)")
    return ".".join(labels)


def _label(label: str) -> str:
    if wildcard.is_wild(label):
        raise ValueError("a wildcard beside international letters (write the part as xn--...)")
    return address.host(label)


def _ipv6(name: str, below: bool) -> str:
    problem = "this is not an IPv6 address (write it whole, in brackets)"
    try:
        IPv6Address(name[1:-1])
    except ValueError as error:
        raise ValueError(problem) from error
    if below or not name.endswith("]"):
        raise ValueError(problem)
    return name


def _path(text: str) -> str:
    if re.search(r"/\.\.?(/|$)", address.escapes(text)):
        raise ValueError("clients remove /./ and /../ before they ask (write the path without)")
    return address.escapes(text.replace("\\", "/"))
