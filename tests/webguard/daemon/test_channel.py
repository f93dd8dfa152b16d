"""Messages between our processes: a worker that was taken over sends whatever it likes."""

import asyncio
import contextlib
import json
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.daemon import channel
from webguard.daemon.channel import LARGEST, Channel
from webguard.model import Container, Event, Severity

CONTAINER = Container(runtime="docker", id="a" * 64, started=5, pid=7, name="\x1b[2J\u202eshop")
EVENT = Event(id="1", at=2, kind="web.blocked", severity=Severity.HIGH, container=CONTAINER)
MESSAGES: list[channel.Message] = [
    channel.Ready(certificate=b"\x00\xff"),
    channel.Failed(message="no room"),
    channel.Known(cgroups=(1, 2), container=CONTAINER, gone=True),
    channel.Resolve(cgroup=2**63),
    channel.Resolved(cgroup=1, container=None),
    channel.Probed(port=1, host="::1"),
    channel.Handshake(runtime="docker", id="x", started=1),
    channel.Happened(event=EVENT),
    channel.Lost(count=3),
    channel.Count(served=1, direct=2, probes=3, open=4),
    channel.MintRequest(number=1, names=("a.test",), public_key=b"\x01"),
    channel.Minted(number=1, chain=b"pem"),
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
KINDS = [message.type for message in MESSAGES]


async def received(data: bytes) -> channel.Message | None:
    ours, theirs = channel.pair()
    with ours, theirs:
        theirs.send(data)
        return await Channel(ours).receive()


@pytest.mark.parametrize("message", MESSAGES, ids=KINDS)
async def test_a_message_arrives_as_it_was_sent(message: channel.Message) -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        assert Channel(theirs).send(message)
        assert await Channel(ours).receive() == message


@given(data=st.binary(min_size=1, max_size=300))
async def test_bytes_are_a_message_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert await received(data) is not None


@given(kind=st.sampled_from(KINDS), fields=st.dictionaries(st.text(max_size=8), values, max_size=5))
async def test_fields_of_any_kind_are_a_message_or_a_value_error(
    kind: str, fields: dict[str, object]
) -> None:
    with contextlib.suppress(ValueError):
        message = await received(json.dumps({**fields, "type": kind}).encode())
        assert message is not None
        assert message.type == kind


@given(message=st.sampled_from(MESSAGES), name=st.text(min_size=1), value=values)
async def test_a_field_more_or_other_is_never_passed_on(
    message: channel.Message, name: str, value: object
) -> None:
    fields = {**message.model_dump(mode="json"), name: value}
    try:
        taken = await received(json.dumps(fields).encode())
    except ValueError:
        return
    assert taken is not None
    assert name in type(taken).model_fields


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"type": "execute", "path": "/bin/sh"}', id="no such message"),
        pytest.param(b'{"type": "lost", "count": 1, "path": "/"}', id="a field too many"),
        pytest.param(b'{"type": "lost"}', id="a field too few"),
        pytest.param(b'{"type": "probed", "port": 1, "host": "' + b"h" * 65 + b'"}', id="too long"),
    ],
)
async def test_what_is_no_message_is_refused_and_the_next_one_taken(data: bytes) -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        end = Channel(ours)
        theirs.send(data)
        with pytest.raises(ValueError, match="not a message"):
            await end.receive()
        Channel(theirs).send(channel.Lost(count=1))
        assert await end.receive() == channel.Lost(count=1)


EVENT_OF = '{"type": "happened", "event": {"id": "1", "kind": "x", %s}}'
OF_CONTAINER = '"at": 1, "container": {"runtime": "", "id": "", "started": 1, "pid": 1, %s}'


@pytest.mark.parametrize(
    "data",
    [
        '{"type": "resolve", "cgroup": -1}',
        f'{{"type": "resolve", "cgroup": {2**64}}}',
        '{"type": "probed", "port": 65536, "host": ""}',
        '{"type": "probed", "port": -1, "host": ""}',
        f'{{"type": "lost", "count": {2**63}}}',
        '{"type": "count", "served": -1, "direct": 0, "probes": 0, "open": 0}',
        f'{{"type": "handshake", "runtime": "", "id": "", "started": {2**63}}}',
        f'{{"type": "applied", "generation": {2**63}}}',
        f'{{"type": "mint", "number": {2**63}, "names": [], "public_key": ""}}',
        EVENT_OF % '"at": -1',
        EVENT_OF % f'"at": {2**63}',
        EVENT_OF % f'"at": 1, "schema": {10**400}',
        EVENT_OF % f'"at": 1, "http": {{"status": {2**64}}}',
        EVENT_OF % (OF_CONTAINER % f'"cgroups": [{2**64}]'),
        EVENT_OF % (OF_CONTAINER % '"netns": -2'),
    ],
)
async def test_a_number_that_fits_nowhere_is_refused(data: str) -> None:
    with pytest.raises(ValueError, match="not a message"):
        await received(data.encode())


@pytest.mark.parametrize("turns", range(6))
async def test_a_reader_that_is_cancelled_takes_no_message_with_it(turns: int) -> None:
    """Whoever listens next gets it: an event of a worker that serves already, say."""
    ours, theirs = channel.pair()
    reading, writing = Channel(ours), Channel(theirs)
    first = asyncio.ensure_future(reading.receive())
    for _ in range(4):
        await asyncio.sleep(0)
    writing.send(MESSAGES[0])
    for _ in range(turns):
        await asyncio.sleep(0)
    first.cancel()
    (got,) = await asyncio.gather(first, return_exceptions=True)
    if isinstance(got, asyncio.CancelledError):
        async with asyncio.timeout(10):
            got = await reading.receive()
    ours.close()
    theirs.close()
    assert got == MESSAGES[0]


async def test_the_other_sides_end_is_the_end() -> None:
    ours, theirs = channel.pair()
    with ours:
        theirs.close()
        assert await Channel(ours).receive() is None
        assert not Channel(ours).send(channel.Lost(count=1))


def test_a_reader_that_does_not_read_costs_messages_and_holds_nobody() -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        end = Channel(ours)
        large = channel.Failed(message="x" * 4000)
        assert any(not end.send(large) for _ in range(10_000))


def test_a_message_over_the_limit_is_not_sent() -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        assert not Channel(ours).send(channel.Ready(certificate=b"x" * LARGEST))
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)


async def test_a_longer_datagram_than_any_of_ours_is_refused() -> None:
    ours, theirs = channel.pair()
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        theirs.send(b'{"type": "ready", "certificate": "' + b"A" * LARGEST + b'"}')
        with pytest.raises(ValueError, match="not a message"):
            await Channel(ours).receive()
