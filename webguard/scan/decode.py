"""Undo the encodings of a body, within bounds, and never by raising.

What comes in was made by whoever attacks, so each step is bounded: the size of
everything decoded together, its ratio to what was transferred, the number of
layers, and the number of members of a gzip file. Whatever stops us becomes an
`Unscanned`, and what was decoded up to there is still there to be scanned:
clients, too, use the beginning of a stream that breaks later on.

Layers are the Content-Encoding from right to left, then gzip files by their
magic bytes, whatever the header said.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import brotli  # type: ignore[import-untyped]
import zstandard

from webguard.model import Unscanned

_STEP = 4096  # bytes fed at once to a decoder that bounds its own output
# A block of zstd is at least 4 bytes (a repeated byte) and gives at most
# 128 KiB, and python-zstandard cannot bound what one call returns: 512 bytes
# bound it to 16 MiB.
_ZSTD_STEP = 512
_ZSTD_WINDOW = 1 << 27  # what libzstd, and with it curl, accepts by default
_MAX_MEMBERS = 1024  # of a gzip file; more is an attack on our time
_GZIP_MAGIC = b"\x1f\x8b\x08"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far decoding goes. A body may always grow to `floor`, whatever the ratio."""

    output: int = 64 * 1024**2  # of all layers together
    ratio: int = 250
    floor: int = 1024**2
    layers: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """What was inside a body: each layer's path ("gzip", "gzip/br") and bytes, outermost first."""

    layers: tuple[tuple[str, bytes], ...] = ()
    unscanned: tuple[Unscanned, ...] = ()


class _Stream(Protocol):
    """One compressed stream. `feed` raises one of `_ERRORS`, and is then of no more use."""

    step: int
    done: bool
    rest: bytes  # what was fed but lies behind the end

    def feed(self, data: bytes, room: int) -> bytes:
        """Take all of `data` and return what it gives, at the least `room` bytes if there are."""
        ...


# MemoryError: a forged window size that the machine cannot give.
_ERRORS = (zlib.error, brotli.error, zstandard.ZstdError, MemoryError)


class _Zlib:
    step = _STEP

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)
        self.done = False
        self.rest = b""

    def feed(self, data: bytes, room: int) -> bytes:
        out = self._inner.decompress(data, room)
        self.done = self._inner.eof
        self.rest = self._inner.unused_data
        return out


class _Brotli:
    step = _STEP

    def __init__(self) -> None:
        self._inner = brotli.Decompressor()
        self.done = False
        self.rest = b""

    def feed(self, data: bytes, room: int) -> bytes:
        parts = [self._inner.process(data, output_buffer_limit=room)]
        size = len(parts[0])
        while size < room and not self._inner.can_accept_more_data():
            parts.append(self._inner.process(b"", output_buffer_limit=room - size))
            size += len(parts[-1])
        self.done = self._inner.is_finished()
        return b"".join(parts)


class _Zstd:
    step = _ZSTD_STEP

    def __init__(self) -> None:
        self._inner = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        self.done = False
        self.rest = b""

    def feed(self, data: bytes, room: int) -> bytes:
        out = self._inner.decompress(data)
        self.done = self._inner.eof
        self.rest = self._inner.unused_data
        return out


@dataclass(frozen=True, slots=True)
class _Part:
    """What one stream gave, how many bytes it took, and why it ended early ("" if it did not)."""

    out: bytes
    taken: int
    problem: str = ""
    full: bool = False
    also: bytes = b""  # another reading of the same bytes


def decode(body: bytes, content_encoding: str, limits: Limits | None = None) -> Decoded:
    """Return everything that is inside `body`. Never raises for any content."""
    limits = limits or Limits()
    room = min(limits.output, max(limits.floor, limits.ratio * len(body)))
    layers: list[tuple[str, bytes]] = []
    names, unscanned = _names(content_encoding)
    path, data = "", body
    while data:
        name = names.pop() if names else "gzip" if data.startswith(_GZIP_MAGIC) else ""
        if not name:
            break
        if len(layers) >= limits.layers:  # "deflate" may add two at once
            reason = f"more than {limits.layers} layers of encoding"
            unscanned.append(Unscanned(where=path, reason=reason))
            break
        where = f"{path}/{name}" if path else name
        part = _DECODERS[name](data, room)
        if part.problem or part.full:
            reason = part.problem or _too_large(limits, len(body))
            unscanned.append(Unscanned(where=where, reason=reason))
        layers += [(where, out) for out in (part.also, part.out) if out]
        room -= len(part.also) + len(part.out)
        if part.out:
            path, data = where, part.out
            continue
        # The header lied. Whoever ignores it sees these bytes as they are.
        names.clear()
        if name == "gzip":
            break
    return Decoded(layers=tuple(layers), unscanned=tuple(unscanned) if body else ())


def _names(content_encoding: str) -> tuple[list[str], list[Unscanned]]:
    """Return the encodings in the order they were applied, and what we do not know among them.

    Unknown ones are skipped, as clients do: the rest may still be undone.
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [{"x-gzip": "gzip"}.get(name, name) for name in names if name not in ("", "identity")]
    known = [name for name in names if name in _DECODERS]
    unknown = [name for name in names if name not in _DECODERS]
    if not unknown:
        return known, []
    # The name is not in `where`: that is ours, and this text is the attacker's.
    reason = f"unknown Content-Encoding {unknown[0][:32]!a}"
    return known, [Unscanned(where="content-encoding", reason=reason)]


def _too_large(limits: Limits, transferred: int) -> str:
    if limits.ratio * transferred < limits.output:
        return f"it grows more than {limits.ratio}-fold"
    return f"it is larger than {limits.output} bytes when decoded"


def _gzip(data: bytes, room: int) -> _Part:
    """Decode a gzip file: one or more members, one behind the other."""
    outs: list[bytes] = []
    position = 0
    for _ in range(_MAX_MEMBERS):
        part = _run(lambda: _Zlib(31), data, position, room)
        outs.append(part.out)
        room -= len(part.out)
        position += part.taken
        if part.problem or part.full:
            return _Part(b"".join(outs), position, part.problem, part.full)
        if not data.startswith(_GZIP_MAGIC, position):
            return _closed(_Part(b"".join(outs), position), data)
    return _Part(b"".join(outs), position, f"more than {_MAX_MEMBERS} members")


def _deflate(data: bytes, room: int) -> _Part:
    """Decode "deflate", which is zlib by the standard and raw deflate by custom."""
    first = _run(lambda: _Zlib(15), data, 0, room)
    if not first.problem:
        return _closed(first, data)
    second = _run(lambda: _Zlib(-15), data, 0, room - len(first.out))
    if not second.problem:
        return replace(_closed(second, data), also=first.out)
    # Broken either way: what a client gets out of it depends on the client.
    best, other = sorted((first, second), key=lambda part: len(part.out), reverse=True)
    return replace(best, also=other.out)


def _br(data: bytes, room: int) -> _Part:
    return _closed(_run(_Brotli, data, 0, room), data)


def _zstd(data: bytes, room: int) -> _Part:
    """Decode zstd frames, one behind the other."""
    outs: list[bytes] = []
    position = 0
    for _ in range(_MAX_MEMBERS):
        part = _run(_Zstd, data, position, room)
        outs.append(part.out)
        room -= len(part.out)
        position += part.taken
        if part.problem or part.full or position >= len(data):
            return _Part(b"".join(outs), position, part.problem, part.full)
    return _Part(b"".join(outs), position, f"more than {_MAX_MEMBERS} frames")


_DECODERS: dict[str, Callable[[bytes, int], _Part]] = {
    "gzip": _gzip,
    "deflate": _deflate,
    "br": _br,
    "zstd": _zstd,
}


def _closed(part: _Part, data: bytes) -> _Part:
    """Add to a complete part that something follows it. Zeros are padding, as gzip(1) sees it."""
    if part.problem or part.full or data.count(0, part.taken) == len(data) - part.taken:
        return part
    return replace(part, problem="data behind its end")


def _run(start: Callable[[], _Stream], data: bytes, position: int, room: int) -> _Part:
    """Decode one stream from `position` on, giving at most `room` bytes."""
    stream = start()
    outs: list[bytes] = []
    size = 0
    begin = position
    while position < len(data) and not stream.done:
        chunk = data[position : position + stream.step]
        try:
            # One byte more than there is room for shows that it is too much.
            out = stream.feed(chunk, room - size + 1)
        except _ERRORS as error:
            last = _crawl(start, data[begin : position + len(chunk)], position - begin, room)
            whole = b"".join([*outs, last.out])
            problem = last.problem and f"it is broken ({_said(error)})"
            return _Part(whole[:room], last.taken, problem, len(whole) > room)
        outs.append(out)
        size += len(out)
        position += len(chunk)
        if size > room:
            return _Part(b"".join(outs)[:room], position - begin, full=True)
    problem = "" if stream.done else "it is cut off"
    return _Part(b"".join(outs), position - begin - len(stream.rest), problem)


def _crawl(start: Callable[[], _Stream], data: bytes, good: int, room: int) -> _Part:
    """Decode again a stream that broke behind `good` bytes, and return what comes behind them.

    All these decoders throw away what the failing call had decoded, and brotli's
    takes a single byte behind its end for a failure. Byte by byte nothing is
    lost: without this, one byte added to a body would hide it.
    """
    stream = start()
    for position in range(0, good, stream.step):
        stream.feed(data[position : min(good, position + stream.step)], room + 1)
    outs: list[bytes] = []
    size = 0
    for position in range(good, len(data)):
        try:
            outs.append(stream.feed(data[position : position + 1], room + 1 - size))
        except _ERRORS as error:
            return _Part(b"".join(outs), position, _said(error))
        size += len(outs[-1])
        if stream.done or size > room:
            return _Part(b"".join(outs), position + 1)
    return _Part(b"".join(outs), len(data), "it is cut off")


def _said(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:80]
