"""Find certificates in a bundle: bytes in, places out. Pure; standard library only.

The bytes may be a hostile container's, so the search is linear in their length,
nothing is ever an error, and what is not a certificate is left alone. What a
certificate *says* is not looked at here; a fingerprint decides what is ours.
"""

import binascii
import hashlib
from collections.abc import Collection, Iterator

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


def blocks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield start, end (after the end of the line) and DER of each certificate block.

    A block that is not base64 has an empty DER.
    """
    position = 0
    while (end := data.find(_END, position)) >= 0:
        # The last BEGIN before the END: an unfinished block is not part of the next.
        start = data.rfind(_BEGIN, position, end)
        body = data[start + len(_BEGIN) : end]
        position = end + len(_END)
        position += next(
            (len(eol) for eol in (b"\r\n", b"\n") if data.startswith(eol, position)), 0
        )
        if start < 0:
            continue
        try:
            yield start, position, binascii.a2b_base64(body)
        except binascii.Error:
            yield start, position, b""


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
