"""Check a host: what webguard needs, what is in its way, and what to do about each.

Needs no daemon and changes nothing. Each check is a function that returns how
it stands; a check that breaks says so instead of hiding the others.
"""

import os
import pwd
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from netiso import cgroups, kernel_state
from netiso.apply import Kernel, next_generation
from netiso.redirect import Redirect
from webguard.daemon import owners
from webguard.daemon.material import read_settings
from webguard.daemon.paths import PROXY_USER, SCAN_USER, SIGNER_USER, Paths
from webguard.daemon.sockets import held
from webguard.errors import HostError, WebguardError
from webguard.host import run
from webguard.policy.config import Config

# Certificates are signed with this clock; a year before our release is a dead battery.
_EARLIEST = 1_767_225_600  # 2026-01-01


class Standing(StrEnum):
    """How a check came out."""

    OK = "ok"
    NOTE = "note"  # works, but the operator should know
    FAIL = "fail"  # webguard cannot protect like this


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: what was looked at, how it stands, why, and the way to mend it."""

    check: str
    standing: Standing
    reason: str
    fix: str = ""


def examine(paths: Paths) -> tuple[Finding, ...]:
    """Return a finding for every check, in the order in which a start would meet them."""
    config, found = _settings(paths)
    for check in _CHECKS:
        try:
            found.extend(check(paths, config))
        except (WebguardError, OSError, ValueError) as error:
            name = (check.__doc__ or check.__name__).partition(".")[0]
            host = error if isinstance(error, HostError) else None
            found.append(
                Finding(
                    check=name,
                    standing=Standing.FAIL,
                    reason=f"{host.tried}: {host.answer.strip()}" if host else str(error),
                    fix=host.remedy if host else "see the reason",
                )
            )
    return tuple(found)


def _settings(paths: Paths) -> tuple[Config, list[Finding]]:
    try:
        config = read_settings(paths, None)
    except WebguardError as error:
        return Config(), [
            Finding(
                check="settings",
                standing=Standing.FAIL,
                reason=str(error),
                fix="correct the line that is named",
            )
        ]
    where = str(paths.config) if paths.config.exists() else "there is no file: the defaults"
    return config, [Finding(check="settings", standing=Standing.OK, reason=where)]


def _root(_paths: Paths, _config: Config) -> Iterator[Finding]:
    """User."""
    good = os.geteuid() == 0
    yield Finding(
        check="user",
        standing=Standing.OK if good else Standing.FAIL,
        reason="root" if good else f"uid {os.geteuid()}: the other checks see less",
        fix="" if good else "sudo webguard doctor",
    )


def _python(_paths: Paths, _config: Config) -> Iterator[Finding]:
    """Service users."""
    for name in (PROXY_USER, SIGNER_USER, SCAN_USER):
        try:
            pwd.getpwnam(name)
        except KeyError:
            yield Finding(
                check=f"user {name}", standing=Standing.FAIL, reason="missing", fix="make install"
            )
            continue
        yield Finding(check=f"user {name}", standing=Standing.OK, reason="exists")
    if os.geteuid() == 0 and _uid(PROXY_USER) is not None:
        program = ["setpriv", "--reuid", PROXY_USER, "--regid", PROXY_USER, "--clear-groups"]
        run([*program, sys.executable, "-I", "-c", ""], remedy="make install", timeout=30)
        yield Finding(check="interpreter", standing=Standing.OK, reason=f"{PROXY_USER} can run it")


def _cgroups(_paths: Paths, _config: Config) -> Iterator[Finding]:
    """Cgroup v2 tree."""
    yield Finding(check="cgroup v2", standing=Standing.OK, reason=str(cgroups.find_root()))


def _kernel(_paths: Paths, config: Config) -> Iterator[Finding]:
    """Kernel and nftables."""
    redirect = Redirect(
        instance=config.instance,
        generation=next_generation(config.instance),
        proxy_port=config.web.listen_port,
        ports=config.web.ports,
        closed=config.web.on_failure == "closed",
    )
    # Making the object rehearses what the tables need, and loads nothing.
    Kernel(redirect).close()
    yield Finding(
        check="kernel", standing=Standing.OK, reason=f"{os.uname().release} has all that is needed"
    )
    for rival in kernel_state.rivals(config.instance):
        yield Finding(
            check="other firewalls",
            standing=Standing.NOTE,
            reason=rival,
            fix="give that chain a priority after -105, or take the ports out of web.ports",
        )


def _port(paths: Paths, config: Config) -> Iterator[Finding]:
    """Port."""
    port = config.web.listen_port
    try:
        running = held(paths.control)
    except PermissionError:
        reason = f"you may not ask at {paths.control}"
        yield Finding(check="daemon", standing=Standing.NOTE, reason=reason, fix="be root")
        return
    if running:
        yield Finding(check="daemon", standing=Standing.OK, reason="it runs")
        return
    if paths.control.exists():
        reason = f"nobody answers at {paths.control}: it was killed, and will replace that"
        yield Finding(check="daemon", standing=Standing.NOTE, reason=reason, fix="webguard run")
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            yield Finding(
                check=f"port {port}",
                standing=Standing.FAIL,
                reason=error.strerror or str(error),
                fix=f"ss -ltnp 'sport = :{port}' shows who; or set web.listen_port",
            )
            return
    yield Finding(check=f"port {port}", standing=Standing.OK, reason="free")


def _docker(_paths: Paths, config: Config) -> Iterator[Finding]:
    """Engines."""
    path = Path(config.runtimes.docker)
    there = path.is_socket()
    yield Finding(
        check="Docker engine",
        standing=Standing.OK if there else Standing.NOTE,
        reason=f"{path} is there" if there else f"{path} is not there: containers have no names",
        fix="" if there else "nothing if no Docker runs here; else set runtimes.docker",
    )


def _folders(paths: Paths, _config: Config) -> Iterator[Finding]:
    """Paths."""
    expected = {paths.state: 0, paths.records: 0, paths.run: 0}
    with_signer = _uid(SIGNER_USER)
    if with_signer is not None:
        expected[paths.ca] = with_signer
    for path, owner in expected.items():
        if not path.exists():
            continue
        facts = path.stat(follow_symlinks=False)
        if facts.st_uid != owner or path.is_symlink():
            reason, fix = (
                f"belongs to uid {facts.st_uid}, not {owner}",
                "find out who made it, and move it away",
            )
        else:
            reason = owners.problem(path, owner)
            fix = f"look for what is not yours there, then: chmod go-w {path}" if reason else ""
        yield Finding(
            check=str(path),
            standing=Standing.FAIL if reason else Standing.OK,
            reason=reason or "owner and mode are right",
            fix=fix,
        )


def _written(paths: Paths, _config: Config) -> Iterator[Finding]:
    """Owners of settings."""
    found = {path: why for path in owners.written(paths) if (why := owners.problem(path))}
    for path, why in found.items():
        yield Finding(check=str(path), standing=Standing.FAIL, reason=why, fix=owners.remedy(path))
    if not found:
        reason = "settings, groups, lists and rules are root's alone"
        yield Finding(check="owners", standing=Standing.OK, reason=reason)


def _clock(_paths: Paths, _config: Config) -> Iterator[Finding]:
    """Clock."""
    good = time.time() > _EARLIEST
    yield Finding(
        check="clock",
        standing=Standing.OK if good else Standing.FAIL,
        reason=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        fix="" if good else "set the clock: certificates would be refused by every client",
    )


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


_CHECKS: tuple[Callable[[Paths, Config], Iterator[Finding]], ...] = (
    _root,
    _clock,
    _python,
    _cgroups,
    _kernel,
    _port,
    _folders,
    _written,
    _docker,
)
