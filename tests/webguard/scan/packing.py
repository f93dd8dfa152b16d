"""Archives to scan: of Python's own making, and of libarchive's where Python makes none."""

import ctypes
import io
import tarfile
import zipfile
from typing import Literal


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def encrypted(members: dict[str, bytes]) -> bytes:
    """A zip whose members say that they are encrypted."""
    made = bytearray(zipped(members))
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = made.find(magic)
        while at >= 0:
            made[at + flags] |= 1
            at = made.find(magic, at + 1)
    return bytes(made)


def tarred(members: dict[str, bytes], mode: Literal["w", "w:gz", "w:bz2", "w:xz"] = "w") -> bytes:
    """A tar, compressed or not."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in members.items():
            head = tarfile.TarInfo(name)
            head.size = len(content)
            archive.addfile(head, io.BytesIO(content))
    return buffer.getvalue()


def written(form: str, name: str, content: bytes) -> bytes:
    """An archive of one member in a format of libarchive's."""
    calls = ctypes.CDLL("libarchive.so.13")
    for each in ("archive_write_new", "archive_entry_new"):
        getattr(calls, each).restype = ctypes.c_void_p
    handle = ctypes.c_void_p(calls.archive_write_new())
    entry = ctypes.c_void_p(calls.archive_entry_new())
    buffer = ctypes.create_string_buffer(4 * 1024**2)
    used = ctypes.c_size_t()
    assert calls.archive_write_set_format_by_name(handle, form.encode()) == 0
    room = ctypes.c_size_t(len(buffer))
    assert calls.archive_write_open_memory(handle, buffer, room, ctypes.byref(used)) == 0
    calls.archive_entry_set_pathname(entry, name.encode())
    calls.archive_entry_set_filetype(entry, 0o100000)
    calls.archive_entry_set_perm(entry, 0o644)
    calls.archive_entry_set_size(entry, ctypes.c_int64(len(content)))
    assert calls.archive_write_header(handle, entry) == 0
    calls.archive_write_data(handle, content, ctypes.c_size_t(len(content)))
    assert calls.archive_write_close(handle) == 0
    calls.archive_entry_free(entry)
    calls.archive_write_free(handle)
    return buffer.raw[: used.value]
