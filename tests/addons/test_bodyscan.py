"""The wall: what is delivered, what is refused, and what happens when something breaks."""

from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy import http
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook, HttpResponseHook
from mitmproxy.test import taddons

from addons.bodyscan import BodyScan
from webguard.model import Action, Detection, Question, ScanResult, Stage, Unscanned, Verdict
from webguard.policy.decide import Policy

CLEAN = ScanResult(sha256="0" * 64)
MALWARE = ScanResult(detections=(Detection(engine="yara", name="Eicar"),))
PARTLY = ScanResult(unscanned=(Unscanned(where="body", reason="encrypted"),))
CRASH = RuntimeError("the engine died")

type Build = Callable[..., http.HTTPFlow]
type FixedScan = Callable[[ScanResult | Exception], Any]


def status(flow: http.HTTPFlow) -> int:
    return flow.response.status_code if flow.response else 0


@pytest.mark.parametrize(
    ("answer", "policy", "delivered", "reason", "kind"),
    [
        pytest.param(CLEAN, Policy(), 200, "nothing found", "web.passed", id="clean is delivered"),
        pytest.param(MALWARE, Policy(), 403, "Eicar", "web.blocked", id="malware is refused"),
        pytest.param(PARTLY, Policy(), 200, "encrypted", "web.unscanned", id="unscanned, allow"),
        pytest.param(
            PARTLY,
            Policy(unscanned=Action.BLOCK),
            403,
            "encrypted",
            "web.blocked",
            id="unscanned, block",
        ),
        pytest.param(CRASH, Policy(), 200, "engine died", "web.unscanned", id="crash, fail open"),
        pytest.param(
            CRASH,
            Policy(on_failure="closed"),
            403,
            "engine died",
            "web.blocked",
            id="crash, fail closed",
        ),
    ],
)
async def test_response(
    world: Any,
    a_flow: Build,
    fixed_scan: FixedScan,
    answer: ScanResult | Exception,
    policy: Policy,
    delivered: int,
    reason: str,
    kind: str,
) -> None:
    world.policy = policy
    flow = a_flow(b"body")

    await BodyScan(scan=fixed_scan(answer), **world.ports()).response(flow)

    assert status(flow) == delivered
    (event,) = world.recorded
    assert (event.kind, event.container.name) == (kind, "shop")
    assert reason in event.verdict.reason


async def test_the_refusal_holds_nothing_of_the_content(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    flow = a_flow(b"body")
    flow.response = http.Response.make(
        200, b"body", {"Set-Cookie": "a=b", "Location": "http://evil.test"}
    )

    await BodyScan(scan=fixed_scan(MALWARE), **world.ports()).response(flow)

    assert flow.response is not None
    assert b"body" not in (flow.response.raw_content or b"")
    assert not {"set-cookie", "location"} & {each.lower() for each in flow.response.headers}
    assert flow.response.headers["x-webguard-event"] == world.recorded[0].id


async def test_an_upload_is_refused_before_it_is_sent(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    flow = a_flow(request=b"upload")
    await BodyScan(scan=fixed_scan(MALWARE), **world.ports()).request(flow)
    assert status(flow) == 403
    assert world.asked[0].stage is Stage.REQUEST


@pytest.mark.parametrize("body", [b"", b"upload"], ids=["no body", "a clean body"])
async def test_a_clean_request_goes_on(
    world: Any, a_flow: Build, fixed_scan: FixedScan, body: bytes
) -> None:
    flow = a_flow(request=body)
    await BodyScan(scan=fixed_scan(CLEAN), **world.ports()).request(flow)
    assert flow.response is None
    assert world.recorded == []


async def test_a_streamed_body_is_not_called_clean(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    world.policy = Policy(unscanned=Action.BLOCK)
    flow = a_flow(b"body")
    assert flow.response is not None
    flow.response.raw_content = None

    await BodyScan(scan=fixed_scan(CLEAN), **world.ports()).response(flow)

    assert status(flow) == 403
    assert "web.max_body" in world.recorded[0].verdict.reason


@pytest.mark.parametrize("hook", [HttpRequestHook, HttpResponseHook], ids=["request", "response"])
async def test_a_bug_in_policy_does_not_open_the_wall(
    world: Any, a_flow: Build, fixed_scan: FixedScan, hook: type[HttpRequestHook]
) -> None:
    """Through mitmproxy's own dispatcher, which swallows the exception."""

    def broken(question: Question) -> Verdict:
        raise ZeroDivisionError

    addon = BodyScan(scan=fixed_scan(CLEAN), **{**world.ports(), "decide": broken})
    flow = a_flow(None if hook is HttpRequestHook else b"body", request=b"upload")
    with taddons.context(addon) as context:
        await context.master.addons.trigger_event(hook(flow))
    assert status(flow) == 403


async def test_a_bug_in_the_record_does_not_open_the_wall(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    def broken(event: object) -> None:
        raise ZeroDivisionError

    addon = BodyScan(scan=fixed_scan(MALWARE), **{**world.ports(), "record": broken})
    flow = a_flow(b"body")
    with taddons.context(addon) as context:
        await context.master.addons.trigger_event(HttpResponseHook(flow))
    assert status(flow) == 403


@pytest.mark.parametrize(
    ("kind", "allowed", "streamed"),
    [
        pytest.param("text/event-stream; charset=utf-8", True, True, id="events, allow"),
        pytest.param("text/event-stream", False, False, id="events, block"),
        pytest.param("text/html", True, False, id="a page"),
    ],
)
def test_only_streams_without_end_are_let_through_while_they_come(
    world: Any, a_flow: Build, fixed_scan: FixedScan, kind: str, allowed: bool, streamed: bool
) -> None:
    addon = BodyScan(scan=fixed_scan(CLEAN), **world.ports())
    addon.stream_endless = allowed
    flow = a_flow(b"body")
    assert flow.response is not None
    flow.response.headers["content-type"] = kind

    addon.responseheaders(flow)

    assert bool(flow.response.stream) is streamed
