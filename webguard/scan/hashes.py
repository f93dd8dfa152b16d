"""Find contents by their digests: MD5, SHA-1 and SHA-256.

Lists of hashes are for what is already known byte for byte; MD5 and SHA-1 are
here because many lists hold nothing else, not because they prove anything.
Only the digests that some list needs are computed.
"""

import hashlib
from collections.abc import Iterable

from webguard.model import Detection

NAME = "hash"
_ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256"}  # by the number of hex digits
_SHOWN = 16  # digits of a digest that has no name


class Hashes:
    """All digests to look for. Not changed once it is made, so any thread may ask it."""

    def __init__(self, lists: Iterable[tuple[str, Iterable[tuple[str, str]]]] = ()) -> None:
        """Take lists as (name of the list, entries), an entry as (hex digest, name or "")."""
        self._known: dict[str, dict[bytes, str]] = {}
        for list_name, entries in lists:
            for digest, name in entries:
                known = self._known.setdefault(_ALGORITHMS[len(digest)], {})
                # Of two lists the first names it.
                known.setdefault(
                    bytes.fromhex(digest), f"{list_name}/{name or digest[:_SHOWN].lower()}"
                )

    def find(self, content: bytes, member: str = "") -> list[Detection]:
        """Return what `content` is known as. Empty content is nothing, whatever a list says."""
        if not content:
            return []
        found: list[Detection] = []
        for algorithm, known in self._known.items():
            digest = hashlib.new(algorithm, content, usedforsecurity=False).digest()
            if name := known.get(digest):
                found.append(Detection(engine=NAME, name=name, member=member))
        return found
