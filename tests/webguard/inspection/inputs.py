"""Short ways to write down what happens in an exchange, and what is done about it."""

from webguard.inspection.exchange import Exchange
from webguard.inspection.values import (
    Abort,
    Action,
    Body,
    Bypass,
    End,
    Forward,
    Head,
    Hold,
    Input,
    Replace,
    RequestHead,
    ResponseHead,
    Scan,
    Scanned,
    Side,
    Tell,
)
from webguard.model import Detection, ScanResult
from webguard.policy.decide import Policy, decide

EVIL = b"EVIL CONTENT"
CLEAN = ScanResult(sha256="0" * 64)
LIMIT = 4096
ADDRESS = "http://good.test/"
CHUNKED = (("Transfer-Encoding", "chunked"),)


def get() -> RequestHead:
    return RequestHead(method="GET")


def post(data: bytes) -> RequestHead:
    return RequestHead(method="POST", fields=(("Content-Length", str(len(data))),))


def ok(data: bytes) -> ResponseHead:
    return ResponseHead(status=200, fields=(("Content-Length", str(len(data))),))


def chunked() -> ResponseHead:
    return ResponseHead(status=200, fields=CHUNKED)


def body(side: Side, data: bytes) -> Body:
    return Body(side=side, data=data)


def end(side: Side) -> End:
    return End(side=side)


def look_at(content: bytes) -> ScanResult:
    """Find one thing, as it stands."""
    if EVIL in content:
        return ScanResult(detections=(Detection(engine="test", name="Evil"),))
    return CLEAN


def inspected(policy: Policy) -> Exchange:
    return Exchange(
        subject=ADDRESS,
        container=None,
        decide=lambda question: decide(policy, question),
        limit=LIMIT,
    )


def run(exchange: Exchange, *given: Input) -> list[Action]:
    """Return all actions, with scans answered at once."""
    done: list[Action] = []
    for each in given:
        actions = exchange.take(each)
        while actions:
            done += actions
            actions = [
                more
                for wanted in actions
                if isinstance(wanted, Scan)
                for more in exchange.take(
                    Scanned(ticket=wanted.ticket, result=look_at(wanted.content))
                )
            ]
    return done


def words(action: Action) -> str:
    """Write an action down."""
    name = type(action).__name__.lower()
    match action:
        case Forward(what=what):
            return _what(what)
        case Tell(verdict=verdict):
            return f"tell {action.side} {verdict.action}: {verdict.rule}"
        case Replace():
            return f"replace {action.status}"
        case Hold() | Scan():
            return f"{name} {action.side}"
        case Abort() | Bypass():
            return name


def _what(what: Head | Body | End) -> str:
    match what:
        case RequestHead():
            return "request head"
        case ResponseHead():
            return "response head"
        case Body():
            return f"{what.side} body {len(what.data)}"
        case End():
            return f"{what.side} end"
