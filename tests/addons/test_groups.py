"""Containers of several groups in one proxy: what one may have, another may not."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy.proxy.server_hooks import ClientConnectedHook
from mitmproxy.test import taddons, tflow

from addons.tunnels import Tunnels
from certs.authority import Authority
from tests.addons.rig import EVIL, PATIENCE, Rig, answers, get, origin_tls, response, running
from tests.system.host import pki
from webguard.daemon.children import sealed
from webguard.model import Action, Container, Question, Verdict
from webguard.policy.decide import Policy
from webguard.policy.groups import Group, Match
from webguard.policy.urls import Kind, UrlList
from webguard.scan.engine import Engine, compile_rules

STRICT = Group(name="strict", match=Match(names=("strict-*",)), unscanned=Action.BLOCK)
LIMIT = 4096
LARGE = b"y" * (3 * LIMIT)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%s\r\n" % (LIMIT, b"y" * LIMIT) for _ in range(3))
    + b"0\r\n\r\n"
)


def named(name: str) -> Container:
    return Container(runtime="docker", id="c" * 64, started=1, pid=1, name=name)


@pytest.fixture
async def mixed_rig(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity
) -> AsyncIterator[Rig]:
    policy = Policy(groups=(STRICT,))
    async with running(monkeypatch, authority, origins, policy=policy, max_body=LIMIT) as rig:
        yield rig


@pytest.mark.parametrize(
    "answer", [response(LARGE), CHUNKED], ids=["with its length", "chunked, without"]
)
async def test_what_was_not_scanned_reaches_only_the_group_that_allows_it(
    mixed_rig: Rig, answer: bytes
) -> None:
    await mixed_rig.serve(answers(answer))

    mixed_rig.container = named("strict-shop")
    strict = await mixed_rig.ask(get())
    mixed_rig.container = named("shop")
    lenient = await mixed_rig.ask(get())

    assert strict.split()[1] == b"403"
    assert b"yyy" not in strict
    assert lenient.split()[1] == b"200"
    assert lenient.count(b"y") == len(LARGE)
    kinds = [each.kind for each in mixed_rig.recorded]
    assert kinds == ["web.blocked", "web.unscanned"]


async def test_a_large_upload_reaches_the_server_only_from_the_group_that_allows_it(
    mixed_rig: Rig,
) -> None:
    await mixed_rig.serve(answers(response(b"thanks")))
    request = get("/", f"Content-Length: {len(LARGE)}", method="POST") + LARGE

    mixed_rig.container = named("strict-shop")
    strict = await mixed_rig.ask(request)

    assert strict.split()[1] == b"413"
    assert b"thanks" not in strict


async def test_a_group_that_is_not_protected_speaks_with_the_server_itself(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity, tmp_path: Path
) -> None:
    off = Group(name="off", match=Match(names=("bank",)), enabled=False, unscanned=Action.BLOCK)
    server = origin_tls(pki.server("good.test", issuer=origins), tmp_path)
    trusting = ssl.create_default_context(cadata=origins.pem)
    async with running(monkeypatch, authority, origins, policy=Policy(groups=(off,))) as rig:
        await rig.serve(answers(response(EVIL)), tls=server)
        rig.container = named("bank")
        assert (await rig.ask(get(), trusting, "good.test")).endswith(EVIL)
        rig.container = named("shop")
        assert EVIL not in await rig.ask(get(), rig.client_tls(), "good.test")
        told = [(each.kind, each.outcome, each.verdict) for each in rig.recorded]

    assert [(kind, outcome) for kind, outcome, _ in told] == [
        ("web.unscanned", "tunnelled"),
        ("web.blocked", "not delivered"),
    ]
    assert [verdict.action for _, _, verdict in told if verdict] == [Action.BYPASS, Action.BLOCK]


async def test_such_a_group_gets_what_is_no_http_and_whoever_speaks_first(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00banner")
        writer.write(await reader.read())  # until the client has said all
        writer.close()

    async with running(monkeypatch, authority, origins, policy=Policy(enabled=False)) as rig:
        await rig.serve(serve)
        reader, writer = await rig.connect()
        async with asyncio.timeout(PATIENCE):
            assert await reader.readexactly(7) == b"\x00banner"
            writer.write(b"GET nonsense")
            writer.write_eof()
            assert await reader.read() == b"GET nonsense"


async def test_a_server_of_such_a_group_that_cannot_be_reached_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity
) -> None:
    async with running(monkeypatch, authority, origins, policy=Policy(enabled=False)) as rig:
        assert await rig.ask(get()) == b""


async def test_a_bug_in_policy_bypasses_nothing(world: Any) -> None:
    def broken(question: Question) -> Verdict:
        raise ZeroDivisionError

    addon, client = Tunnels(**{**world.ports(), "decide": broken}), tflow.tclient_conn()
    with taddons.context(addon) as context:
        await context.master.addons.trigger_event(ClientConnectedHook(client))
    assert not addon.bypasses(client)


def test_what_is_remembered_of_a_bypass_goes_with_the_connection(world: Any) -> None:
    world.policy = Policy(enabled=False)
    addon, client = Tunnels(**world.ports()), tflow.tclient_conn()
    addon.client_connected(client)
    assert (addon.bypasses(client), addon.outdated(client)) == (True, False)
    world.policy = Policy()
    assert addon.outdated(client)
    addon.client_disconnected(client)
    assert not addon.bypasses(client)


async def test_the_loop_goes_on_while_other_settings_are_read(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity
) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    hosts = tuple(f"host{each}.example" for each in range(5000))
    policy = Policy(lists=(UrlList(name="ads", kind=Kind.BLOCKED, entries=hosts),))
    async with running(monkeypatch, authority, origins) as rig:
        rig.serving._engine = Engine(compile_rules({}))
        told = rig.serving._settings.model_copy(update={"policy": policy}).model_dump_json()
        files = sealed("settings", told.encode()), sealed("rules", compile_rules({}))
        roots = sealed("roots", origins.pem.encode())
        turning = asyncio.ensure_future(turn())
        await asyncio.sleep(0)
        assert await rig.serving.configure((*files, roots)) == ""
        turning.cancel()
        assert rig.serving._settings.policy == policy
    assert turns > 1
    for each in (*files, roots):
        os.close(each)
