"""Containers of several groups in one proxy: what one may have, another may not."""

from collections.abc import AsyncIterator

import pytest

from certs.authority import Authority
from tests.addons.rig import Rig, answers, get, response, running
from tests.system.host import pki
from webguard.model import Action, Container
from webguard.policy.decide import Policy
from webguard.policy.groups import Group, Match

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
