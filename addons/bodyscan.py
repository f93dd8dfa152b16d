"""Scan the bodies of requests and responses before the other side sees them.

mitmproxy logs whatever a hook raises and then delivers the flow as it stands.
So each hook first puts a refusal in the response's place and gives the
response back only on a verdict that allows it: a bug here, in policy or in the
record can cost a user a page, but never lets one through unseen.

A body over `web.max_body` is not held whole. Where policy lets unscanned
content pass, mitmproxy streams it, and all that is left is to say so: at its
head where that is known to be streamed, else at its end, however it ends. Where
policy does not, mitmproxy ends the exchange and `addons.failures` answers.
"""

import re
from dataclasses import replace

from mitmproxy import flow as flows
from mitmproxy import http

from addons.engine import PAGE
from addons.peers import Peers
from addons.report import answer, answered, http_facts, text, unfinished, url_of, web_event
from webguard.model import ENGINE, Action, Question, ScanResult, Stage, Unscanned
from webguard.ports import Decide, Record, Scan, Stamp

STREAMED = "larger than web.max_body, or a stream without end"
PARTIAL = "a part of it only (206 Partial Content)"

# These are answers without end by design: holding them back would hang the client.
_ENDLESS = re.compile(
    r"\s*(text/event-stream|application/grpc([+-][\w.+-]+)?)\s*(;|$)", re.IGNORECASE
)
_WHOLE = re.compile(r"bytes 0-(\d+)/(\d+)")

_TOLD = "webguard.streamed"


class BodyScan:
    """Replace what must not be delivered by a refusal."""

    def __init__(
        self, *, scan: Scan, decide: Decide, record: Record, stamp: Stamp, peers: Peers
    ) -> None:
        self._scan = scan
        self._decide = decide
        self._record = record
        self._stamp = stamp
        self._peers = peers
        self.stream_endless = False  # policy lets unscanned content pass

    def responseheaders(self, flow: http.HTTPFlow) -> None:
        """Hook: the response's head has arrived.

        What is streamed is judged now, because its end may never come.
        """
        if flow.response is None:
            return
        if self.stream_endless and _endless(flow.request, flow.response):
            flow.response.stream = True
        if not flow.response.stream:
            return
        flow.metadata[_TOLD] = True
        # The refusal first: mitmproxy ends a flow with this error after the hook.
        flow.error = flows.Error(flows.Error.KILLED_MESSAGE)
        flow.metadata[PAGE] = unfinished(flow)
        refused = self._judge(flow, Stage.RESPONSE, _unseen(STREAMED), flow.response)
        if refused is None:
            flow.error = None
            del flow.metadata[PAGE]
        else:
            flow.metadata[PAGE] = refused

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        """Hook: the request's head has arrived.

        The address is judged now where a body follows: that may be streamed to the
        server long before it ends.
        """
        headers = flow.request.headers
        if flow.error is not None:  # not valid HTTP: mitmproxy is about to refuse it
            return
        if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
            return
        flow.error = flows.Error(flows.Error.KILLED_MESSAGE)
        flow.metadata[PAGE] = unfinished(flow)
        refused = self._judge(flow, Stage.REQUEST, ScanResult(), None)
        if refused is None:
            flow.error = None
            del flow.metadata[PAGE]
        else:
            flow.metadata[PAGE] = refused

    async def request(self, flow: http.HTTPFlow) -> None:
        """Hook: the whole request has arrived, and unless streamed none of it was sent on."""
        if flow.request.raw_content is None:  # streamed, that is: sent on already
            self._judge(flow, Stage.REQUEST, _unseen(STREAMED), None)
            return
        if flow.response is not None:  # refused by an addon before us
            return
        flow.response = unfinished(flow)
        # Without a body, too: policy may have a word on the address.
        scan = await self._look_at(flow.request) if flow.request.raw_content else ScanResult()
        flow.response = self._judge(flow, Stage.REQUEST, scan, None)

    async def response(self, flow: http.HTTPFlow) -> None:
        """Hook: the whole response has arrived, and unless streamed none of it was delivered."""
        if flow.response is None or answered(flow):
            return
        if flow.response.raw_content is None and _TOLD in flow.metadata:
            return
        held, flow.response = flow.response, unfinished(flow)
        refused = self._judge(flow, Stage.RESPONSE, await self._look_at(held), held)
        flow.response = refused or held

    def error(self, flow: http.HTTPFlow) -> None:
        """Hook: the exchange broke off. What was streamed up to then has been delivered."""
        if flow.request.stream and flow.request.timestamp_end is None:
            self._judge(flow, Stage.REQUEST, _unseen(STREAMED), None)
        if flow.response is not None and flow.response.stream and _TOLD not in flow.metadata:
            self._judge(flow, Stage.RESPONSE, _unseen(STREAMED), flow.response)

    def _judge(
        self,
        flow: http.HTTPFlow,
        stage: Stage,
        scan: ScanResult,
        held: http.Response | None,
    ) -> http.Response | None:
        """Ask policy, record, and return the refusal to send, or None to let it pass."""
        peer = self._peers.of(flow.client_conn)
        failure = next((each.reason for each in scan.unscanned if each.where == ENGINE), "")
        verdict = self._decide(
            Question(
                stage=stage,
                subject=url_of(flow),
                container=peer.container,
                scan=scan,
                failure=failure,
            )
        )
        blocked = verdict.action is not Action.ALLOW
        if stage is Stage.REQUEST and not blocked and not scan.unscanned:
            return None  # a clean upload is told by its response's event
        facts = http_facts(
            flow,
            peer,
            status=held.status_code if held else 0,
            body=held.raw_content if held else None,
        )
        event = web_event(stamp=self._stamp, peer=peer, facts=facts, scan=scan, verdict=verdict)
        self._record(event)
        return answer(flow, verdict, event.id) if blocked else None

    async def _look_at(self, message: http.Request | http.Response) -> ScanResult:
        """Scan the body. Whatever goes wrong is a reason, for policy to weigh."""
        content = message.raw_content
        if content is None:  # mitmproxy streamed it past us
            return _unseen(STREAMED)
        try:
            scan = await self._scan(content, _codings(message.headers))
        except Exception as error:  # noqa: BLE001 - any failure at all is "not scanned"
            reason = text(f"{type(error).__name__}: {error}", 300)
            return ScanResult(unscanned=(Unscanned(where=ENGINE, reason=reason),))
        if isinstance(message, http.Response) and _partial(message):
            # Cut in two, no half of a signature matches.
            part = Unscanned(where="body", reason=PARTIAL)
            return replace(scan, unscanned=(*scan.unscanned, part))
        return scan


def _unseen(reason: str) -> ScanResult:
    return ScanResult(unscanned=(Unscanned(where="body", reason=reason),))


def _endless(request: http.Request, response: http.Response) -> bool:
    """Return whether this answer comes without end: then it has no length, and it has a body."""
    return (
        _ENDLESS.match(response.headers.get("content-type", "")) is not None
        and "content-length" not in response.headers
        and request.method.upper() != "HEAD"
    )


def _partial(response: http.Response) -> bool:
    if response.status_code != 206:
        return False
    whole = _WHOLE.fullmatch(response.headers.get("content-range", "").strip())
    return whole is None or int(whole[1][:18]) + 1 != int(whole[2][:18])


def _codings(headers: http.Headers) -> str:
    """Return how the body is encoded, outermost last.

    mitmproxy undoes `chunked` only; some clients undo the other transfer codings too.
    """
    transfer = headers.get("transfer-encoding", "").split(",")
    outer = [each for each in transfer if each.strip().lower() not in ("", "chunked", "identity")]
    inner = headers.get("content-encoding", "")
    return ",".join([inner, *outer] if inner else outer)
