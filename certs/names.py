"""Decide which names a certificate of ours may carry. Pure.

The names come from a client's TLS hello, which is attacker text. What passes is
a host name in the letters that a resolver and a browser agree on, or an
address; a wildcard would let one leaf stand for hosts that were never asked for.
"""

import re
from collections.abc import Sequence
from ipaddress import ip_address

from cryptography.x509 import DNSName, IPAddress

LIMIT = 16  # names in one certificate

# Letters, digits, hyphen; underscore because real hosts have it. IDN comes as A-labels.
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def subject_names(names: Sequence[str]) -> list[DNSName | IPAddress]:
    """Return the names for a certificate, without duplicates; `ValueError` if one is not fit."""
    if not 1 <= len(names) <= LIMIT:
        raise ValueError(f"{len(names)} names; 1 to {LIMIT} are possible")
    return list(dict.fromkeys(_subject_name(name) for name in names))


def _subject_name(name: str) -> DNSName | IPAddress:
    if ":" in name or name.replace(".", "").isdecimal():
        if "%" in name:
            raise ValueError("an address with a zone means nothing to anybody else")
        return IPAddress(ip_address(name))
    host = name.lower()
    labels = host.split(".")
    if not name.isascii() or len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"not a host name: {name[:64]!a}")
    # "1.2.3.0x4" is an address to some resolvers and a name to others (WHATWG URL 3.5).
    if labels[-1].isdecimal() or labels[-1].startswith("0x"):
        raise ValueError(f"neither an address nor a host name: {name[:64]!a}")
    return DNSName(host)
