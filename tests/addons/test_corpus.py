"""The corpus of `webguard.inspection`, by sockets through the whole proxy.

What an end sees is derived from what the core does: a driver adds nothing to it.
"""

import asyncio
from collections.abc import Iterable, Sequence

import pytest

from certs.authority import Authority
from tests.addons.rig import Rig, running
from tests.system.host import pki
from tests.webguard.inspection.corpus import CASES, Case
from tests.webguard.inspection.inputs import LIMIT, inspected, run
from webguard.inspection.values import (
    Abort,
    Action,
    Body,
    End,
    Forward,
    Head,
    Input,
    Replace,
    RequestHead,
    ResponseHead,
    Side,
    Tell,
)

pytestmark = pytest.mark.slow


class Origin:
    """A server that answers what the case says, and keeps what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads = 0
        self.body = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads += 1
            length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
            self.body = await reader.readexactly(int(length or 0))
            writer.write(self.answer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def on_the_wire(given: Iterable[Input], side: Side) -> bytes:
    """Write down one message of a case as an end sends it."""
    sent, chunked = b"", False
    for each in given:
        if isinstance(each, RequestHead) and side is Side.REQUEST:
            sent += _head(f"{each.method} / HTTP/1.1\r\nHost: good.test\r\nConnection: close", each)
        elif isinstance(each, ResponseHead) and side is Side.RESPONSE:
            chunked = ("Transfer-Encoding", "chunked") in each.fields
            sent += _head(f"HTTP/1.1 {each.status} Whatever", each)
        elif isinstance(each, Body) and each.side is side:
            sent += b"%x\r\n%s\r\n" % (len(each.data), each.data) if chunked else each.data
    return sent + (b"0\r\n\r\n" if chunked else b"")


def _head(line: str, head: Head) -> bytes:
    lines = [line, *(f"{name}: {value}" for name, value in head.fields), "", ""]
    return "\r\n".join(lines).encode()


def unchunked(body: bytes) -> bytes:
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        found, body = found + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return found


def bodies(done: Sequence[Action], side: Side) -> bytes:
    passed = [each.what for each in done if isinstance(each, Forward)]
    return b"".join(each.data for each in passed if isinstance(each, Body) and each.side is side)


def check_answer(answer: bytes, done: Sequence[Action], rig: Rig) -> None:
    if any(isinstance(each, Abort) for each in done):
        assert answer == b"", "a reset"
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    match [each for each in done if isinstance(each, Replace)]:
        case [page]:
            assert status == page.status
            assert rig.recorded[-1].id.encode() in head
        case _:
            (passed,) = (
                each.what
                for each in done
                if isinstance(each, Forward) and isinstance(each.what, ResponseHead)
            )
            assert status == passed.status
            chunked = b"transfer-encoding: chunked" in head.lower()
            assert (unchunked(body) if chunked else body) == bodies(done, Side.RESPONSE)


@pytest.mark.parametrize("case", [each for each in CASES if each.wire], ids=lambda case: case.name)
async def test_mitmproxy_does_what_the_core_says(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, origins: pki.Identity, case: Case
) -> None:
    done = run(inspected(case.policy), *case.given)
    origin = Origin(on_the_wire(case.given, Side.RESPONSE))
    async with running(monkeypatch, authority, origins, policy=case.policy, max_body=LIMIT) as rig:
        await rig.serve(origin.serve)
        answer = await rig.ask(on_the_wire(case.given, Side.REQUEST))
        told = [each for each in done if isinstance(each, Tell)]
        assert [(each.verdict, each.scan) for each in rig.recorded] == [
            (each.verdict, each.scan) for each in told
        ]
        check_answer(answer, done, rig)
    asked = [each.what for each in done if isinstance(each, Forward)]
    assert origin.heads == (End(side=Side.REQUEST) in asked)
    assert origin.body == bodies(done, Side.REQUEST)
