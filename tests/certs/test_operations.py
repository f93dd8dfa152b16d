"""One step at a time, on a folder of the test: no container, no privilege."""

import os
from pathlib import Path

import pytest

from certs import pem, writer
from certs.inside import NO_XDEV, Inside
from certs.operations import Answer, perform, text

OURS = b"\x30\x03our"
THEIRS = pem.block(b"\x30\x05their")
STEP = {
    "content": "# ours\n" + pem.block(OURS).decode(),
    "marker": "# ours\n",
    "fingerprints": [pem.sha256(OURS)],
}


def do(where: Path, /, **step: object) -> Answer:
    mounts = writer._mounts(Path("/proc/self/mountinfo").read_bytes())
    inside = Inside(os.open("/", os.O_PATH), os.open("/proc/self", os.O_PATH), mounts)
    return perform(inside, {"path": str(where), **STEP, **step})


@pytest.fixture(autouse=True)
def _on_the_root_file_system(tmp_path: Path) -> None:
    """Steps cross no mount from "/": a test folder that is on one proves nothing."""
    if tmp_path.stat().st_dev != Path("/").stat().st_dev:
        pytest.skip(f"{tmp_path} is not on the root file system ({NO_XDEV=})")


def test_what_append_reports_is_what_cut_needs(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_bytes(THEIRS.rstrip())

    added = do(bundle, do="append")
    assert (added["outcome"], added["size"]) == ("installed", len(THEIRS) - 1)
    assert bundle.read_bytes() == THEIRS.rstrip() + added["added"].encode()
    assert do(bundle, do="append")["outcome"] == "already installed"
    cut = do(bundle, **added | {"do": "cut"})

    assert (cut["outcome"], cut["exact"]) == ("removed", True)
    assert bundle.read_bytes() == THEIRS.rstrip()
    assert do(bundle, **added | {"do": "cut"})["outcome"] == "not present"


def test_a_record_that_does_not_fit_removes_by_fingerprint(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.write_bytes(THEIRS)
    added = do(bundle, do="append")

    cut = do(bundle, **added | {"do": "cut", "size": 3})

    assert cut["outcome"] == "removed"
    assert bundle.read_bytes() == THEIRS


def test_a_created_file_goes_with_its_folders(tmp_path: Path) -> None:
    made = do(tmp_path / "a/b/file", do="create")

    assert (tmp_path / "a/b/file").read_text() == STEP["content"]
    assert do(tmp_path / "a/b/file", **made | {"do": "cut"})["outcome"] == "removed"
    assert list(tmp_path.iterdir()) == []


def test_a_created_file_that_others_use_by_now_stays_without_ours(tmp_path: Path) -> None:
    made = do(tmp_path / "file", do="create")
    with (tmp_path / "file").open("ab") as file:
        file.write(THEIRS)

    do(tmp_path / "file", **made | {"do": "cut"})

    assert (tmp_path / "file").read_bytes() == THEIRS


def test_create_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(THEIRS)
    (tmp_path / "link").symlink_to("nowhere")

    assert do(tmp_path / "file", do="create")["reason"] == "it exists and is not ours"
    assert do(tmp_path / "link", do="create")["reason"] == "it is a link that leads nowhere"
    assert (tmp_path / "file").read_bytes() == THEIRS


def test_a_link_to_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    link = str(tmp_path / "0123abcd.0")

    answer = do(tmp_path, do="link", candidates=[link], target="missing.pem")

    assert answer["outcome"] == "not present"
    assert "missing.pem" in answer["reason"]
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_found_and_removed_by_its_target_alone(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    (tmp_path / "h.0").symlink_to("theirs.pem")
    step = {"candidates": [f"{tmp_path}/h.0", f"{tmp_path}/h.1"], "target": "ca.pem"}

    assert do(tmp_path, do="find link", **step)["outcome"] == "not present"
    assert do(tmp_path, do="link", **step)["path"] == f"{tmp_path}/h.1"
    assert do(tmp_path, do="find link", **step)["outcome"] == "already installed"
    assert do(tmp_path, do="unlink", **step)["outcome"] == "removed"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ca.pem", "h.0"]


@pytest.mark.parametrize(
    ("name", "hashed"),
    [("0123abcd.0", True), ("0123abcd.15", True), ("0123ABCD.0", False), ("0123abcd.r0", False)],
)
def test_a_folder_with_hash_links_is_known_by_their_names(
    tmp_path: Path, name: str, hashed: bool
) -> None:
    (tmp_path / name).touch()

    assert do(tmp_path, do="look")["hashed"] is hashed


@pytest.mark.parametrize("operation", ["append", "create", "cut"])
def test_a_fifo_is_not_opened_whatever_the_look_before_said(tmp_path: Path, operation: str) -> None:
    os.mkfifo(tmp_path / "fifo")

    answer = do(tmp_path / "fifo", do=operation)

    assert (answer["outcome"], answer["reason"]) == ("refused", "it is a FIFO, not a file")


def test_a_file_of_the_kernel_is_not_read_to_look_at_it() -> None:
    answer = do(Path("/proc/sys/kernel/ostype"), do="look")

    assert (answer["kind"], answer["mounted"]) == ("file", "proc at /proc")
    assert "sha256" not in answer


def test_text_of_the_container_is_made_short_ascii() -> None:
    assert text("\udcff\x1b[31m\u00e9" + "x" * 999)[:20].isascii()
    assert len(text("x" * 999)) == 300
