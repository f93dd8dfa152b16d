"""webguard-proxy: the unprivileged process that terminates TLS and parses HTTP.

Everything hostile ends up here, so this process holds nothing worth having: no
capability, no CA key, no file it may write. What it works with is inherited:
listening sockets, a channel to the daemon, one to the signer, and three sealed
descriptors (settings, scan rules, upstream roots). It reads no path of its own.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

from mitmproxy import master, options, version
from mitmproxy.addons import core, disable_h2c, next_layer, proxyserver

from addons import engine
from addons.bodyscan import BodyScan
from addons.deadlines import Deadlines
from addons.engine import Handler
from addons.failures import Failures
from addons.identify import Owners
from addons.listener import WebguardInstance
from addons.peers import Peers
from addons.sockdiag import Endpoint, SockDiag
from addons.tls import Tls
from addons.tunnels import Tunnels
from webguard.daemon import channel
from webguard.daemon.channel import Channel
from webguard.daemon.clock import stamp
from webguard.daemon.settings import Settings
from webguard.errors import HostError, WebguardError
from webguard.host import bind_to_parent
from webguard.model import Action, Container, Event
from webguard.policy.decide import decide
from webguard.ports import Mint
from webguard.scan.engine import Engine

log = logging.getLogger(__name__)

_COUNT_EVERY = 1.0
_MINT_TIMEOUT = 5.0
_TRUSTED_EVERY = 1.0
_CONTAINERS = 10_000


class Signer:
    """The worker's side of `Mint`: one question at a time in flight per number."""

    def __init__(self, end: Channel) -> None:
        self._end = end
        self._waiting: dict[int, asyncio.Future[channel.Minted]] = {}
        # A predecessor's answers may still be in the pipe: start at a number it never used.
        self._number = int.from_bytes(os.urandom(6))

    async def mint(self, block_page: bool, names: tuple[str, ...], public_key: bytes) -> bytes:
        """Return a PEM chain. Raises `HostError` when the signer refuses or does not answer."""
        self._number += 1
        number = self._number
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            asked = channel.MintRequest(
                number=number, names=names, public_key=public_key, block_page=block_page
            )
            if not self._end.send(asked):
                raise HostError("ask the signer", "it does not read", "see webguard status")
            async with asyncio.timeout(_MINT_TIMEOUT):
                said = await answer
        except TimeoutError as error:
            raise HostError("ask the signer", "no answer", "see webguard status") from error
        finally:
            del self._waiting[number]
        if said.refused:
            raise HostError("ask the signer", said.refused, "see the signer's log")
        return bytes(said.chain)

    async def listen(self) -> None:
        """Hand answers to those who wait for them, for as long as there is a signer."""
        while (message := await self._end.receive()) is not None:
            if isinstance(message, channel.Minted):
                waiting = self._waiting.get(message.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)


class Daemon:
    """The worker's side of its channel to the daemon."""

    def __init__(self, end: Channel) -> None:
        self._end = end
        self._lost = 0
        self._asked: dict[int, asyncio.Future[Container | None]] = {}
        self._trusted: dict[tuple[str, str, int], float] = {}

    def record(self, event: Event) -> None:
        """Send an event. What cannot be sent is counted, and told as soon as possible."""
        if self._lost and self._end.send(channel.Lost(count=self._lost)):
            self._lost = 0
        if not self._end.send(channel.Happened(event=event)):
            self._lost += 1

    def trusted(self, container: Container) -> None:
        """Tell, once a second at most, that a client in this container accepted a leaf of ours."""
        now = time.monotonic()
        if now - self._trusted.get(container.key, 0.0) < _TRUSTED_EVERY:
            return
        if len(self._trusted) > _CONTAINERS:
            self._trusted.clear()
        seen = channel.Handshake(
            runtime=container.runtime, id=container.id, started=container.started
        )
        if self._end.send(seen):
            self._trusted[container.key] = now

    def probed(self, cgroup: int, client: Endpoint, _wanted: Endpoint, *, probe: int) -> bool:
        """Report a connection of the self-test's; false if it is not one."""
        if cgroup != probe:
            return False
        self._end.send(channel.Probed(port=client[1], host=client[0]))
        return True

    async def whose(self, cgroup: int) -> Container | None:
        """Ask whose cgroup this is. Connections that ask for the same one share the question."""
        if (asked := self._asked.get(cgroup)) is None:
            asked = self._asked[cgroup] = asyncio.get_running_loop().create_future()
            asked.add_done_callback(lambda _: self._asked.pop(cgroup, None))
            if not self._end.send(channel.Resolve(cgroup=cgroup)):
                asked.set_result(None)
        return await asyncio.shield(asked)

    async def listen(self, owners: Owners) -> None:
        """Take what the daemon says until it is gone."""
        while (message := await self._end.receive()) is not None:
            match message:
                case channel.Known(gone=True):
                    owners.forget(message.container)
                case channel.Known():
                    owners.learn((each, message.container) for each in message.cgroups)
                case channel.Resolved():
                    asked = self._asked.get(message.cgroup)
                    if asked is not None and not asked.done():
                        asked.set_result(message.container)
                case _:
                    log.warning("the daemon sent %s, which is not for a worker", message.type)

    async def count(self, instance: WebguardInstance, peers: Peers) -> None:
        """Report the counters every second: a worker that hangs is noticed by its silence."""
        while True:
            counters = instance.counters
            self._end.send(
                channel.Count(
                    served=counters.served,
                    direct=counters.direct,
                    probes=counters.probes,
                    open=len(peers),
                )
            )
            await asyncio.sleep(_COUNT_EVERY)

    def say(self, message: channel.Message) -> None:
        """Send a message about ourselves."""
        self._end.send(message)


def build(
    settings: Settings, scanner: Engine, roots: bytes, daemon: Daemon, signer: Signer
) -> tuple[master.Master, Peers, Callable[[str], Handler | None]]:
    """Return a mitmproxy master with our addons, in the order in which they run."""
    engine.install()
    opts = options.Options()
    whole = master.Master(opts)
    peers = Peers()
    server = proxyserver.Proxyserver()

    def handler_of(client_id: str) -> Handler | None:
        found = server.connections.get(client_id)
        return found if isinstance(found, Handler) else None

    judge = partial(decide, settings.policy)
    bodies = BodyScan(
        scan=scanner.scan, decide=judge, record=daemon.record, stamp=stamp, peers=peers
    )
    allowed = settings.policy.unscanned is Action.ALLOW
    bodies.stream_endless = allowed
    whole.addons.add(
        core.Core(),
        server,
        next_layer.NextLayer(),
        disable_h2c.DisableH2C(),
        Tls(
            mint=partial(_mint, signer),
            roots=roots,
            record=daemon.record,
            stamp=stamp,
            peers=peers,
            trusted=daemon.trusted,
        ),
        Tunnels(decide=judge, record=daemon.record, stamp=stamp, peers=peers),
        bodies,
        Failures(decide=judge, record=daemon.record, stamp=stamp, peers=peers),
        Deadlines(silence=settings.origin_timeout, handler_of=handler_of),
    )
    limit = str(settings.max_body)
    opts.update(
        server=False,  # ours listens on inherited sockets
        connection_strategy="eager",
        rawtcp=allowed,
        # One of the two: pass the body on unscanned, or end the exchange.
        stream_large_bodies=limit if allowed else None,
        body_size_limit=None if allowed else limit,
    )
    return whole, peers, handler_of


def _mint(signer: Signer, block_page: bool) -> Mint:
    return partial(signer.mint, block_page)


def check_engine(opts: options.Options) -> None:
    """Refuse a mitmproxy that is not the one we pinned, or that can sign with a leaked CA."""
    remedy = "install the versions in requirements.lock"
    if version.VERSION != engine.REQUIRED_VERSION:
        raise HostError(
            "use mitmproxy", f"found {version.VERSION}, not {engine.REQUIRED_VERSION}", remedy
        )
    if any("emudhra" in name for name in opts.keys()):  # noqa: SIM118 - not a dict
        raise HostError("use mitmproxy", "it carries a compromised CA", remedy)


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until the daemon goes away."""
    end = channel.inherited(arguments.daemon)
    daemon, signer = Daemon(end), Signer(channel.inherited(arguments.signer))
    try:
        settings = Settings.model_validate_json(_whole(arguments.settings))
        logging.getLogger().setLevel(settings.log_level.upper())
        scanner = Engine(_whole(arguments.rules))
        whole, peers, _handlers = build(settings, scanner, _whole(arguments.roots), daemon, signer)
        check_engine(whole.options)
    except (WebguardError, ValueError, OSError) as error:
        end.send(channel.Failed(message=str(error)[:4000]))
        raise SystemExit(1) from error
    owners = Owners(ask=daemon.whose, diag=SockDiag())
    instance = WebguardInstance(
        whole.addons.get("proxyserver"),
        sockets=[socket.socket(fileno=each) for each in arguments.listen],
        owner=owners.owner,
        probed=partial(daemon.probed, probe=settings.probe_cgroup),
        peers=peers,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(whole.run())
        await instance.start()
        tasks.create_task(signer.listen())
        daemon.say(channel.Ready())
        tasks.create_task(daemon.count(instance, peers))
        await daemon.listen(owners)
        raise SystemExit(0)  # the daemon closed its end: stop serving at once


def _whole(descriptor: int) -> bytes:
    """Return all of a sealed memory file. Our successor reads the same one: use no offset."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def main() -> None:
    """Run as `python -P -m webguard.daemon.worker`, by the supervisor only."""
    parser = argparse.ArgumentParser(prog="webguard-proxy")
    parser.add_argument("--parent", type=int, required=True)
    for name in ("daemon", "signer", "settings", "rules", "roots"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--listen", type=int, action="append", required=True)
    arguments = parser.parse_args()
    bind_to_parent(arguments.parent)
    logging.basicConfig(stream=sys.stderr, format="webguard-proxy: %(levelname)s: %(message)s")
    # mitmproxy narrates every connection; our events do that.
    logging.getLogger("mitmproxy").setLevel(logging.ERROR)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments))


if __name__ == "__main__":
    main()
