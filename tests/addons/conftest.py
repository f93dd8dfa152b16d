"""Builders for the addons' tests: flows, fakes of the ports, one addon at a time."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.test import tflow

from addons.peers import Peer, Peers
from certs.authority import Authority
from tests.addons.rig import Rig, running
from tests.system.host import pki
from webguard.model import Action, Container, Event, Network, Question, ScanResult, Verdict
from webguard.policy.decide import Policy, decide


@dataclass
class World:
    """What an addon is given, and what came of it."""

    peers: Peers = field(default_factory=Peers)
    recorded: list[Event] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)
    policy: Policy = field(default_factory=Policy)
    stamps: int = 0

    def stamp(self) -> tuple[str, int]:
        self.stamps += 1
        return f"00000000-0000-7000-8000-{self.stamps:012d}", self.stamps

    def decide(self, question: Question) -> Verdict:
        self.asked.append(question)
        return decide(self.policy, question)

    def ports(self) -> dict[str, Any]:
        """The arguments that most addons take."""
        return {
            "decide": self.decide,
            "record": self.recorded.append,
            "stamp": self.stamp,
            "peers": self.peers,
        }


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def closed_world() -> World:
    return World(policy=Policy(unscanned=Action.BLOCK, on_failure="closed"))


@pytest.fixture
def a_container() -> Container:
    return Container(
        runtime="docker", id="c" * 64, started=7, pid=42, network=Network.HOST, name="shop"
    )


@pytest.fixture
def a_flow(world: World, a_container: Container) -> Callable[..., http.HTTPFlow]:
    """Build flows of a known container, without a response unless one is given."""

    def build(
        body: bytes | None = None, *, request: bytes | None = b"", **headers: str
    ) -> http.HTTPFlow:
        flow = tflow.tflow()
        flow.request.headers.clear()
        flow.request.headers["host"] = "good.test"
        flow.request.raw_content = request
        for name, value in headers.items():
            flow.request.headers[name.replace("_", "-")] = value
        if body is not None:
            flow.response = http.Response.make(200, body)
        peer = Peer(client="10.0.0.1:4", server="10.0.0.2:80", cgroup=9, container=a_container)
        world.peers.add(flow.client_conn.id, peer)
        return flow

    return build


@pytest.fixture
def fixed_scan() -> Callable[[ScanResult | Exception], Any]:
    """Make a scan port that always gives the same answer, or dies."""

    async def scan(answer: ScanResult | Exception, _body: bytes, _encoding: str) -> ScanResult:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return lambda answer: partial(scan, answer)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.ensure(tmp_path_factory.mktemp("ca") / "ca")


@pytest.fixture(scope="session")
def origins() -> pki.Identity:
    """The CA of the origins, which the host trusts."""
    return pki.authority("Test Origin CA")


@pytest.fixture
async def rig(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity
) -> AsyncIterator[Rig]:
    """The proxy with a policy that lets unscanned content pass, and small limits."""
    async with running(monkeypatch, authority, origins, max_body=4096) as running_rig:
        yield running_rig


@pytest.fixture
async def strict_rig(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity
) -> AsyncIterator[Rig]:
    """The proxy with a policy that refuses unscanned content, and small limits."""
    policy = Policy(unscanned=Action.BLOCK, on_failure="closed")
    async with running(
        monkeypatch, authority, origins, policy=policy, max_body=4096
    ) as running_rig:
        yield running_rig
