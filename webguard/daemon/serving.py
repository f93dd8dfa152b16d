"""What a worker serves with: a mitmproxy master, our addons, and the settings in force.

The settings can be exchanged while it serves. A generation is read in a thread,
because long lists take many seconds, and applied between two events of the
loop, so every request is judged by one generation as a whole, and what cannot
be applied leaves the old one in force.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial

from mitmproxy import master, options, version
from mitmproxy.addons import core, disable_h2c, next_layer, proxyserver
from mitmproxy.connection import Client

from addons import engine
from addons.bodyscan import BodyScan
from addons.deadlines import Deadlines
from addons.engine import Handler
from addons.failures import Failures
from addons.listener import WebguardInstance
from addons.parting import Parting
from addons.peers import Peers
from addons.tls import Tls
from addons.tunnels import Tunnels
from webguard.daemon.clock import stamp
from webguard.daemon.links import Daemon, Signer
from webguard.daemon.settings import Settings
from webguard.errors import HostError, WebguardError
from webguard.model import Action, Question, ScanResult, Verdict
from webguard.policy.decide import decide
from webguard.ports import Mint
from webguard.scan.engine import Engine
from webguard.scan.hashes import Hashes

_DRAIN_LOOK = 0.05

# Without a byte on any side. Longer than the largest web.origin_timeout, which would not hold
# otherwise; with less, tunnels and WebSockets that rarely speak would be cut (RFC 5382 5).
_IDLE = 2 * 3600 + 4 * 60


class Serving:
    """The master and what it works by. Raises `HostError` or `ValueError` if it cannot be built."""

    def __init__(
        self, settings: Settings, scanner: Engine, roots: bytes, daemon: Daemon, signer: Signer
    ) -> None:
        self._settings = settings
        self._engine = scanner
        self.peers = Peers()
        self.master = master.Master(options.Options())
        check_engine(self.master.options)
        self.proxyserver = proxyserver.Proxyserver()
        record, peers, judge = daemon.record, self.peers, self._decide
        self._tls = Tls(
            mint=partial(_mint, signer),
            roots=roots,
            record=record,
            stamp=stamp,
            peers=peers,
            trusted=daemon.trusted,
        )
        self._bodies = BodyScan(
            scan=self._scan,
            look=self._look,
            decide=judge,
            record=record,
            stamp=stamp,
            peers=peers,
        )
        self._tunnels = Tunnels(decide=judge, record=record, stamp=stamp, peers=peers)
        engine.install(self._bodies, self._tunnels.bypasses)
        self._parting = Parting()
        self._deadlines = Deadlines(silence=settings.origin_timeout, handler_of=self._handler_of)
        self.master.addons.add(
            core.Core(),
            self.proxyserver,
            next_layer.NextLayer(),
            disable_h2c.DisableH2C(),
            self._tls,
            self._tunnels,
            self._bodies,
            Failures(decide=judge, record=record, stamp=stamp, peers=peers),
            self._deadlines,
            self._parting,
        )
        self.master.options.update(server=False, connection_strategy="eager", tcp_timeout=_IDLE)
        self._use(settings)

    async def configure(self, descriptors: tuple[int, ...]) -> str:
        """Work by other settings, rules and roots; return why not, "" if it is done."""
        try:
            settings_file, rules_file, roots_file = descriptors
            settings, hashes = await asyncio.to_thread(_read, settings_file)
            self._tls.trust(whole(roots_file))
            self._engine.swap(
                whole(rules_file),
                hashes=hashes,
                generation=settings.policy.generation,
            )
        except (WebguardError, ValueError, OSError) as error:
            return str(error) or type(error).__name__
        self._use(settings)
        # A tunnel has no next request that could be judged by them.
        self._drop(self._tunnels.outdated)
        logging.getLogger().setLevel(settings.log_level.upper())
        return ""

    async def drain(self, instance: WebguardInstance, seconds: float) -> None:
        """Accept nothing more, and wait for the open connections to end, but not longer."""
        await instance.stop()
        self._parting.draining = True
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        # Those too whose owner is still being asked for, and who are nobody's peers yet.
        while instance.open and loop.time() < until:
            self._drop(self._done)
            await asyncio.sleep(_DRAIN_LOOK)

    def cut(self) -> None:
        """End every connection now."""
        self._drop(lambda _client: True)

    def _done(self, client: Client) -> bool:
        # What is under way in a connection that we do not read, we do not know.
        return self._parting.idle(client.id) and not self._tunnels.bypasses(client)

    def _drop(self, which: Callable[[Client], bool]) -> None:
        for handler in list(self.proxyserver.connections.values()):
            if isinstance(handler, Handler) and which(handler.client):
                handler.drop(handler.client)

    def _use(self, settings: Settings) -> None:
        self._settings = settings
        policy = settings.policy
        # For one group is enough: what is stricter refuses it for itself.
        allowed = Action.ALLOW in (policy.unscanned, *(each.unscanned for each in policy.groups))
        self._bodies.max_body = settings.max_body
        self._deadlines.silence = settings.origin_timeout
        self.master.options.update(rawtcp=allowed)

    def _decide(self, question: Question) -> Verdict:
        return decide(self._settings.policy, question)

    async def _scan(self, body: bytes, encoding: str) -> ScanResult:
        return await self._engine.scan(body, encoding)

    def _look(self, part: bytes) -> ScanResult:
        return self._engine.look(part)

    def _handler_of(self, client_id: str) -> Handler | None:
        found = self.proxyserver.connections.get(client_id)
        return found if isinstance(found, Handler) else None


def whole(descriptor: int) -> bytes:
    """Return all of a sealed memory file. Others read the same one: use no offset."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _read(descriptor: int) -> tuple[Settings, Hashes]:
    """Return settings and what is derived from them. Of long lists both take many seconds."""
    settings = Settings.model_validate_json(whole(descriptor))
    return settings, hashes_of(settings)


def hashes_of(settings: Settings) -> Hashes:
    """Return what the policy's hash lists look for."""
    return Hashes((each.name, each.entries) for each in settings.policy.hashes)


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
