"""A client without SNI checks its leaf once; every server that follows must be worth that check."""

import asyncio
import gc
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.addons.rig import PATIENCE, Rig, get, origin_tls, response
from tests.system.host import pki

pytestmark = pytest.mark.slow

ASK = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"


async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer one request, and close: the next one needs another connection."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(response(b"from a server"))
    await writer.drain()
    writer.close()


def one_after_another(folder: Path, *identities: pki.Identity) -> ssl.SSLContext:
    """A server that shows another certificate each time."""
    contexts = [origin_tls(each, folder) for each in identities]

    def choose(connection: ssl.SSLObject, _name: str | None, _first: ssl.SSLContext) -> None:
        connection.context = contexts.pop(0)

    first = origin_tls(identities[0], folder)
    first.sni_callback = choose
    return first


def nameless(rig: Rig) -> ssl.SSLContext:
    context = rig.client_tls()
    context.check_hostname = False  # as for an address: without SNI
    return context


async def ask_twice(rig: Rig) -> tuple[bytes, bytes]:
    """Two requests on one connection, and what came back for the second one's."""
    reader, writer = await rig.connect(nameless(rig), "")
    async with asyncio.timeout(PATIENCE):
        writer.write(ASK)
        first = await reader.readuntil(b"from a server")
        (handler,) = rig.serving.proxyserver.connections.values()
        while len(handler.transports) > 1:  # noqa: ASYNC110 - the first server's is still open
            await asyncio.sleep(0.01)
        writer.write(get())
        return first, await reader.read()


@pytest.fixture
def certified(origins: pki.Identity) -> Callable[..., pki.Identity]:
    return lambda *names: pki.server(*names, issuer=origins)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(("a.test",), ("evil.test",), id="another name"),
        pytest.param(("a.test", "b.test"), ("b.test",), id="one of two: perhaps not the checked"),
        pytest.param(("*.a.test",), ("evil.test",), id="nothing was proved before"),
        pytest.param(("*.a.test",), ("*.a.test",), id="the same wildcard of another key"),
    ],
)
async def test_another_server_does_not_answer_under_the_names_of_the_first(
    rig: Rig,
    tmp_path: Path,
    certified: Callable[..., pki.Identity],
    first: tuple[str, ...],
    then: tuple[str, ...],
) -> None:
    await rig.serve(once, tls=one_after_another(tmp_path, certified(*first), certified(*then)))
    _, second = await ask_twice(rig)
    assert second.startswith(b"HTTP/1.1 502")
    assert b"from a server" not in second
    event = await rig.event("web.blocked")
    assert "certificate" in (event.verdict.reason if event.verdict else "")


async def test_the_same_certificate_goes_on_whatever_it_names(
    rig: Rig, tmp_path: Path, certified: Callable[..., pki.Identity]
) -> None:
    same = certified("*.a.test")
    await rig.serve(once, tls=one_after_another(tmp_path, same, same))
    _, second = await ask_twice(rig)
    assert second.endswith(b"from a server")


async def test_a_renewed_certificate_of_the_same_names_goes_on(
    rig: Rig, tmp_path: Path, certified: Callable[..., pki.Identity]
) -> None:
    before, after = certified("a.test", "127.0.0.1"), certified("127.0.0.1", "c.test", "a.test")
    await rig.serve(once, tls=one_after_another(tmp_path, before, after))
    _, second = await ask_twice(rig)
    assert second.endswith(b"from a server")


async def test_a_bad_chain_stays_bad(
    rig: Rig, tmp_path: Path, certified: Callable[..., pki.Identity]
) -> None:
    forged = pki.server("a.test", issuer=pki.authority("Unknown CA"))
    await rig.serve(once, tls=one_after_another(tmp_path, certified("a.test"), forged))
    _, second = await ask_twice(rig)
    assert second.startswith(b"HTTP/1.1 502")


async def test_nothing_is_remembered_of_a_connection_that_ended(
    rig: Rig, tmp_path: Path, certified: Callable[..., pki.Identity]
) -> None:
    await rig.serve(once, tls=origin_tls(certified("a.test"), tmp_path))
    assert (await rig.ask(get(), nameless(rig))).endswith(b"from a server")
    async with asyncio.timeout(PATIENCE):
        while rig.instance.open:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    gc.collect()
    assert not rig.serving.master.addons.get("tls")._proofs
