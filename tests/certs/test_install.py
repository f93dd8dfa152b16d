"""Install, status and remove on containers of plain namespaces, from the outside."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs import pem
from certs.authority import Authority
from certs.install import Level, Outcome, Report, install, remove, status
from webguard.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.certs.conftest import Start

pytestmark = pytest.mark.system

BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def snapshot(root: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything that removal must give back: mode, owner, content or link of each name."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_relative_to(root / "proc") or path.is_relative_to(root / "bin"):
            continue
        status = path.lstat()
        content = b""
        if path.is_symlink():
            content = os.fsencode(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, content)
    return found


def outcomes(report: Report) -> dict[str, str]:
    return {store.path: store.outcome.value for store in report.stores}


def test_a_debian_like_container_gets_bundle_anchor_and_hash_link(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    ours, state = authority.public, tmp_path / "state"
    box = start(tree)

    report = install(box.container, ours=ours, roots=b"", state=state)

    assert report.level is Level.INSTALLED
    assert report.family == "debian-like"
    assert (tree / BUNDLE).read_bytes() == roots + ours.block.encode()
    anchor = tree / f"usr/local/share/ca-certificates/{ours.file_name}.crt"
    assert anchor.read_bytes() == ours.pem
    link = tree / f"etc/ssl/certs/{ours.subject_hash}.0"
    assert link.readlink() == Path(f"{ours.file_name}.pem")
    assert box.sh(f"cat /etc/ssl/certs/{ours.subject_hash}.0").encode() == ours.pem
    assert status(box.container, ours=ours, state=state).level is Level.INSTALLED


def test_installing_twice_changes_nothing(
    tree: Path, start: Start, authority: Authority, tmp_path: Path
) -> None:
    box = start(tree)
    install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")
    once = snapshot(tree)

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert set(outcomes(report).values()) == {"already installed"}
    assert report.level is Level.INSTALLED
    assert snapshot(tree) == once


@pytest.mark.parametrize("records", [True, False], ids=["with its record", "record lost"])
def test_removal_gives_every_byte_mode_and_owner_back(
    tree: Path, start: Start, authority: Authority, tmp_path: Path, records: bool
) -> None:
    (tree / BUNDLE).chmod(0o444)
    os.chown(tree / BUNDLE, 12, 34)
    before, box = snapshot(tree), start(tree)
    install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")
    assert snapshot(tree) != before
    state = tmp_path / ("state" if records else "another")

    report = remove(box.container, ours=authority.public, state=state)

    assert set(outcomes(report).values()) == {"removed"}
    assert snapshot(tree) == before
    assert list(state.glob("*")) == []
    again = remove(box.container, ours=authority.public, state=state)
    assert set(outcomes(again).values()) == {"not present"}
    after = status(box.container, ours=authority.public, state=state)
    assert after.level is Level.NOT_INSTALLED


def test_a_bundle_without_a_last_newline_is_given_back_without_it(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    (tree / BUNDLE).write_bytes(roots.rstrip())
    box = start(tree)

    install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")
    installed = (tree / BUNDLE).read_bytes()
    remove(box.container, ours=authority.public, state=tmp_path / "state")

    assert pem.fingerprints(installed) == pem.fingerprints(roots + authority.public.pem)
    assert (tree / BUNDLE).read_bytes() == roots.rstrip()


def test_a_bundle_changed_since_loses_only_what_is_ours(
    tree: Path,
    start: Start,
    authority: Authority,
    roots: bytes,
    tmp_path: Path,
    foreign: Callable[[str], bytes],
) -> None:
    box, own = start(tree), foreign("Added By The Container")
    install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")
    with (tree / BUNDLE).open("ab") as file:
        file.write(b"# \xff\xfe mine\n" + own)

    remove(box.container, ours=authority.public, state=tmp_path / "state")

    assert (tree / BUNDLE).read_bytes() == roots + b"# \xff\xfe mine\n" + own


def test_a_bare_container_gets_the_hosts_roots_and_ours(
    bare_tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    before, box = snapshot(bare_tree), start(bare_tree)

    report = install(box.container, ours=authority.public, roots=roots, state=tmp_path / "state")

    assert report.family == "bare"
    assert report.level is Level.INSTALLED
    made = bare_tree / BUNDLE
    assert pem.fingerprints(made.read_bytes()) == pem.fingerprints(roots + authority.public.pem)
    assert made.stat().st_mode & 0o777 == 0o644
    assert status(box.container, ours=authority.public, state=tmp_path / "state").level is (
        Level.INSTALLED
    )

    remove(box.container, ours=authority.public, state=tmp_path / "state")

    assert snapshot(bare_tree) == before


def test_a_store_we_do_not_know_is_named_and_left_alone(
    bare_tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    (bare_tree / "etc/pki/tls/certs").mkdir(parents=True)
    (bare_tree / "etc/pki/tls/certs/ca-bundle.crt").write_bytes(roots)
    before, box = snapshot(bare_tree), start(bare_tree)

    report = install(box.container, ours=authority.public, roots=roots, state=tmp_path / "state")

    assert outcomes(report) == {"/etc/pki/tls/certs/ca-bundle.crt": "refused"}
    assert report.level is Level.NOT_INSTALLED
    assert snapshot(bare_tree) == before


def test_the_hash_link_takes_the_next_free_number(
    tree: Path, start: Start, authority: Authority, tmp_path: Path
) -> None:
    taken = tree / f"etc/ssl/certs/{authority.public.subject_hash}.0"
    taken.symlink_to("Root_One.pem")
    before, box = snapshot(tree), start(tree)

    install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert taken.readlink() == Path("Root_One.pem")
    assert taken.with_suffix(".1").readlink() == Path(f"{authority.public.file_name}.pem")
    assert status(box.container, ours=authority.public, state=tmp_path / "state").level is (
        Level.INSTALLED
    )
    remove(box.container, ours=authority.public, state=tmp_path / "state")
    assert snapshot(tree) == before


def test_one_file_under_two_names_is_written_once_and_keeps_its_link(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    (tree / "etc/ssl/cert.pem").symlink_to("/etc/ssl/certs/ca-certificates.crt")
    box = start(tree)

    install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert (tree / BUNDLE).read_bytes() == roots + authority.public.block.encode()
    assert (tree / "etc/ssl/cert.pem").is_symlink()


def test_a_bundle_that_is_a_link_stays_one_and_its_target_is_written(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    (tree / "opt").mkdir()
    (tree / BUNDLE).rename(tree / "opt/real.pem")
    (tree / BUNDLE).symlink_to("../../../opt/real.pem")
    box = start(tree)

    install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert (tree / BUNDLE).is_symlink()
    assert (tree / "opt/real.pem").read_bytes() == roots + authority.public.block.encode()


def test_status_names_what_is_missing(
    tree: Path, start: Start, authority: Authority, tmp_path: Path
) -> None:
    box, state = start(tree), tmp_path / "state"
    install(box.container, ours=authority.public, roots=b"", state=state)
    (tree / f"usr/local/share/ca-certificates/{authority.public.file_name}.crt").unlink()

    report = status(box.container, ours=authority.public, state=state, trusted_at=1 << 62)

    assert report.level is Level.PARTLY
    assert Outcome.NOT_PRESENT in [store.outcome for store in report.stores]


def test_trusted_is_said_on_a_handshake_since_the_install_only(
    tree: Path, start: Start, authority: Authority, tmp_path: Path
) -> None:
    box, state = start(tree), tmp_path / "state"
    install(box.container, ours=authority.public, roots=b"", state=state)

    unseen = status(box.container, ours=authority.public, state=state)
    before = status(box.container, ours=authority.public, state=state, trusted_at=1)
    since = status(box.container, ours=authority.public, state=state, trusted_at=1 << 62)

    assert (unseen.level, unseen.restart_needed) == (Level.INSTALLED, True)
    assert (before.level, before.restart_needed) == (Level.INSTALLED, True)
    assert (since.level, since.restart_needed) == (Level.TRUSTED, False)


def test_a_run_that_began_after_the_install_needs_no_restart(
    tree: Path, start: Start, authority: Authority, tmp_path: Path
) -> None:
    first, state = start(tree), tmp_path / "state"
    install(first.container, ours=authority.public, roots=b"", state=state)
    again = start(tree)  # the same files, as `docker restart` leaves them
    restarted = replace(again.container, id=first.container.id)

    assert status(restarted, ours=authority.public, state=state).restart_needed is False


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"pid": 0}, "start it first", id="created or stopped"),
        pytest.param({"pid": 4_194_303}, "start it first", id="gone"),
        pytest.param({"started": 1}, "another process by now", id="pid reused"),
        pytest.param({"cgroups": (1 << 60,)}, "another cgroup", id="of another cgroup"),
        pytest.param(
            {"pid": os.getpid(), "cgroups": (), "started": -1}, "host's own", id="the host itself"
        ),
    ],
)
def test_what_is_not_this_running_container_is_refused(
    tree: Path,
    start: Start,
    authority: Authority,
    tmp_path: Path,
    changes: dict[str, int],
    says: str,
) -> None:
    if changes.get("started") == -1:
        ours = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        changes = changes | {"started": int(ours)}
    box, before = start(tree), snapshot(tree)

    with pytest.raises(RefusedError, match=says):
        install(
            replace(box.container, **changes),  # type: ignore[arg-type]
            ours=authority.public,
            roots=b"",
            state=tmp_path / "state",
        )

    assert snapshot(tree) == before
