"""Scan the bodies of requests and responses before the other side sees them.

What is held, what passes and when policy is asked is decided by
`webguard.inspection`; this is its driver in mitmproxy. It tells an `Exchange`
what the hooks say, scans and records what it asks for, and lets pass what it
forwards.

mitmproxy logs whatever a hook raises and then delivers the flow as it stands.
So each hook first puts a refusal in the response's place and gives the
response back only when its end was forwarded: a bug here, in policy or in the
record can cost a user a page, but never lets one through unseen.

mitmproxy holds what is held. It is shown in one piece, at its end, or when it
has outgrown the limit (`addons.engine` asks); from then on piece by piece. What
streams is looked at in place, in parts of a bounded size: a layer cannot wait.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from mitmproxy import flow as flows
from mitmproxy import http

from addons.engine import PAGE
from addons.peers import Peers
from addons.report import answer, answered, http_facts, text, unfinished, url_of, web_event
from webguard import model
from webguard.inspection import values
from webguard.inspection.exchange import Exchange
from webguard.inspection.values import (
    Abort,
    Action,
    Body,
    End,
    Failed,
    Forward,
    Missed,
    Replace,
    RequestHead,
    ResponseHead,
    Scanned,
    Side,
    Tell,
    Upgraded,
)
from webguard.model import ENGINE, ScanResult, Unscanned
from webguard.ports import Decide, Look, Record, Scan, Stamp

_EXCHANGE = "webguard.exchange"
_MAX_BODY = 16 * 1024 * 1024

_log = logging.getLogger(__name__)


class BodyScan:
    """Replace what must not be delivered by a refusal."""

    def __init__(
        self, *, scan: Scan, look: Look, decide: Decide, record: Record, stamp: Stamp, peers: Peers
    ) -> None:
        self._scan = scan
        self._look = look
        self._decide = decide
        self._record = record
        self._stamp = stamp
        self._peers = peers
        self.max_body = _MAX_BODY
        """How much of each body is held, in exchanges that begin from now on."""

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Hook: the request's head has arrived. Whatever follows may be streamed."""
        if flow.error is None:  # else it is not valid HTTP: mitmproxy is about to refuse it
            self._gate(flow, Side.REQUEST, None)

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Hook: the response's head has arrived. What is streamed is judged now."""
        if flow.response is not None and not answered(flow):
            self._gate(flow, Side.RESPONSE, None)

    async def request(self, flow: http.HTTPFlow) -> None:
        """Hook: the whole request has arrived, and unless streamed none of it was sent on."""
        if flow.request.stream or flow.response is not None:  # refused by an addon before us
            return
        flow.response = unfinished(flow)
        flow.response = await self._whole(flow, flow.request)

    async def response(self, flow: http.HTTPFlow) -> None:
        """Hook: the whole response has arrived, and unless streamed none of it was delivered."""
        if flow.response is None or flow.response.stream or answered(flow):
            return
        held, flow.response = flow.response, unfinished(flow)
        flow.response = await self._whole(flow, held) or held

    def error(self, flow: http.HTTPFlow) -> None:
        """Hook: the exchange broke off."""
        self.exchange_of(flow).take(Failed())

    def limit_of(self, flow: http.HTTPFlow) -> int:
        """Return how much of each of this flow's bodies may be held."""
        return self.exchange_of(flow).limit

    def outgrown(self, flow: http.HTTPFlow, *, request: bool, held: bytes) -> Sequence[bytes]:
        """Return what of a body that cannot be held any more passes now.

        If it is refused the flow is killed, as by a hook. This and `ended` are called
        inside mitmproxy's layers, where an exception would take the connection with it.
        """
        return self._safely(self._gate, flow, Side.REQUEST if request else Side.RESPONSE, held)

    def ended(self, flow: http.HTTPFlow, *, request: bool) -> Sequence[bytes]:
        """Return what passes of a streamed body now that it has ended, or kill the flow."""
        side = Side.REQUEST if request else Side.RESPONSE
        return self._safely(self._stream, flow, End(side=side))

    def exchange_of(self, flow: http.HTTPFlow) -> Exchange:
        """Return what inspects this flow."""
        found = flow.metadata.get(_EXCHANGE)
        if not isinstance(found, Exchange):
            found = flow.metadata[_EXCHANGE] = Exchange(
                subject=url_of(flow),
                container=self._peers.of(flow.client_conn).container,
                decide=self._decide,
                limit=self.max_body,
            )
        return found

    def _gate(self, flow: http.HTTPFlow, side: Side, held: bytes | None) -> Sequence[bytes]:
        """Show a head, or what is held of a body; end the flow, have it streamed, or let it be."""
        # The refusal first: mitmproxy ends a flow with this error after the hook.
        flow.error = flows.Error(flows.Error.KILLED_MESSAGE)
        flow.metadata[PAGE] = unfinished(flow)
        message = flow.request if side is Side.REQUEST else flow.response
        if message is None:
            return ()
        actions = self._heads(flow, message)
        if held is not None:
            actions += self.exchange_of(flow).take(Body(side=side, data=held))
        actions = self._looked_at(flow, actions)
        if self._refused(flow, actions):
            return ()
        if any(isinstance(each, Forward) for each in actions):
            message.stream = partial(self._piece, flow, side)
        return _passing(actions)

    def _piece(self, flow: http.HTTPFlow, side: Side, data: bytes) -> Sequence[bytes]:
        """Return what passes now that this piece of a streamed body has come."""
        return self._safely(self._stream, flow, Body(side=side, data=data)) if data else ()

    def _stream(self, flow: http.HTTPFlow, given: Body | End) -> Sequence[bytes]:
        flow.error = flows.Error(flows.Error.KILLED_MESSAGE)
        flow.metadata[PAGE] = unfinished(flow)
        actions = self._looked_at(flow, self.exchange_of(flow).take(given))
        # Without an action the exchange is over, which mitmproxy should have known.
        return () if not actions or self._refused(flow, actions) else _passing(actions)

    def _looked_at(self, flow: http.HTTPFlow, actions: list[Action]) -> list[Action]:
        """Return all actions, with parts looked at until there are no more."""
        exchange, done = self.exchange_of(flow), list[Action]()
        while actions:
            done += actions
            parts = [each for each in actions if isinstance(each, values.Scan) and each.part]
            actions = []
            for part in parts:
                try:
                    result = self._look(part.content)
                except Exception as error:  # noqa: BLE001 - any failure at all is "not scanned"
                    result = _failure(error)
                actions += exchange.take(Scanned(ticket=part.ticket, result=result))
        return done

    def _refused(self, flow: http.HTTPFlow, actions: Sequence[Action]) -> bool:
        """Record, and leave the flow killed if it is refused; else let it live."""
        page = self._tell(flow, actions, None)
        if page is not None:
            flow.metadata[PAGE] = page
        if page is not None or any(isinstance(each, Abort) for each in actions):
            return True
        flow.error = None
        del flow.metadata[PAGE]
        return False

    @staticmethod
    def _safely[**P](
        what: Callable[P, Sequence[bytes]], *args: P.args, **kwargs: P.kwargs
    ) -> Sequence[bytes]:
        try:
            return what(*args, **kwargs)
        except Exception:  # noqa: BLE001 - a bug of any kind leaves the refusal in place
            _log.exception("no verdict on a body that streams")
            return ()

    async def _whole(
        self, flow: http.HTTPFlow, message: http.Request | http.Response
    ) -> http.Response | None:
        """Show a message that has come whole, and return the page to send in its place."""
        side = Side.REQUEST if isinstance(message, http.Request) else Side.RESPONSE
        exchange, content = self.exchange_of(flow), message.raw_content
        actions = self._heads(flow, message)
        if isinstance(message, http.Response) and message.status_code == 101:
            # Whether this connection may leave HTTP was asked by `addons.tunnels`.
            return None if exchange.take(Upgraded()) else unfinished(flow)
        if content is None:  # mitmproxy streamed it past us
            actions += exchange.take(Missed(side=side))
        elif content:
            actions += exchange.take(Body(side=side, data=content))
        actions += exchange.take(End(side=side))
        for wanted in [each for each in actions if isinstance(each, values.Scan)]:
            result = await self._look_at(wanted)
            actions += exchange.take(Scanned(ticket=wanted.ticket, result=result))
        page = self._tell(flow, actions, content)
        ended = any(isinstance(each, Forward) and each.what == End(side=side) for each in actions)
        return None if ended else page or unfinished(flow)

    def _heads(self, flow: http.HTTPFlow, message: http.Request | http.Response) -> list[Action]:
        """Show the heads that the exchange has not seen, up to this message's."""
        exchange, done = self.exchange_of(flow), list[Action]()
        if exchange.awaits(Side.REQUEST):
            done += exchange.take(
                RequestHead(
                    method=flow.request.method,
                    fields=_fields(flow.request),
                    framed=not flow.request.is_http2,
                )
            )
        if isinstance(message, http.Response) and exchange.awaits(Side.RESPONSE):
            done += exchange.take(ResponseHead(status=message.status_code, fields=_fields(message)))
        return done

    def _tell(
        self, flow: http.HTTPFlow, actions: Sequence[Action], body: bytes | None
    ) -> http.Response | None:
        """Record what is to be recorded, and return the page if there is to be one."""
        event_id = ""
        for each in actions:
            if isinstance(each, Tell):
                peer = self._peers.of(flow.client_conn)
                event = web_event(
                    stamp=self._stamp,
                    peer=peer,
                    facts=http_facts(flow, peer, status=each.status, body=_told(each, body)),
                    scan=each.scan,
                    verdict=each.verdict,
                    remedy=each.remedy,
                )
                if each.partly and each.verdict.action is not model.Action.ALLOW:
                    event = replace(event, outcome="partly delivered")
                event_id = event.id
                self._record(event)
            elif isinstance(each, Replace):
                return answer(flow, each.verdict, event_id, status=each.status)
        return None

    async def _look_at(self, wanted: values.Scan) -> ScanResult:
        """Scan the body. Whatever goes wrong is a reason, for policy to weigh."""
        try:
            return await self._scan(wanted.content, wanted.codings)
        except Exception as error:  # noqa: BLE001 - any failure at all is "not scanned"
            return _failure(error)


def _failure(error: Exception) -> ScanResult:
    reason = text(f"{type(error).__name__}: {error}", 300)
    return ScanResult(unscanned=(Unscanned(where=ENGINE, reason=reason),))


def _passing(actions: Sequence[Action]) -> list[bytes]:
    """Return the pieces of a body among what is forwarded."""
    forwarded = (each.what for each in actions if isinstance(each, Forward))
    return [each.data for each in forwarded if isinstance(each, Body)]


def _told(tell: Tell, body: bytes | None) -> bytes | None:
    return body if tell.side is Side.RESPONSE else None


def _fields(message: http.Request | http.Response) -> tuple[tuple[str, str], ...]:
    return tuple(message.headers.items(multi=True))
