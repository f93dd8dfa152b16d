"""What we remember of a container."""

from pathlib import Path

import pytest

from certs import records
from webguard.errors import HostError
from webguard.model import Container

ONE = Container(runtime="docker", id="../../etc/passwd", started=1, pid=2)
TWO = Container(runtime="podman", id="../../etc/passwd", started=1, pid=2)


def entry(path: str, ca: str = "aa", at: int = 1) -> records.Entry:
    return {"do": "append", "path": path, "ca": ca, "at": at}


def test_a_record_is_kept_by_runtime_and_id_whatever_they_contain(tmp_path: Path) -> None:
    state = tmp_path / "state"
    records.add(state, ONE, [entry("/a")])

    assert records.load(state, ONE) == [entry("/a")]
    assert records.load(state, TWO) == []
    assert [p.parent for p in state.rglob("*")] == [state]
    assert next(state.iterdir()).stat().st_mode & 0o7777 == 0o600


def test_a_later_entry_of_the_same_file_and_ca_replaces_the_earlier(tmp_path: Path) -> None:
    state = tmp_path / "state"
    records.add(state, ONE, [entry("/a"), entry("/b")])
    records.add(state, ONE, [entry("/a", at=2), entry("/a", ca="bb")])

    assert records.load(state, ONE) == [entry("/b"), entry("/a", at=2), entry("/a", ca="bb")]


def test_a_forgotten_container_leaves_no_file(tmp_path: Path) -> None:
    state = tmp_path / "state"
    records.add(state, ONE, [entry("/a")])

    records.forget(state, ONE)
    records.forget(state, ONE)

    assert list(state.iterdir()) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"entries"'])
def test_a_damaged_record_is_an_error_with_a_remedy(tmp_path: Path, content: str) -> None:
    records.add(tmp_path / "state", ONE, [entry("/a")])
    next((tmp_path / "state").iterdir()).write_text(content)

    with pytest.raises(HostError, match="move it away"):
        records.load(tmp_path / "state", ONE)
