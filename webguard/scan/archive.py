"""Unpack archives to scan what is inside, within bounds, and never by raising.

What is an archive is said by its bytes, not by its name. Everything that opening
one may cost is bounded over all that is nested in it together: entries, bytes,
growth, depth and time. What stops us becomes an `Unscanned` that names the member;
what was read up to there is scanned, and so is what follows where that is possible.

A member's path begins with the archive's kind ("zip/docs/a.txt", nested
"zip/inner.zip/tar/a.txt"), so that no name in an archive can be one of ours.
"""

import time
from dataclasses import dataclass, replace
from functools import partial

from webguard.model import Detection, ScanResult, Unscanned
from webguard.scan.engine import Engine, inside
from webguard.scan.libarchive import SONAME, BrokenError, Library, Reader

ARCHIVE = "archive"
"""`Unscanned.where` of an archive that could not be opened at all."""

MISSING = "libarchive is missing (apt-get install libarchive13)"

_LONGEST = 200  # characters of a name, and of what the library says
_MOST_UNSCANNED = 20  # in one result; one already decides

_MAGIC = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"MSCF\0\0\0\0",
    b"!<arch>\n",
    b"070701",
    b"070702",
    b"070707",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
    b"LZIP\x01",
    b"\x1f\x9d\x90",
    b"\xed\xab\xee\xdb",
)
# Programs that unpack themselves: the archive is behind them.
_PROGRAMS = (b"MZ", b"\x7fELF")
_BEHIND = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"MSCF\0\0\0\0")
_FAR = 512 * 1024
_ZIP_END, _ZIP_TAIL = b"PK\x05\x06", 22 + 65535  # with the longest comment


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far unpacking goes, for one file with everything nested in it."""

    member: int = 64 * 1024**2  # bytes of one member
    total: int = 512 * 1024**2  # of all members
    ratio: int = 250  # of all members to the file
    floor: int = 1024**2  # which it may always grow to
    entries: int = 10_000
    depth: int = 8
    seconds: float = 20.0


def is_archive(content: bytes) -> bool:
    """Return whether `content` looks like something that `Unpacker` opens. Cheap."""
    if content.startswith(_MAGIC) or content[32769:32774] == b"CD001" or _is_tar(content):
        return True
    if content[:2] == b"BZ" and content[2:3] == b"h" and content[4:10] in _BZIP2:
        return True
    if content.startswith(_PROGRAMS) and any(content.find(each, 0, _FAR) > 0 for each in _BEHIND):
        return True
    # A zip is found from its end; in front of it may be anything.
    return content.rfind(_ZIP_END, max(0, len(content) - _ZIP_TAIL)) >= 0


_BZIP2 = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # its first block, or none at all


def _is_tar(content: bytes) -> bool:
    """Return whether the first header's checksum is right; old tars have nothing else."""
    if len(content) < 512:
        return False
    try:
        said = int(content[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return said == sum(content[:148]) + 8 * 32 + sum(content[156:512])


class Unpacker:
    """Scans content with everything that is packed in it. This is a port `Scan`."""

    def __init__(self, engine: Engine, library: Library | None, bounds: Bounds) -> None:
        self._engine = engine
        self._library = library
        self._bounds = bounds

    async def scan(self, content: bytes, content_encoding: str) -> ScanResult:
        """Scan `content` as it was transferred, what it decodes to, and what is in archives."""
        job = _Job(self._engine, self._library, self._bounds, len(content))
        return await self._engine.scan(content, content_encoding, partial(job.open, depth=1))

    async def unpack(self, content: bytes) -> ScanResult:
        """Scan what is packed in `content`, and not `content` as it is."""
        return await _Job(self._engine, self._library, self._bounds, len(content)).open(
            content, depth=1
        )


def library() -> Library | None:
    """Return the library, None if this machine has none that we can use."""
    try:
        return Library(SONAME)
    except (OSError, AttributeError):  # missing, or without a function that we need
        return None


class _Job:
    """One file, and what unpacking it has cost so far."""

    def __init__(self, engine: Engine, library: Library | None, bounds: Bounds, size: int) -> None:
        self._engine = engine
        self._library = library
        self._bounds = bounds
        self._room = min(bounds.total, max(bounds.floor, bounds.ratio * size))
        self._grows = self._room < bounds.total
        self._entries = 0
        self._until = time.monotonic() + bounds.seconds
        self._over = ""  # why nothing more is unpacked

    async def open(self, content: bytes, *, depth: int) -> ScanResult:
        """Scan what is in `content`, if that is an archive."""
        if self._over or not is_archive(content):
            return ScanResult()
        if self._library is None:
            return _unscanned(ARCHIVE, MISSING)
        if depth > self._bounds.depth:
            return _unscanned(ARCHIVE, f"more than {self._bounds.depth} archives in one another")
        found = _Found()
        try:
            with self._library.open(content) as reader:
                await self._walk(reader, found, depth)
        except BrokenError as error:
            found.missed(ARCHIVE, _damaged(error))
        except MemoryError:
            found.missed(ARCHIVE, "there is not enough memory for it")
        return found.result()

    async def _walk(self, reader: Reader, found: "_Found", depth: int) -> None:
        kind = ""
        while not self._over:
            try:
                if not reader.next():
                    return
            except BrokenError as error:
                found.missed(kind or ARCHIVE, _damaged(error))
                return
            kind = reader.kind
            if not kind:  # it only looked like one
                return
            await self._member(reader, found, depth)
        found.missed(kind, f"{self._over}: the rest was not unpacked")

    async def _member(self, reader: Reader, found: "_Found", depth: int) -> None:
        where = reader.kind if reader.raw else f"{reader.kind}/{plain(reader.name) or '?'}"
        self._entries += 1
        if self._entries > self._bounds.entries:
            self._over = f"more than {self._bounds.entries} members"
        elif reader.encrypted:
            found.missed(where, "it is encrypted")
        elif not reader.directory:
            content, problem = self._read(reader)
            if problem:
                found.missed(where, problem)
            if content:
                deeper = partial(self.open, depth=depth + 1)
                found.add(where, await self._engine.scan(content, "", deeper))

    def _read(self, reader: Reader) -> tuple[bytes, str]:
        """Return an entry's content, and why it is not the whole ("": it is)."""
        parts = bytearray()
        size = 0
        try:
            for block in reader.blocks():
                size += len(block)
                self._room -= len(block)
                if self._room < 0:
                    self._over = self._too_much()
                elif time.monotonic() > self._until:
                    self._over = f"unpacking took more than {self._bounds.seconds:g} s"
                if self._over:
                    return bytes(parts), self._over
                # Beyond its limit it is read on, and counted, for the sake of those behind it.
                if len(parts) < self._bounds.member:
                    parts += block[: self._bounds.member - len(parts)]
        except BrokenError as error:
            return bytes(parts), _damaged(error)
        if size > self._bounds.member:
            return bytes(parts), f"it is larger than {self._bounds.member} bytes"
        return bytes(parts), ""

    def _too_much(self) -> str:
        if self._grows:
            return f"it grows more than {self._bounds.ratio}-fold"
        return f"more than {self._bounds.total} bytes in all"


class _Found:
    """What one archive has given so far."""

    def __init__(self) -> None:
        self._detections: list[Detection] = []
        self._unscanned: list[Unscanned] = []

    def add(self, where: str, result: ScanResult) -> None:
        """Take what a member's content gave."""
        below = inside(where, result)
        self._detections += below.detections
        self._unscanned += below.unscanned

    def missed(self, where: str, reason: str) -> None:
        """Take what was not looked at."""
        self._unscanned.append(Unscanned(where=where, reason=reason))

    def result(self) -> ScanResult:
        """Return it, within the bounds of a message."""
        more = len(self._unscanned) - _MOST_UNSCANNED
        kept = self._unscanned[:_MOST_UNSCANNED]
        if more > 0:
            kept[-1] = replace(kept[-1], where=ARCHIVE, reason=f"and {more + 1} more members")
        return ScanResult(detections=tuple(self._detections), unscanned=tuple(kept))


def plain(text: str) -> str:
    """Return what an archive says, fit to be shown: short, and without control characters."""
    short = text if len(text) <= _LONGEST else text[:_LONGEST] + "\N{HORIZONTAL ELLIPSIS}"
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in short)


def _damaged(error: BrokenError) -> str:
    return f"it is damaged or not supported ({plain(str(error))})"


def _unscanned(where: str, reason: str) -> ScanResult:
    return ScanResult(unscanned=(Unscanned(where=where, reason=reason),))
