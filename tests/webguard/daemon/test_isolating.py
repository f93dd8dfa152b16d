"""The switch of isolation, when something fails: nothing has changed, or it can be undone."""

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from netiso import links
from netiso.isolation import HostNetwork, Isolation
from webguard.daemon.interception import Interception
from webguard.daemon.isolating import Isolating
from webguard.daemon.protection import Protection
from webguard.errors import HostError
from webguard.policy.config import Isolation as Settings


class Switch:
    """What a kernel says of its isolation; the real one needs a network namespace."""

    def __init__(self) -> None:
        self.isolation: Isolation | None = None
        self.intercepting = True
        self.refuses_isolation = self.refuses_selftest = False

    def isolate(self, isolation: Isolation, _interfaces: object) -> None:
        if self.refuses_isolation:
            raise HostError("isolate", "the kernel says no", "none")
        self.isolation = isolation

    def lift(self) -> None:
        self.isolation = None

    def begin_selftest(self, _cgroup: int) -> None:
        if self.refuses_selftest:
            raise HostError("probe", "the kernel says no", "none")

    def differences(self) -> tuple[str, ...]:
        return ()

    gaps = limits = differences

    def cut_packets(self) -> dict[str, int]:
        return {}


@pytest.fixture
def kernel() -> Switch:
    return Switch()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def isolating(kernel: Switch, told: list[str]) -> Isolating:
    interception: Any = object.__new__(Interception)
    interception.kernel, interception._link_watch, interception._untaken = kernel, None, False
    interception._protection = Protection(expected_workers=1, live=True)
    interception._own, interception.inventory = (
        SimpleNamespace(id=7),
        SimpleNamespace(containers=()),
    )
    return Isolating(
        interception,
        lambda kind, **_: told.append(kind),
        cut_connections=lambda: None,
        leaving=lambda: False,
    )


async def test_without_a_watch_on_interfaces_nothing_is_cut(
    isolating: Isolating, kernel: Switch, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(links, "LinkWatch", fail)
    with pytest.raises(HostError, match="Too many open files"):
        isolating.on(Settings(), who="root", reason="")
    assert (kernel.isolation, told) == (None, [])


async def test_what_the_kernel_refuses_leaves_no_watch_behind(
    isolating: Isolating, kernel: Switch, told: list[str]
) -> None:
    kernel.refuses_isolation = True
    with pytest.raises(HostError, match="the kernel says no"):
        isolating.on(Settings(), who="root", reason="")
    assert isolating._interception._link_watch is None
    assert told == []


async def test_what_fails_behind_the_switch_does_not_deny_it(
    isolating: Isolating, kernel: Switch, told: list[str]
) -> None:
    kernel.refuses_selftest = True
    assert isolating.on(Settings(), who="root", reason="x")["isolated"]
    assert not isolating.off(who="root", reason="")["isolated"]
    assert isolating._interception._link_watch is None
    assert told == ["isolation.on", "isolation.off"]


async def test_what_the_kernel_cuts_is_told_and_ended_whoever_asked_for_it(
    isolating: Isolating, kernel: Switch, told: list[str]
) -> None:
    kernel.isolation = Isolation(host_network=HostNetwork.LEAVE, spare=())
    status = isolating.status()
    assert (status["isolated"], status["since"], status["who"]) == (True, 0, "")
    isolating.off(who="root", reason="")
    assert told == ["isolation.off"]
    assert not isolating.status()["isolated"]
