"""Read archives out of memory with libarchive, called through ctypes.

The library has had memory errors and will have more, so only a process that
holds nothing may come here (`webguard.daemon.scanning`): what a call does to that
process costs one file.

Formats and filters are named one by one, never with `_all`: mtree reads other
files that it names, and a filter that is not built in starts a program. Which
are built in is asked first, on a reader that never reads.
"""

import ctypes
from collections.abc import Iterator
from types import TracebackType
from typing import Self

SONAME = "libarchive.so.13"

_FORMATS = {
    "zip": 0x50000,
    "tar": 0x30000,
    "7zip": 0xE0000,
    "cpio": 0x10000,
    "ar": 0x70000,
    "iso9660": 0x40000,
    "cab": 0xC0000,
    "rar": 0xD0000,
    "rar5": 0x100000,
    "raw": 0x90000,  # a file that is compressed and no archive
}
# Not gzip: `webguard.scan.decode` has undone it.
_FILTERS = ("bzip2", "compress", "lz4", "lzip", "lzma", "rpm", "xz", "zstd")
_FAMILY = 0xFF0000  # of a format's code: the rest are its dialects

_OK, _EOF, _WARN = 0, 1, -20
_DIRECTORY = 0o040000
_BLOCK = 256 * 1024

_PROTOTYPES = {
    "archive_read_new": "p:",
    "archive_read_free": "i:p",
    "archive_read_open_memory": "i:psz",
    "archive_read_next_header": "i:pP",
    "archive_read_data": "z:psz",
    "archive_error_string": "s:p",
    "archive_format": "i:p",
    "archive_filter_count": "i:p",
    "archive_filter_name": "s:pi",
    "archive_entry_pathname": "s:p",
    "archive_entry_pathname_utf8": "s:p",
    "archive_entry_filetype": "i:p",
    "archive_entry_is_encrypted": "i:p",
    **{f"archive_read_support_format_{each}": "i:p" for each in _FORMATS},
    **{f"archive_read_support_filter_{each}": "i:p" for each in _FILTERS},
}
_TYPES = {
    "p": ctypes.c_void_p,
    "P": ctypes.POINTER(ctypes.c_void_p),
    "s": ctypes.c_char_p,
    "z": ctypes.c_ssize_t,
    "i": ctypes.c_int,
}


class BrokenError(Exception):
    """The library gave up; the message is its own words, which may quote the archive."""


class Library:
    """The loaded library, and what it can read by itself. Raises `OSError` if it is missing."""

    def __init__(self, soname: str = SONAME) -> None:
        self._calls = ctypes.CDLL(soname)
        for name, types in _PROTOTYPES.items():
            call = getattr(self._calls, name)
            call.restype = _TYPES[types[0]]
            call.argtypes = [_TYPES[each] for each in types[2:]]
        probe = self._calls.archive_read_new()
        asked = [f"format_{each}" for each in _FORMATS] + [f"filter_{each}" for each in _FILTERS]
        # ARCHIVE_WARN from a filter: it would start a program.
        self._built_in = [each for each in asked if self._support(probe, each) == _OK]
        self._calls.archive_read_free(probe)

    def open(self, content: bytes) -> "Reader":
        """Return a reader of `content`. Raises `BrokenError` if it is nothing that we read."""
        handle = self._calls.archive_read_new()
        if not handle:
            raise BrokenError("out of memory")
        for each in self._built_in:
            self._support(handle, each)
        return Reader(self._calls, handle, content)

    def _support(self, handle: int, what: str) -> int:
        return int(getattr(self._calls, f"archive_read_support_{what}")(handle))


class Reader:
    """One archive that is being read, from its first entry to its last."""

    def __init__(self, calls: ctypes.CDLL, handle: int, content: bytes) -> None:
        self._calls = calls
        self._handle = handle
        self._entry = ctypes.c_void_p()
        self._buffer = ctypes.create_string_buffer(_BLOCK)
        # The library reads from where these bytes are, so they must live as long.
        self._content = content
        if calls.archive_read_open_memory(handle, content, len(content)) != _OK:
            problem = self._problem()
            calls.archive_read_free(handle)
            raise BrokenError(problem)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._calls.archive_read_free(self._handle)

    def next(self) -> bool:
        """Go to the next entry; return False behind the last. Raises `BrokenError`."""
        code = self._calls.archive_read_next_header(self._handle, ctypes.byref(self._entry))
        if code == _EOF:
            return False
        if code not in (_OK, _WARN):
            raise BrokenError(self._problem())
        return True

    @property
    def kind(self) -> str:
        """What this is ("tar", "xz/tar", "bzip2"), known from the first entry on; "": nothing."""
        count = self._calls.archive_filter_count(self._handle)
        names = [self._calls.archive_filter_name(self._handle, each) for each in range(count)]
        kinds = [name.decode("ascii", "replace") for name in names if name and name != b"none"]
        code = self._calls.archive_format(self._handle) & _FAMILY
        kinds += [name for name, each in _FORMATS.items() if each == code and name != "raw"]
        return "/".join(kinds)

    @property
    def raw(self) -> bool:
        """Whether there is one entry that has no name of its own."""
        return bool(self._calls.archive_format(self._handle) & _FAMILY == _FORMATS["raw"])

    @property
    def name(self) -> str:
        """The entry's name as the archive has it: any text."""
        for call in ("archive_entry_pathname_utf8", "archive_entry_pathname"):
            if found := getattr(self._calls, call)(self._entry):
                return bytes(found).decode(errors="replace")
        return ""

    @property
    def directory(self) -> bool:
        """Whether the entry is one."""
        return bool(self._calls.archive_entry_filetype(self._entry) == _DIRECTORY)

    @property
    def encrypted(self) -> bool:
        """Whether the entry's content cannot be read without a password."""
        return bool(self._calls.archive_entry_is_encrypted(self._entry))

    def blocks(self) -> Iterator[bytes]:
        """Return the entry's content, piece by piece. Raises `BrokenError`."""
        while True:
            size = self._calls.archive_read_data(self._handle, self._buffer, _BLOCK)
            if size < 0:
                raise BrokenError(self._problem())
            if size == 0:
                return
            yield self._buffer.raw[:size]

    def _problem(self) -> str:
        said = self._calls.archive_error_string(self._handle)
        return bytes(said).decode(errors="replace") if said else "no reason was given"
