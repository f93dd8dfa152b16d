"""One daemon an instance, and no file of it afterwards."""

import os
import threading
from pathlib import Path

import pytest

from webguard.daemon import lock
from webguard.daemon.lock import only_one
from webguard.daemon.paths import Paths
from webguard.errors import HostError, RefusedError


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(root=tmp_path)


def test_nothing_is_left_of_it(paths: Paths) -> None:
    with only_one(paths):
        assert paths.lock.is_file()
    assert not paths.run.exists()


def test_what_others_put_beside_it_stays(paths: Paths) -> None:
    with only_one(paths):
        (paths.run / "other").touch()
    assert [each.name for each in paths.run.iterdir()] == ["other"]


def test_a_second_one_is_refused(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.0)
    with only_one(paths):
        with (
            pytest.raises(RefusedError, match="another webguard of the instance webguard"),
            only_one(paths),
        ):
            pass
        assert paths.lock.is_file()


def test_other_instances_are_others(tmp_path: Path) -> None:
    with only_one(Paths(root=tmp_path)), only_one(Paths(root=tmp_path, instance="second")):
        assert Paths(root=tmp_path, instance="second").lock.is_file()


def test_a_killed_daemons_file_is_no_obstacle(paths: Paths) -> None:
    paths.run.mkdir(parents=True)
    paths.lock.touch()
    with only_one(paths) as descriptor:
        assert os.fstat(descriptor).st_ino == paths.lock.stat().st_ino


def test_the_successor_waits_for_the_last_holder_of_the_descriptor(paths: Paths) -> None:
    """Which is the sentry, after the daemon's death."""
    with only_one(paths) as descriptor:
        kept = os.dup(descriptor)
        (paths.run / "keeps the folder").touch()
    waiting = threading.Timer(0.2, lambda: os.close(kept))
    waiting.start()
    with only_one(paths):
        assert paths.lock.is_file()
    waiting.join()


def test_a_link_in_its_place_is_not_followed(paths: Paths, tmp_path: Path) -> None:
    paths.run.mkdir(parents=True)
    paths.lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError), only_one(paths):
        pass
    assert not (tmp_path / "elsewhere").exists()
