"""Container images without a registry: archives for `docker import`.

The Debian one takes a minute to make, so it is kept in a folder of the caller's own,
under a name that depends on all that went into it.
"""

import fcntl
import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKAGES = ("ca-certificates", "curl", "python3-minimal", "python3-requests", "wget")
_APPLETS = (
    *("sh", "cat", "echo", "env", "false", "id", "kill", "ls", "mkdir", "nc", "rm"),
    *("seq", "sleep", "test", "touch", "true", "wget"),
)
_OLD = 7 * 24 * 3600  # seconds
_PATIENCE = 900  # seconds for debootstrap on a slow mirror


def cache_folder() -> Path:
    """A folder for what is costly to make. Refused if somebody else could have written it."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "webguard-tests"
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
        raise RuntimeError(f"{folder} is not ours; remove it, or set XDG_CACHE_HOME")
    folder.chmod(0o700)
    return folder


@contextmanager
def making(name: str) -> Iterator[tuple[Path, Path | None]]:
    """(kept, scratch): a path in the cache, and where to make it if it is not there yet.

    What is in scratch at the end takes the kept name in one step, so nobody ever
    sees half of it; one maker at a time.
    """
    folder = cache_folder()
    kept = folder / name
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.exists():
            os.utime(kept)
            yield kept, None
            return
        _forget_old(folder, name.partition("-")[0])
        scratch = Path(tempfile.mkdtemp(prefix="making-", dir=folder))
        try:
            yield kept, scratch / name
            (scratch / name).rename(kept)
        finally:
            shutil.rmtree(scratch)


def _forget_old(folder: Path, kind: str) -> None:
    """Remove what went into an earlier recipe, unless a suite may still be using it."""
    for path in folder.glob(f"{kind}-*"):
        if time.time() - path.stat().st_mtime > _OLD:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o755) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def busybox(folder: Path) -> Path:
    """The static busybox with links to the applets that tests use."""
    path = folder / "busybox.tar"
    with tarfile.open(path, "w") as archive:
        _add(archive, "bin/busybox", Path("/bin/busybox").read_bytes())
        for applet in _APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
        _add(archive, "etc/passwd", b"root:x:0:0:root:/:/bin/sh\n", 0o644)
        scratch = tarfile.TarInfo("tmp")
        scratch.type, scratch.mode = tarfile.DIRTYPE, 0o1777
        archive.addfile(scratch)
    return path


def bare(folder: Path) -> Path:
    """The static busybox and nothing else."""
    path = folder / "bare.tar"
    with tarfile.open(path, "w") as archive:
        _add(archive, "busybox", Path("/bin/busybox").read_bytes())
    return path


def debian() -> Path:
    """The machine's own distribution, minimal, with the clients that tests use."""
    suite, (mirror, components) = _suite(), _mirror()
    recipe = [suite, mirror or "", components, *_PACKAGES]
    key = hashlib.sha256("\n".join(recipe).encode()).hexdigest()[:16]
    with making(f"debian-{key}.tar") as (kept, scratch):
        if scratch is not None:
            _debootstrap(scratch, suite, mirror, components)
    return kept


def _debootstrap(archive: Path, suite: str, mirror: str | None, components: str) -> None:
    tree = archive.with_suffix(".tree")
    # A mount namespace of its own: debootstrap mounts /proc in the tree.
    command = ["unshare", "--mount", "--propagation", "private", "debootstrap"]
    command += ["--variant=minbase", f"--components={components}"]
    command += [f"--include={','.join(_PACKAGES)}", suite, str(tree)]
    command += [mirror] if mirror else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE)
    if done.returncode != 0:
        raise RuntimeError(
            f"debootstrap failed: {done.stdout[-2000:]}{done.stderr[-2000:]}"
            "\n(does apt-get update work on this machine? the same mirror is used)"
        )
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(tree / waste, ignore_errors=True)
    subprocess.run(["tar", "-C", tree, "--exclude=./dev/*", "-cf", archive, "."], check=True)


def _suite() -> str:
    release = Path("/etc/os-release").read_text()
    found = re.search(r'^VERSION_CODENAME="?(\w+)', release, re.MULTILINE)
    if found is None:
        raise RuntimeError("/etc/os-release names no Debian or Ubuntu release to build an image of")
    return found[1]


def _mirror() -> tuple[str | None, str]:
    """Where this machine gets its packages from, and the components to use there.

    (None, ...) lets debootstrap use its own default.
    """
    suite = _suite()
    wanted = "main,universe" if "ubuntu" in Path("/etc/os-release").read_text().lower() else "main"
    for source in _sources():
        if suite in source["Suites"].split() and "main" in source["Components"].split():
            return source["URIs"].split()[0].rstrip("/"), wanted
    return None, wanted


def _sources() -> Iterator[dict[str, str]]:
    """Apt's sources, of both formats."""
    lists = Path("/etc/apt/sources.list.d")
    for path in sorted(lists.glob("*.sources")):
        for paragraph in re.split(r"\n\s*\n", path.read_text()):
            lines = [each for each in paragraph.splitlines() if not each.startswith("#")]
            pairs = re.findall(r"^([\w-]+):\s*(.*)$", "\n".join(lines), re.MULTILINE)
            source = {"URIs": "", "Suites": "", "Components": "", **dict(pairs)}
            if "deb" in source.get("Types", "").split():
                yield source
    for path in (Path("/etc/apt/sources.list"), *sorted(lists.glob("*.list"))):
        if path.exists():
            pattern = r"^deb\s+(?:\[[^]]*\]\s*)?(\S+)\s+(\S+)\s+(.*)$"
            for uri, suite, components in re.findall(pattern, path.read_text(), re.MULTILINE):
                yield {"URIs": uri, "Suites": suite, "Components": components}
