"""`webguard purge`: remove everything that webguard keeps on this host."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from webguard import host
from webguard.cli import show
from webguard.cli.context import context_of
from webguard.daemon.paths import OPERATORS, PROXY_USER, SCAN_USER, SIGNER_USER, Paths
from webguard.errors import (
    ConfigError,
    HostError,
    PermissionDeniedError,
    RefusedError,
    WebguardError,
)

_PLACE = Path("/opt/webguard")
_LINK = Path("/usr/local/bin/webguard")
"""Is ours if it leads to the program."""
_BOOTED = Path("/run/systemd/system")
"""Is there when systemd runs (sd_booted(3))."""
_UNITS = tuple(
    Path("/usr/lib/systemd/system", each) for each in ("webguard.service", "webguard-boot.service")
)
_CONFIGURATION = tuple(
    Path("/usr/lib", each, "webguard.conf") for each in ("sysusers.d", "tmpfiles.d")
)
_PACKAGES = "packages"
"""In the state folder: the Debian packages that setup installed, one a line."""
_PYTHONS = "pythons"
"""The same for folders with a Python that setup fetched, because there was no other."""

type Step = tuple[str, Callable[[], object]]


def purge(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    keep_packages: Annotated[
        bool, typer.Option("--keep-packages", help="Leave Debian packages alone.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even if containers still hold the CA.")
    ] = False,
) -> None:
    """Remove the CA, records, settings, units, service users and packages of webguard.

    First of all the CA's certificate, from the containers that hold it. A
    stopped one cannot be relieved of it: it is named, with what to do, and nothing
    else is removed, but with --force. Refuses while a daemon runs.

    \b
    Examples:
      webguard purge --dry-run
      webguard purge --yes
    """
    paths = context_of(context).paths
    if os.geteuid() != 0:
        raise PermissionDeniedError(
            "webguard purge removes users and files and must be root (sudo)"
        )
    with _no_daemon(paths):
        relieving, held = _containers(paths)
        rest = list(_steps(paths, packages=not keep_packages)) if force or not held else []
        for each in held:
            show.line(f"{'leaves' if force else 'waits for'}: {each}")
        for what, _ in (*relieving, *rest):
            show.line(f"{'would remove' if dry_run else 'removes'}: {what}")
        if dry_run or not (relieving or rest or held):
            show.line("" if relieving or rest or held else "nothing of webguard is here")
            return
        if (relieving or rest) and not yes and not typer.confirm("Remove all of this?"):
            raise RefusedError("nothing was removed")
        held += _attempts(relieving)
        if held and not force:
            raise RefusedError(
                f"{len(held)} containers still hold the CA's certificate, and nothing but the "
                f"above was removed: {'; '.join(held)} (do that, or --force: without the CA's "
                "key, which goes, the certificate is of no use to anybody)"
            )
        failed = _attempts(rest)
    if failed:
        raise HostError("purge", "; ".join(failed), "remove these by hand")
    show.line("webguard is gone from this host.")


def left_behind(paths: Paths) -> list[str]:
    """Return what webguard keeps on this host, in words: what `purge` would remove."""
    return [what for what, _ in _steps(paths, packages=True)]


def _steps(paths: Paths, *, packages: bool) -> Iterator[Step]:
    """Yield what there is to remove, and how."""
    from certs import publish  # heavy: not for every command
    from netiso import apply

    if paths == Paths() and any(each.exists() for each in _UNITS):
        # First: a unit that starts the daemon again would be in the way of all else.
        yield f"units {' '.join(each.name for each in _UNITS)}", _remove_units
    # With `on_failure: closed` a killed daemon's tables keep the containers' ports shut.
    for table in apply.leftovers(paths.instance):
        yield f"nftables table {table}", lambda: apply.remove_leftovers(paths.instance)
    if publish.place(paths.root).exists():
        what = f"{publish.place(paths.root)} (the CA's public certificate)"
        yield what, lambda: publish.withdraw(paths.root)
    installed, fetched = _installed(paths) if packages else (), _fetched(paths)
    folders = {
        paths.state: "the CA's key, and records of what was written into containers",
        paths.run: "a killed daemon's",
        paths.config.parent: "settings",
    }
    for folder, what in folders.items():
        if folder.is_dir() and not folder.is_symlink():
            yield f"{folder} ({what})", lambda gone=folder: shutil.rmtree(gone)  # type: ignore[misc]
    if paths == Paths():  # users, packages and programs are no other root's or instance's
        yield from _machine(installed, fetched)


def _machine(installed: tuple[str, ...], fetched: tuple[Path, ...]) -> Iterator[Step]:
    """Yield what setup put on the machine."""
    for user in (PROXY_USER, SIGNER_USER, SCAN_USER):
        if _known("passwd", user):
            # By force: a container may run with the same number, which is no use of our user.
            yield f"user {user}", lambda name=user: _run("userdel", "--force", name)  # type: ignore[misc]
    if _known("group", OPERATORS):
        yield f"group {OPERATORS}", lambda: _run("groupdel", OPERATORS)
    if installed:
        yield f"packages {' '.join(installed)}", lambda: _remove_packages(installed)
    for folder in fetched:
        yield f"{folder} (a Python)", lambda gone=folder: shutil.rmtree(gone)  # type: ignore[misc]
    if _LINK.is_symlink() and _LINK.readlink() == _PLACE / "venv/bin/webguard":
        yield f"{_LINK} (a link to the program)", _LINK.unlink
    if _PLACE.is_dir():
        yield f"{_PLACE} (the program)", lambda: shutil.rmtree(_PLACE)


def _remove_units() -> None:
    """Stop and disable the units, and remove what setup placed for systemd."""
    names = [each.name for each in _UNITS]
    running = _BOOTED.exists()
    if running or shutil.which("systemctl"):
        _run("systemctl", "disable", "--quiet", *(["--now"] if running else []), *names)
    for each in (*_UNITS, *_CONFIGURATION):
        each.unlink(missing_ok=True)
    if running:
        _run("systemctl", "daemon-reload")


def _containers(paths: Paths) -> tuple[list[Step], list[str]]:
    """Return how to take the certificate out of containers, and, in words, out of which not."""
    from webguard.daemon import relief  # heavy: not for every command

    steps: list[Step] = []
    held: list[str] = []
    for each in relief.holders(paths):
        if each.container is None:
            held.append(f"{each.who} ({each.remedy})")
            continue
        what = f"the CA's certificate from {each.who}"
        steps.append((what, lambda of=each.container: relief.relieve(of, paths)))  # type: ignore[misc]
    return steps, held


def _attempts(steps: Iterable[Step]) -> list[str]:
    """Take the steps, and return what went wrong with which."""
    failed = []
    for what, deed in steps:
        try:
            deed()
        except (OSError, WebguardError) as error:
            failed.append(f"{what}: {error}")
    return failed


def _installed(paths: Paths) -> tuple[str, ...]:
    try:
        return tuple((paths.state / _PACKAGES).read_text().split())
    except OSError:
        return ()


def _fetched(paths: Paths) -> tuple[Path, ...]:
    """Return the folders with a Python that setup fetched. A checkout may be gone by now."""
    try:
        said = {Path(each) for each in (paths.state / _PYTHONS).read_text().splitlines()}
    except OSError:
        return ()
    # It is never more than what setup makes.
    return tuple(e for e in sorted(said) if e.parts[-2:] == (".build", "python") and e.is_dir())


def _remove_packages(names: tuple[str, ...]) -> None:
    """Remove the packages that setup installed, unless others came to need them since."""
    argv = ["apt-get", "-q", "remove", "--yes", *names]
    rehearsal = host.run(
        [*argv[:2], "--simulate", *argv[2:]], remedy="apt-get remove by hand", timeout=120
    )
    gone = {line.split()[1] for line in rehearsal.splitlines() if line.startswith("Remv ")}
    # What came along as a dependency goes along; what somebody asked for by name does not.
    automatic = host.run(
        ["apt-mark", "showauto"], remedy="apt-get remove by hand", timeout=60
    ).split()
    if others := gone - set(names) - set(automatic):
        raise HostError(
            "remove packages", f"this would also remove {', '.join(sorted(others))}", "leave them"
        )
    host.run(argv, remedy="apt-get remove by hand", timeout=600)


def _known(database: str, name: str) -> bool:
    try:
        host.run(["getent", database, name], remedy="")
    except HostError:
        return False
    return True


def _run(*argv: str) -> None:
    host.run(list(argv), remedy=f"{' '.join(argv)} by hand", timeout=30)


@contextlib.contextmanager
def _no_daemon(paths: Paths) -> Iterator[None]:
    """Make sure that no daemon of this instance runs meanwhile."""
    if not paths.lock.exists():
        yield
        return
    try:
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(str(paths.lock), str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RefusedError(
            "the daemon is running (stop it first: systemctl stop webguard, or Ctrl-C)"
        ) from error
    finally:
        os.close(descriptor)
