"""Who holds our certificate, as far as records, engines and the kernel tell."""

import json
from pathlib import Path

import pytest

from webguard.daemon import relief
from webguard.daemon.paths import Paths

ID = "ab" * 32


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """An installation whose engines are all away."""
    found = Paths(root=tmp_path)
    found.records.mkdir(parents=True)
    found.config.parent.mkdir(parents=True)
    found.config.write_text("runtimes: {docker: /nowhere/docker, podman: /nowhere/podman}\n")
    return found


def record(paths: Paths, text: str) -> Path:
    path = paths.records / "certs-1.json"
    path.write_text(text)
    return path


def test_without_records_nobody_is_asked(tmp_path: Path) -> None:
    assert relief.holders(Paths(root=tmp_path)) == ()


def test_one_whose_engine_is_silent_may_be_stopped_or_deleted(paths: Paths) -> None:
    path = record(paths, json.dumps({"runtime": "docker", "id": ID, "entries": []}))

    (holder,) = relief.holders(paths)

    assert (holder.who, holder.container) == (f"docker container '{ID[:12]}'", None)
    assert "start it, then purge again" in holder.remedy
    assert f"rm {path}" in holder.remedy


@pytest.mark.parametrize("settings", ["runtimes: {dokcer: /nowhere}\n", "\0"])
def test_settings_that_are_wrong_keep_nobody_from_purging(paths: Paths, settings: str) -> None:
    paths.config.write_text(settings)
    record(paths, json.dumps({"runtime": "proc", "id": ID, "entries": []}))

    assert [each.container for each in relief.holders(paths)] == [None]


def test_a_record_that_nobody_can_read_is_named(paths: Paths) -> None:
    path = record(paths, "{")

    (holder,) = relief.holders(paths)

    assert (holder.who, f"rm {path}" in holder.remedy) == (str(path), True)
