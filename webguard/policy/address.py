"""Write an address in one way, so that one pattern is enough for it. Pure; never raises.

The text comes from a client that may want to be misread, and it is the client's
word only: a `Host` header names what the client says it wants. Here everything
that reaches the same server and the same page becomes the same text:

- hosts in lower case, without a closing dot, international names as A-labels,
  IPv4 however it is written (`0x7f.1`, `2130706433`), IPv6 in its short form;
- paths with `%41` as `A` (RFC 3986, 6.2.2.2) and without `/./` and `/../`;
- no user name, no fragment.

What cannot be understood is kept as it is and compared as it is.
"""

import re
import unicodedata
from dataclasses import dataclass
from ipaddress import IPv6Address

import idna

_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"ws": "http", "wss": "https"}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,31})://")
_AUTHORITY_END = re.compile(r"[/?#\\]")
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
LONGEST_HOST = 253
"""Characters in a DNS name (RFC 1035); a longer one has no address."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes. `path` is "" when it is not known, as in TLS that is not decrypted."""

    scheme: str  # "http" or "https"; "" if not known
    host: str
    port: int  # 0 if not known
    path: str  # with the query


def parse(url: str) -> Address:
    """Return the address in `url`; without a scheme it is `host:port/path`."""
    scheme, rest = "", url
    if found := _SCHEME.match(url):
        scheme, rest = found[1].lower(), url[found.end() :]
        scheme = _SCHEMES.get(scheme, scheme)
    end = _AUTHORITY_END.search(rest)
    authority = rest[: end.start()] if end else rest
    name, port = split_port(authority.rpartition("@")[2])
    return Address(
        scheme=scheme,
        host=host(name),
        port=port or _PORTS.get(scheme, 0),
        path=path(rest[end.start() :] if end else "/"),
    )


def server(name: str, port: int = 443, scheme: str = "https") -> Address:
    """Return the address of a server of which no more is known."""
    return Address(scheme=scheme, host=host(name), port=port, path="")


def split_port(authority: str) -> tuple[str, int]:
    """Return host and port, 0 if there is none."""
    name, colon, digits = authority.rpartition(":")
    if not colon or "]" in digits or (":" in name and not name.startswith("[")):
        return authority, 0
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= 5):
        return (name, 0) if not digits else (authority, 0)
    return name, int(digits)


def host(name: str) -> str:
    """Return the one form of a host's name or address."""
    if not name.isascii():
        name = _ascii(name)
    # No name holds a slash, but a hostile SNI may, and so may what U+2100 is
    # normalised to. Patterns rely on it that hosts do not.
    name = name.lower().rstrip(".").replace("/", "%2f")
    if name.startswith("[") or ":" in name:
        return _ipv6(name)
    if name and (name[-1].isdigit() or ".0x" in name or name.startswith("0x")):
        return _ipv4(name)
    return name


def path(text: str) -> str:
    """Return the one form of a path with its query."""
    text = escapes(text.partition("#")[0].replace("\\", "/"))
    if not text.startswith("/"):
        text = f"/{text}"
    if "/." not in text:
        return text
    before, mark, query = text.partition("?")
    return _without_dots(before) + mark + query


def escapes(text: str) -> str:
    """Return `text` with one spelling for each character."""
    if not text.isascii():
        try:
            raw = text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raw = text.encode("utf-8", "surrogatepass")
        text = "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in raw)
    return _ESCAPE.sub(_escape, text) if "%" in text else text


def _escape(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if character in _UNRESERVED else found[0].upper()


def _without_dots(text: str) -> str:
    """Remove dot segments (RFC 3986, 5.2.4)."""
    kept: list[str] = []
    segments = text.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _ascii(name: str) -> str:
    if len(name) > LONGEST_HOST:  # the work grows with the length, and no such name resolves
        return name
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except (UnicodeError, ValueError, IndexError):
        pass
    # What IDNA 2008 refuses (emoji, underscores) some clients ask for all the same.
    plain = unicodedata.normalize("NFKC", name).casefold().replace("\u3002", ".")
    try:
        return ".".join(
            label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")
            for label in plain.split(".")
        )
    except UnicodeError:
        return plain


def _ipv4(name: str) -> str:
    """Return dotted decimals for whatever inet_aton(3) takes."""
    parts = name.split(".") if len(name) <= 64 else []
    if not 1 <= len(parts) <= 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return name
    try:
        numbers = [_number(part) for part in parts]
    except ValueError:
        return name
    *high, low = numbers
    if any(each > 255 for each in high) or low >= 256 ** (5 - len(numbers)):
        return name
    value = low + sum(each << (24 - 8 * index) for index, each in enumerate(high))
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


def _number(text: str) -> int:
    if text.startswith("0x"):
        return int(text[2:] or "0", 16)
    return int(text, 8) if len(text) > 1 and text.startswith("0") else int(text)


def _ipv6(name: str) -> str:
    try:
        found = IPv6Address(name.removeprefix("[").removesuffix("]").partition("%")[0])
    except ValueError:
        return name
    # A socket that connects to ::ffff:192.0.2.1 speaks to 192.0.2.1.
    return str(found.ipv4_mapped or f"[{found.compressed}]")
