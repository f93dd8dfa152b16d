"""The attacks of a hostile container on whoever writes into it: one test for each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs import writer
from certs.authority import Authority
from certs.install import Level, Outcome, Report, install, remove, status
from webguard.errors import RefusedError
from webguard.model import Container

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.certs.conftest import Box, Start

pytestmark = pytest.mark.system

BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def reasons(report: Report) -> dict[str, tuple[str, str]]:
    return {store.path: (store.outcome.value, store.reason) for store in report.stores}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_link_to_a_folder_of_the_host_leads_nowhere(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path, victim: Path
) -> None:
    shutil.rmtree(tree / "etc/ssl/certs")
    (tree / "etc/ssl/certs").symlink_to(victim)
    before, box = contents(victim), start(tree)

    report = install(box.container, ours=authority.public, roots=roots, state=tmp_path / "state")

    assert contents(victim) == before
    assert reasons(report)[f"/{BUNDLE}"] == (
        "refused",
        "/etc/ssl/certs is a link that leads nowhere",
    )


@pytest.mark.parametrize("climb", ["../" * 20, "/proc/1/root/"], ids=["dots", "magic link"])
def test_a_way_out_of_the_root_ends_at_the_root_or_is_refused(
    tree: Path,
    start: Start,
    authority: Authority,
    roots: bytes,
    tmp_path: Path,
    victim: Path,
    climb: str,
) -> None:
    shutil.rmtree(tree / "etc/ssl/certs")
    (tree / "etc/ssl/certs").symlink_to(climb + str(victim).lstrip("/"))
    before, box = contents(victim), start(tree)

    report = install(box.container, ours=authority.public, roots=roots, state=tmp_path / "state")

    assert contents(victim) == before
    outcome, reason = reasons(report)[f"/{BUNDLE}"]
    assert outcome == "refused"
    assert ("/proc" if "proc" in climb else "leads nowhere") in reason


def test_a_read_only_root_stays_as_it_is(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    box = start(tree, read_only=True)

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    refused = [store for store in report.stores if store.outcome is Outcome.READ_ONLY]
    assert f"/{BUNDLE}" in [store.path for store in refused]
    assert all(store.remedy for store in refused)
    # What is left are links to the anchor, which is not there.
    assert {store.outcome for store in report.stores} == {Outcome.READ_ONLY, Outcome.NOT_PRESENT}
    assert report.level is Level.NOT_INSTALLED
    assert (tree / BUNDLE).read_bytes() == roots


@pytest.mark.parametrize("options", [("--bind",), ("--bind", "-o", "ro")], ids=["rw", "ro"])
def test_a_mounted_bundle_is_not_written_and_stays_mounted(
    tree: Path,
    start: Start,
    authority: Authority,
    roots: bytes,
    tmp_path: Path,
    victim: Path,
    options: tuple[str, ...],
) -> None:
    source = victim / "ca-certificates.crt"
    box = start(tree, mounts=[([*options, str(source)], f"/{BUNDLE}")])

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    outcome, reason = reasons(report)[f"/{BUNDLE}"]
    assert (outcome, f"at /{BUNDLE}" in reason) == ("mounted", True)
    assert f" /{BUNDLE} " in box.sh("cat /proc/1/mountinfo")
    assert source.read_bytes() == roots
    assert report.level is Level.PARTLY


def test_a_store_on_a_mount_is_not_written(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path, victim: Path
) -> None:
    """The host's own store, say, mounted for reading by an operator who forgot `:ro`."""
    (victim / "0123abcd.0").symlink_to("ca-certificates.crt")
    before, names = contents(victim), sorted(victim.iterdir())
    box = start(tree, mounts=[(["--bind", str(victim)], "/etc/ssl/certs")])

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert reasons(report)[f"/{BUNDLE}"][0] == "mounted"
    assert [outcome for outcome, _ in reasons(report).values()].count("mounted") == 3
    assert contents(victim) == before
    assert sorted(victim.iterdir()) == names


def test_an_empty_tmpfs_store_is_mounted_not_bare(
    bare_tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    (bare_tree / "etc/ssl/certs").mkdir(parents=True)
    box = start(bare_tree, mounts=[(["-t", "tmpfs", "tmpfs"], "/etc/ssl/certs")])

    report = install(box.container, ours=authority.public, roots=roots, state=tmp_path / "state")

    assert reasons(report)[f"/{BUNDLE}"][0] == "mounted"
    assert box.sh("ls -a /etc/ssl/certs").split() == [".", ".."]


def test_a_mount_that_holds_our_ca_already_counts(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path, victim: Path
) -> None:
    source = victim / "ca-certificates.crt"
    source.write_bytes(roots + authority.public.pem)
    box = start(tree, mounts=[(["--bind", str(source)], f"/{BUNDLE}")])

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert reasons(report)[f"/{BUNDLE}"][0] == "already installed"
    found = status(box.container, ours=authority.public, state=tmp_path / "state")
    assert found.level is Level.INSTALLED


def test_a_container_with_its_own_user_namespace_gets_files_of_its_own_root(
    bare_tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path
) -> None:
    box = start(bare_tree, user_namespace=True)

    report = install(box.container, ours=authority.public, roots=roots, state=tmp_path / "state")

    assert report.level is Level.INSTALLED
    assert box.path(f"/{BUNDLE}").stat().st_uid == 100_000
    assert authority.public.pem in box.path(f"/{BUNDLE}").read_bytes()
    remove(box.container, ours=authority.public, state=tmp_path / "state")
    assert not box.path("/etc").exists()


def test_a_container_that_moved_to_a_cgroup_below_its_own_is_still_itself(
    tree: Path, start: Start, authority: Authority, tmp_path: Path
) -> None:
    box = start(tree)
    (box.cgroup / "init.scope").mkdir()
    (box.cgroup / "init.scope/cgroup.procs").write_text(str(box.pid))

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert report.level is Level.INSTALLED


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["unshare", "--mount", "--propagation=unchanged"], id="the host's root"),
        pytest.param(["chroot", "{tree}"], id="the host's mount namespace"),
    ],
)
def test_a_process_in_the_hosts_file_system_is_not_a_container(
    tree: Path, authority: Authority, tmp_path: Path, command: list[str]
) -> None:
    argv = [part.format(tree=tree) for part in command]
    with subprocess.Popen(
        [*argv, "/bin/busybox", "sh", "-c", "echo; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        container = Container(runtime="proc", id="x" * 64, started=int(fields[19]), pid=process.pid)
        try:
            with pytest.raises(RefusedError, match="host's own"):
                status(container, ours=authority.public, state=tmp_path / "state")
        finally:
            process.kill()


def hostile_library(tree: Path) -> None:
    """Where the interpreter would look after entering: modules that leave a mark."""
    library = Path(sysconfig.get_paths()["stdlib"])
    names = [p.relative_to("/") for p in (*library.glob("*.py"), *library.glob("encodings/*.py"))]
    for name in (*names, (library / "wsgiref/__init__.py").relative_to("/")):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("open('/hijacked', 'w').close()\n")
    shutil.copy(tree / names[0], (tree / names[0]).parent / "wsgiref/util.py")


def enter_and(mode: str, box: Box) -> subprocess.Popen[str]:
    request = {
        "writer": writer.__file__,
        "mode": mode,
        "pid": box.pid,
        "started": box.container.started,
        "cgroups": box.container.cgroups,
    }
    script = str(Path(__file__).with_name("enter_and.py"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", script, json.dumps(request)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_module_imported_late_is_not_the_containers(tree: Path, start: Start) -> None:
    hostile_library(tree)
    box = start(tree)

    said, _ = enter_and("import", box).communicate(timeout=30)

    assert said == "nothing to import from"
    assert not (tree / "hijacked").exists()


def test_a_whole_install_loads_nothing_from_the_container(
    tree: Path, start: Start, authority: Authority, tmp_path: Path
) -> None:
    hostile_library(tree)
    box = start(tree)

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert report.level is Level.INSTALLED
    assert not (tree / "hijacked").exists()


def test_a_mount_that_comes_while_we_write_is_not_detached(tree: Path, start: Start) -> None:
    """From the host's mount namespace the rename would succeed, and take the mount away."""
    (tree / "tmp/mine").write_text("mine\n")
    box = start(tree)

    with enter_and("mount", box) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        box.sh(f"/bin/busybox mount -o bind /tmp/mine /{BUNDLE}")
        process.stdin.write("\n")
        process.stdin.flush()
        said = process.stdout.read()

    assert said == "Device or resource busy"
    assert box.sh(f"cat /{BUNDLE}") == "mine\n"
    assert f" /{BUNDLE} " in box.sh("cat /proc/1/mountinfo")


def test_a_file_system_that_never_answers_costs_its_own_install_only(
    tree: Path,
    start: Start,
    authority: Authority,
    roots: bytes,
    tmp_path: Path,
    file_system: Callable[..., Path],
) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, timeout=30)
    place = file_system("-o", "loop", str(image))
    shutil.copytree(tree, place, symlinks=True, dirs_exist_ok=True)
    box = start(place)
    subprocess.run(["fsfreeze", "--freeze", str(place)], check=True, timeout=10)
    # A process that waits for a frozen file system cannot be killed; whoever waits
    # for that process would wait until this.
    thaw = threading.Timer(60, subprocess.run, [["fsfreeze", "--unfreeze", str(place)]])
    thaw.start()

    try:
        with pytest.raises(RefusedError, match="did not answer"):
            install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")
        thawed_early = not thaw.is_alive()
    finally:
        thaw.cancel()
        subprocess.run(["fsfreeze", "--unfreeze", str(place)], check=False, timeout=10)

    assert not thawed_early
    assert (place / BUNDLE).read_bytes() == roots


def test_a_full_disk_leaves_the_store_whole_and_nothing_beside_it(
    tree: Path,
    start: Start,
    authority: Authority,
    roots: bytes,
    tmp_path: Path,
    file_system: Callable[..., Path],
) -> None:
    place = file_system("-t", "tmpfs", "-o", "size=8m", "tmpfs")
    shutil.copytree(tree, place, symlinks=True, dirs_exist_ok=True)
    subprocess.run(["dd", "if=/dev/zero", f"of={place}/tmp/filler"], check=False, timeout=20)
    names, box = sorted(place.rglob("*")), start(place)

    report = install(box.container, ours=authority.public, roots=b"", state=tmp_path / "state")

    assert reasons(report)[f"/{BUNDLE}"] == ("refused", "its file system is full")
    assert (place / BUNDLE).read_bytes() == roots
    assert [name for name in sorted(place.rglob("*")) if name not in names] == []


SWAP = """
cd /etc/ssl
while :; do
  mv certs real; ln -s {victim} certs; rm certs
  ln -s /proc/1/root{victim} certs; rm certs; mv real certs
  cd certs; mv ca-certificates.crt hidden; ln -s {victim}/ca-certificates.crt ca-certificates.crt
  rm ca-certificates.crt; mv hidden ca-certificates.crt; cd ..
done
"""


def test_nothing_outside_changes_while_the_container_swaps_folders_and_links(
    tree: Path, start: Start, authority: Authority, roots: bytes, tmp_path: Path, victim: Path
) -> None:
    before, box = contents(victim), start(tree, script=SWAP.format(victim=victim))
    seen: set[Level] = set()

    for _ in range(50):
        report = install(box.container, ours=authority.public, roots=roots, state=tmp_path / "s")
        seen.add(report.level)
        report = remove(box.container, ours=authority.public, state=tmp_path / "s")
        assert contents(victim) == before

    assert seen & {Level.INSTALLED, Level.PARTLY}  # it was a race, not a wall
    assert sorted(p.name for p in victim.iterdir()) == ["ca-certificates.crt"]
