"""The wall: what is delivered, what is refused, and what happens when something breaks."""

from collections.abc import Callable
from typing import Any

import pytest
from mitmproxy import flow as flows
from mitmproxy import http
from mitmproxy.proxy.layers.http._hooks import (
    HttpRequestHook,
    HttpResponseHeadersHook,
    HttpResponseHook,
)
from mitmproxy.test import taddons

from addons.bodyscan import BodyScan
from addons.engine import PAGE
from tests.webguard.inspection.inputs import look_at
from webguard.inspection.exchange import PARTIAL
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

    await BodyScan(look=look_at, scan=fixed_scan(answer), **world.ports()).response(flow)

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

    await BodyScan(look=look_at, scan=fixed_scan(MALWARE), **world.ports()).response(flow)

    assert flow.response is not None
    assert b"body" not in (flow.response.raw_content or b"")
    assert not {"set-cookie", "location"} & {each.lower() for each in flow.response.headers}
    assert flow.response.headers["x-webguard-event"] == world.recorded[0].id


async def test_an_upload_is_refused_before_it_is_sent(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    flow = a_flow(request=b"upload")
    await BodyScan(look=look_at, scan=fixed_scan(MALWARE), **world.ports()).request(flow)
    assert status(flow) == 403
    assert world.asked[0].stage is Stage.REQUEST


@pytest.mark.parametrize("body", [b"", b"upload"], ids=["no body", "a clean body"])
async def test_a_clean_request_goes_on(
    world: Any, a_flow: Build, fixed_scan: FixedScan, body: bytes
) -> None:
    flow = a_flow(request=body)
    await BodyScan(look=look_at, scan=fixed_scan(CLEAN), **world.ports()).request(flow)
    assert flow.response is None
    assert world.recorded == []


@pytest.mark.parametrize("body", [b"", b"upload"], ids=["no body", "a clean body"])
@pytest.mark.parametrize("action", [Action.BLOCK, Action.HOLD])
async def test_policy_is_asked_before_anything_is_sent_on(
    world: Any, a_flow: Build, fixed_scan: FixedScan, body: bytes, action: Action
) -> None:
    def refuse(question: Question) -> Verdict:
        return Verdict(action=action, reason="the address is in a list", rule="list")

    flow = a_flow(request=body)
    ports = {**world.ports(), "decide": refuse}
    await BodyScan(look=look_at, scan=fixed_scan(CLEAN), **ports).request(flow)
    assert status(flow) == 403
    assert [(each.kind, each.outcome) for each in world.recorded] == [
        ("web.blocked", "not delivered")
    ]


async def test_a_streamed_body_is_not_called_clean(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    world.policy = Policy(unscanned=Action.BLOCK)
    flow = a_flow(b"body")
    assert flow.response is not None
    flow.response.raw_content = None

    await BodyScan(look=look_at, scan=fixed_scan(CLEAN), **world.ports()).response(flow)

    assert status(flow) == 403
    assert "unseen" in world.recorded[0].verdict.reason


@pytest.mark.parametrize("hook", [HttpRequestHook, HttpResponseHook], ids=["request", "response"])
async def test_a_bug_in_policy_does_not_open_the_wall(
    world: Any, a_flow: Build, fixed_scan: FixedScan, hook: type[HttpRequestHook]
) -> None:
    """Through mitmproxy's own dispatcher, which swallows the exception."""

    def broken(question: Question) -> Verdict:
        raise ZeroDivisionError

    addon = BodyScan(look=look_at, scan=fixed_scan(CLEAN), **{**world.ports(), "decide": broken})
    flow = a_flow(None if hook is HttpRequestHook else b"body", request=b"upload")
    with taddons.context(addon) as context:
        await context.master.addons.trigger_event(hook(flow))
    assert status(flow) == 403


async def test_a_bug_in_the_record_does_not_open_the_wall(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    def broken(event: object) -> None:
        raise ZeroDivisionError

    addon = BodyScan(look=look_at, scan=fixed_scan(MALWARE), **{**world.ports(), "record": broken})
    flow = a_flow(b"body")
    with taddons.context(addon) as context:
        await context.master.addons.trigger_event(HttpResponseHook(flow))
    assert status(flow) == 403


def streaming(flow: http.HTTPFlow) -> http.HTTPFlow:
    """An answer of which only the head is there, and which is too large to be held."""
    flow.response = http.Response.make(200)
    flow.response.headers["content-length"] = "99999"
    flow.response.raw_content = None
    return flow


async def test_what_is_streamed_is_told_once(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    addon, flow = (
        BodyScan(look=look_at, scan=fixed_scan(CLEAN), **world.ports()),
        streaming(a_flow()),
    )
    addon.max_body = 4096
    addon.responseheaders(flow)
    assert flow.response is not None
    assert callable(flow.response.stream)
    assert list(flow.response.stream(b"piece")) == [b"piece"]
    assert list(addon.ended(flow, request=False)) == []
    await addon.response(flow)
    addon.error(flow)
    assert [each.kind for each in world.recorded] == ["web.unscanned"]
    assert flow.error is None
    assert PAGE not in flow.metadata


def test_a_stream_that_policy_refuses_is_ended_with_a_page(
    closed_world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    addon, flow = (
        BodyScan(look=look_at, scan=fixed_scan(CLEAN), **closed_world.ports()),
        streaming(a_flow()),
    )
    addon.max_body = 4096
    addon.responseheaders(flow)
    assert flow.error is not None
    assert flow.error.msg == flows.Error.KILLED_MESSAGE
    (event,) = closed_world.recorded
    assert event.remedy
    assert flow.metadata[PAGE].headers["x-webguard-event"] == event.id


async def test_a_bug_in_policy_ends_a_stream(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    def broken(question: Question) -> Verdict:
        raise ZeroDivisionError

    addon = BodyScan(look=look_at, scan=fixed_scan(CLEAN), **{**world.ports(), "decide": broken})
    addon.max_body = 4096
    flow = streaming(a_flow())
    with taddons.context(addon) as context:
        await context.master.addons.trigger_event(HttpResponseHeadersHook(flow))
    assert flow.error is not None
    assert flow.metadata[PAGE].status_code == 403


def test_a_bug_in_policy_ends_what_has_become_too_large(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    def broken(question: Question) -> Verdict:
        raise ZeroDivisionError

    addon = BodyScan(look=look_at, scan=fixed_scan(CLEAN), **{**world.ports(), "decide": broken})
    addon.max_body, flow = 4, a_flow(b"", request=b"")
    assert list(addon.outgrown(flow, request=False, held=b"large")) == []
    assert flow.error is not None
    assert flow.metadata[PAGE].status_code == 403


@pytest.mark.parametrize("status_code", [200, 101])
async def test_what_comes_after_the_exchange_broke_off_is_not_delivered(
    world: Any, a_flow: Build, fixed_scan: FixedScan, status_code: int
) -> None:
    addon, flow = BodyScan(look=look_at, scan=fixed_scan(CLEAN), **world.ports()), a_flow(b"late")
    assert flow.response is not None
    flow.response.status_code = status_code
    addon.error(flow)
    await addon.response(flow)
    assert status(flow) == 403


def test_an_upload_is_told_when_it_begins_to_be_streamed(
    world: Any, a_flow: Build, fixed_scan: FixedScan
) -> None:
    addon, flow = (
        BodyScan(look=look_at, scan=fixed_scan(CLEAN), **world.ports()),
        a_flow(content_length="99999"),
    )
    addon.max_body = 4096
    addon.requestheaders(flow)
    addon.error(flow)
    assert callable(flow.request.stream)
    assert list(flow.request.stream(b"late")) == [], "nothing passes after the end"
    assert [each.kind for each in world.recorded] == ["web.unscanned"]


@pytest.mark.parametrize(
    ("headers", "whole"),
    [
        pytest.param({}, False, id="without a range"),
        pytest.param({"content-range": "bytes 0-3/4"}, True, id="all of it"),
        pytest.param({"content-range": "bytes 0-3/5"}, False, id="the beginning"),
        pytest.param({"content-range": "bytes 1-3/4"}, False, id="the end"),
        pytest.param({"content-range": "bytes 0-3/*"}, False, id="of nobody knows how much"),
        pytest.param({"content-range": "bytes 0-" + "9" * 99 + "/1"}, False, id="nonsense"),
    ],
)
async def test_a_part_is_not_called_clean(
    world: Any, a_flow: Build, fixed_scan: FixedScan, headers: dict[str, str], whole: bool
) -> None:
    flow = a_flow(b"body")
    flow.response = http.Response.make(206, b"body", headers)
    await BodyScan(look=look_at, scan=fixed_scan(CLEAN), **world.ports()).response(flow)
    (event,) = world.recorded
    assert event.kind == ("web.passed" if whole else "web.unscanned")
    assert whole or PARTIAL in event.verdict.reason


@pytest.mark.parametrize(
    ("headers", "scanned_as"),
    [
        pytest.param({}, "", id="none"),
        pytest.param({"content-encoding": "gzip"}, "gzip", id="content"),
        pytest.param({"transfer-encoding": "chunked"}, "", id="chunked, which is undone"),
        pytest.param({"transfer-encoding": "gzip, chunked"}, "gzip", id="transfer"),
        pytest.param({"content-encoding": "br", "transfer-encoding": "gzip"}, "br,gzip", id="both"),
    ],
)
async def test_a_body_is_scanned_as_any_client_may_decode_it(
    world: Any, a_flow: Build, headers: dict[str, str], scanned_as: str
) -> None:
    seen = []

    async def scan(body: bytes, encoding: str) -> ScanResult:
        seen.append(encoding.replace(" ", ""))
        return CLEAN

    flow = a_flow(b"body")
    flow.response = http.Response.make(200, b"body", headers)
    await BodyScan(look=look_at, scan=scan, **world.ports()).response(flow)
    assert seen == [scanned_as]
