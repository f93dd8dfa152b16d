"""Scan the bodies of requests and responses before the other side sees them.

mitmproxy logs whatever a hook raises and then delivers the flow as it stands.
So each hook first puts a refusal in the response's place and gives the
response back only on a verdict that allows it: a bug here, in policy or in the
record can cost a user a page, but never lets one through unseen.

A body over `web.max_body` is not held whole. Where policy lets unscanned
content pass, mitmproxy streams it and the hook comes after the fact: all that
is left is to say so. Where it does not, mitmproxy ends the exchange and
`addons.failures` answers.
"""

from mitmproxy import http

from addons.page import refusal
from addons.peers import Peers
from addons.report import answer, http_facts, url_of, web_event
from webguard.model import ENGINE, Action, Question, ScanResult, Stage, Unscanned
from webguard.ports import Decide, Record, Scan, Stamp

STREAMED = "larger than web.max_body, or a stream without end"

# These are answers without end by design: holding them back would hang the client.
_ENDLESS = ("text/event-stream", "application/grpc")

_NIL = "00000000-0000-0000-0000-000000000000"


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
        """Hook: the response's head has arrived."""
        if flow.response is None or not self.stream_endless:
            return
        kind = flow.response.headers.get("content-type", "").strip().lower()
        if kind.startswith(_ENDLESS):
            flow.response.stream = True

    async def request(self, flow: http.HTTPFlow) -> None:
        """Hook: the whole request has arrived, and unless streamed none of it was sent on."""
        if flow.request.raw_content is None:  # streamed, that is: sent on already
            self._judge(flow, Stage.REQUEST, await self._look_at(flow.request), None)
            return
        flow.response = _unfinished(flow)
        if not flow.request.raw_content:
            flow.response = None
            return
        scan = await self._look_at(flow.request)
        flow.response = self._judge(flow, Stage.REQUEST, scan, None)

    async def response(self, flow: http.HTTPFlow) -> None:
        """Hook: the whole response has arrived, and unless streamed none of it was delivered."""
        if flow.response is None:
            return
        held, flow.response = flow.response, _unfinished(flow)
        refused = self._judge(flow, Stage.RESPONSE, await self._look_at(held), held)
        flow.response = refused or held

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
        facts = http_facts(
            flow,
            peer,
            status=held.status_code if held else 0,
            body=held.raw_content if held else None,
        )
        event = web_event(stamp=self._stamp, peer=peer, facts=facts, scan=scan, verdict=verdict)
        blocked = verdict.action is not Action.ALLOW
        if blocked or stage is Stage.RESPONSE or scan.unscanned:
            self._record(event)  # a clean upload is told by its response's event
        return answer(flow, verdict, event.id) if blocked else None

    async def _look_at(self, message: http.Request | http.Response) -> ScanResult:
        """Scan the body. Whatever goes wrong is a reason, for policy to weigh."""
        content = message.raw_content
        if content is None:  # mitmproxy streamed it past us
            return ScanResult(unscanned=(Unscanned(where="body", reason=STREAMED),))
        try:
            return await self._scan(content, message.headers.get("content-encoding", ""))
        except Exception as error:  # noqa: BLE001 - any failure at all is "not scanned"
            reason = f"{type(error).__name__}: {error}"
            return ScanResult(unscanned=(Unscanned(where=ENGINE, reason=reason),))


def _unfinished(flow: http.HTTPFlow) -> http.Response:
    """Return what is sent when we do not come to a verdict."""
    return refusal(
        status=403,
        url="",
        reason="inspection did not finish",
        event_id=_NIL,
        accept=flow.request.headers.get("accept", ""),
    )
