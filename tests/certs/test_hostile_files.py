"""Stores that are not what a store should be: each is refused for its own reason, or kept whole."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs.authority import Authority
from certs.install import Level, Report, install, remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.certs.conftest import Start

pytestmark = pytest.mark.system

BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def reasons(report: Report) -> dict[str, tuple[str, str]]:
    return {store.path: (store.outcome.value, store.reason) for store in report.stores}


def a_device(path: Path) -> None:
    os.mknod(path, 0o666 | 0o020000, os.makedev(1, 3))


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # its address has room for 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def a_huge_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(17 << 20)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(a_device, "it is a character device, not a file", id="device"),
        pytest.param(os.mkfifo, "it is a FIFO, not a file", id="FIFO"),
        pytest.param(Path.mkdir, "it is a directory, not a file", id="directory"),
        pytest.param(a_socket, "it is a socket, not a file", id="socket"),
        pytest.param(a_huge_file, "it is larger than 16 MiB", id="huge file"),
        pytest.param(
            lambda path: path.symlink_to("nowhere"),
            "it is a link that leads nowhere, not a file",
            id="dangling link",
        ),
        pytest.param(
            lambda path: path.symlink_to(path.name),
            "a link on the way leads through /proc, or in a circle",
            id="link to itself",
        ),
        pytest.param(
            lambda path: path.symlink_to("/proc/kmsg"), "proc at /proc", id="a file of the kernel"
        ),
    ],
)
def test_what_is_no_plain_file_is_refused_with_its_kind(
    tree: Path,
    start: Start,
    authority: Authority,
    tmp_path: Path,
    make: Callable[[Path], None],
    reason: str,
) -> None:
    (tree / BUNDLE).unlink()
    make(tree / BUNDLE)
    before, box = (tree / BUNDLE).lstat(), start(tree)

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert reasons(report)[f"/{BUNDLE}"][1] == reason
    assert report.level is Level.PARTLY  # the other stores do not suffer
    assert (tree / BUNDLE).lstat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"\xff\xfe\x00", "it holds no PEM certificate", id="garbage"),
        pytest.param(
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
            b"-----BEGIN CERTIFICATE-----\nAA",
            "its last PEM block is not finished",
            id="cut off",
        ),
    ],
)
def test_a_broken_bundle_is_not_made_worse(
    tree: Path, start: Start, authority: Authority, tmp_path: Path, data: bytes, reason: str
) -> None:
    (tree / BUNDLE).write_bytes(data)
    box = start(tree)

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert reasons(report)[f"/{BUNDLE}"] == ("refused", reason)
    assert (tree / BUNDLE).read_bytes() == data


def test_a_file_with_other_names_is_refused(
    tree: Path, start: Start, authority: Authority, tmp_path: Path
) -> None:
    (tree / "tmp/other").hardlink_to(tree / BUNDLE)
    box = start(tree)

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert reasons(report)[f"/{BUNDLE}"] == ("refused", "it has 2 hard links")


def test_bytes_that_are_no_text_and_all_attributes_are_kept(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    data = b"# caf\xe9 \xff\x00\r\n" + roots
    (tree / BUNDLE).write_bytes(data)
    (tree / BUNDLE).chmod(0o604)
    os.chown(tree / BUNDLE, 1234, 4321)
    attributes = {"user.note": b"\x00\xff", "security.selinux": b"system_u:object_r:cert_t:s0\x00"}
    for name, value in attributes.items():
        os.setxattr(tree / BUNDLE, name, value)
    box = start(tree)

    def looks() -> tuple[int, int, int, dict[str, bytes]]:
        s = (tree / BUNDLE).stat()
        kept = {name: os.getxattr(tree / BUNDLE, name) for name in os.listxattr(tree / BUNDLE)}
        return s.st_mode, s.st_uid, s.st_gid, kept

    before = looks()
    install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")
    assert looks() == before
    assert (tree / BUNDLE).read_bytes() == data + authority.public.block.encode()
    remove(box.container, ours=authority.public, state=tmp_path / "state")
    assert looks() == before
    assert (tree / BUNDLE).read_bytes() == data
