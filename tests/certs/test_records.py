"""What we remember of a container."""

from dataclasses import replace
from pathlib import Path

import pytest

from certs import records
from webguard.errors import HostError
from webguard.model import Container

ONE = Container(runtime="docker", id="../../etc/passwd", started=1, pid=2)
TWO = Container(runtime="docker", id="../../etc/shadow", started=1, pid=2)


def entry(path: str, ca: str = "aa", at: int = 1) -> records.Entry:
    return {"do": "append", "path": path, "ca": ca, "at": at}


def nobody(_id: str) -> str:
    return ""


def test_a_record_is_kept_by_id_whatever_that_contains(tmp_path: Path) -> None:
    state = tmp_path / "state"
    records.add(state, ONE, [entry("/a")])

    assert records.load(state, ONE) == [entry("/a")]
    assert records.load(state, TWO) == []
    assert [p.parent for p in state.rglob("*")] == [state]
    assert next(state.iterdir()).stat().st_mode & 0o7777 == 0o600


def test_the_record_of_a_container_that_got_its_runtime_later_is_its_own(tmp_path: Path) -> None:
    """Docker was away at the install, and the kernel alone knew the container."""
    state = tmp_path / "state"
    records.add(state, replace(ONE, runtime="proc"), [entry("/a")])
    assert records.load(state, ONE) == [entry("/a")]

    # It was not said then that the container was deleted, and it can be now.
    records.prune(state, docker_says_deleted, lambda _id: "docker")
    assert records.load(state, ONE) == [entry("/a")]
    records.prune(state, docker_says_deleted, lambda _id: "")
    assert list(state.iterdir()) == []


def docker_says_deleted(runtime: str, id_: str) -> bool:
    return runtime == "docker"


def test_a_later_entry_of_the_same_file_and_ca_replaces_the_earlier(tmp_path: Path) -> None:
    state = tmp_path / "state"
    records.add(state, ONE, [entry("/a"), entry("/b")])
    records.add(state, ONE, [entry("/a", at=2), entry("/a", ca="bb")])

    assert records.load(state, ONE) == [entry("/b"), entry("/a", at=2), entry("/a", ca="bb")]


def test_with_nothing_to_remember_there_is_no_file(tmp_path: Path) -> None:
    state = tmp_path / "state"
    records.add(state, ONE, [entry("/a")])

    records.save(state, ONE, [])
    records.save(state, ONE, [])

    assert list(state.iterdir()) == []


def test_the_record_of_a_deleted_container_goes_and_others_stay(tmp_path: Path) -> None:
    state = tmp_path / "state"
    records.prune(state, lambda *_: True, nobody)  # before there was any
    for each in (ONE, TWO):
        records.add(state, each, [entry("/a")])
    (state / "certs-damaged.json").write_text("{")

    records.prune(state, lambda runtime, id_: (runtime, id_) == (ONE.runtime, ONE.id), nobody)

    assert records.load(state, ONE) == []
    assert records.load(state, TWO) == [entry("/a")]
    assert (state / "certs-damaged.json").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"entries"'])
def test_a_damaged_record_is_an_error_with_a_remedy(tmp_path: Path, content: str) -> None:
    records.add(tmp_path / "state", ONE, [entry("/a")])
    next((tmp_path / "state").iterdir()).write_text(content)

    with pytest.raises(HostError, match="move it away"):
        records.load(tmp_path / "state", ONE)
