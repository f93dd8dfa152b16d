"""Find certificates in a bundle: bytes in, places out. Pure; standard library only.

The bytes may be a hostile container's, so the search is linear in their length,
nothing is ever an error, and what is not a certificate is left alone. What a
certificate *says* is not looked at here; a fingerprint decides what is ours.
"""

import binascii
import hashlib
import re
from collections.abc import Collection, Iterator

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
# One pass over the data: a search from each hit on is slow for a file made of hits.
_LINE = re.compile(rb"-----BEGIN CERTIFICATE-----|-----END CERTIFICATE-----(?:\r?\n)?")


def blocks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield start, end (after the end of the line) and DER of each certificate block.

    A block that is not base64 has an empty DER.
    """
    begun = -1  # after the last BEGIN, so that an unfinished block is no part of the next
    for match in _LINE.finditer(data):
        if match[0] == _BEGIN:
            begun = match.end()
        elif begun >= 0:
            try:
                der = binascii.a2b_base64(data[begun : match.start()])
            except binascii.Error:
                der = b""
            yield begun - len(_BEGIN), match.end(), der
            begun = -1


def fingerprints(data: bytes) -> set[str]:
    """Return the SHA-256 of each certificate in `data`."""
    return {sha256(der) for _, _, der in blocks(data) if der}


def without(data: bytes, unwanted: Collection[str], marker: bytes) -> bytes:
    """Return `data` without the certificates of these fingerprints and their marker lines."""
    kept, position = [], 0
    for start, end, der in blocks(data):
        if sha256(der) in unwanted:
            marked = marker and data.endswith(marker, position, start)
            kept.append(data[position : start - len(marker) if marked else start])
            position = end
    return b"".join([*kept, data[position:]])


def unfinished(data: bytes) -> bool:
    """Return whether a last block has begun and not ended: what follows would be lost in it."""
    return data.rfind(b"-----BEGIN ") > data.rfind(b"-----END ")


def block(der: bytes) -> bytes:
    """Return the canonical block of a certificate (RFC 7468: 64 characters a line)."""
    text = binascii.b2a_base64(der, newline=False)
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return b"\n".join([_BEGIN, *lines, _END, b""])


def sha256(data: bytes) -> str:
    """Return the SHA-256 as hexadecimal text."""
    return hashlib.sha256(data).hexdigest()
