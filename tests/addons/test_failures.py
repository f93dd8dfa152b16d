"""Whose fault it was, from what mitmproxy says; and that it still says so."""

import inspect
from typing import Any

import pytest
from mitmproxy import flow as flows
from mitmproxy import http
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers import tls
from mitmproxy.proxy.layers.http import _http1, _http2
from mitmproxy.proxy.layers.http._hooks import HttpErrorHook
from mitmproxy.test import taddons

from addons import failures
from addons.engine import BY_CLIENT, PAGE
from addons.failures import DEADLINE, Failures
from webguard.model import Action, Question, Verdict
from webguard.policy.decide import Policy


def failed(world: Any, flow: http.HTTPFlow, message: str) -> http.Response | None:
    flow.error = flows.Error(message)
    Failures(**world.ports()).error(flow)
    return flow.metadata.get(PAGE)


SMUGGLED = "invalid header name: b'a b'"
SORTED = [
    (failures.UNTRUSTED + "certificate has expired", 502, "web.blocked", "has expired"),
    (failures.CONNECT + " even though", 403, "web.blocked", "explicit proxy"),
    (failures.OLD_TLS + " You may need", 502, "web.failed", "1.2"),
    (failures.MALFORMED + SMUGGLED + failures.FROM_CLIENT, 400, "web.failed", "not valid HTTP"),
    (failures.MALFORMED + SMUGGLED + failures.FROM_SERVER, 502, "web.failed", "header name"),
    (flows.Error.KILLED_MESSAGE, 400, "web.blocked", "without TLS"),
    ("server closed connection", 502, "web.failed", "closed connection"),
    ("[Errno 111] Connect call failed", 502, "web.failed", "Errno 111"),
]


@pytest.mark.parametrize(
    ("message", "status", "kind", "says"), SORTED, ids=[m[0][:40] for m in SORTED]
)
def test_failures_are_sorted(
    world: Any, a_flow: Any, message: str, status: int, kind: str, says: str
) -> None:
    world.policy = Policy(unscanned=Action.BLOCK)
    page = failed(world, a_flow(), message)
    assert page is not None
    assert page.status_code == status
    (event,) = world.recorded
    assert event.kind == kind
    assert says in event.verdict.reason
    assert event.remedy
    assert b"mitmproxy" not in (page.raw_content or b"")
    assert event.id == page.headers["x-webguard-event"]


def source(module: Any) -> str:
    """The module's source with its f-strings and line breaks taken out."""
    return inspect.getsource(module).replace('"\n', "").replace("'\n", "")


@pytest.mark.parametrize(
    ("sentence", "module"),
    [
        pytest.param(failures.UNTRUSTED, tls, id="untrusted"),
        pytest.param(failures.CONNECT, http_layers, id="CONNECT"),
        pytest.param(failures.OLD_TLS, tls, id="old TLS"),
        pytest.param("Received {e}" + failures.FROM_CLIENT, http_layers, id="client's smuggling"),
        pytest.param("Received {e}" + failures.FROM_SERVER, http_layers, id="server's smuggling"),
        pytest.param(failures.PROTOCOL[0] + ": {e}", _http1, id="protocol 1"),
        pytest.param(failures.PROTOCOL[1] + ": {event}", _http2, id="protocol 2"),
        pytest.param(failures.DISCONNECTED, _http1, id="disconnected"),
    ],
)
def test_mitmproxy_still_says_so(sentence: str, module: Any) -> None:
    assert sentence in source(module)


@pytest.mark.parametrize(
    "message",
    [
        f"unexpected server response: b'{failures.UNTRUSTED}x'",
        f"unexpected server response: b'{failures.FROM_CLIENT}'",
        f"unexpected server response: b'{flows.Error.KILLED_MESSAGE}'",
        f"unexpected server response: b'{failures.DISCONNECTED}'",
    ],
)
def test_what_a_server_wrote_does_not_sort_it(world: Any, a_flow: Any, message: str) -> None:
    page = failed(world, a_flow(), message)
    assert page is not None
    assert (page.status_code, world.recorded[0].kind) == (502, "web.failed")


def test_a_silent_server_is_that_whatever_the_message(world: Any, a_flow: Any) -> None:
    flow = a_flow()
    flow.metadata[DEADLINE] = 30.0
    page = failed(world, flow, failures.DISCONNECTED)
    assert page is not None
    assert page.status_code == 504
    assert "30 seconds" in world.recorded[0].verdict.reason


@pytest.mark.parametrize("how", ["said", "marked", "closed"])
def test_a_client_that_left_is_told_nothing(world: Any, a_flow: Any, how: str) -> None:
    flow = a_flow()
    if how == "marked":
        flow.metadata[BY_CLIENT] = True
    if how == "closed":
        flow.client_conn.state = ConnectionState.CLOSED
    message = failures.DISCONNECTED if how == "said" else "peer closed connection"
    assert failed(world, flow, message) is None
    assert world.recorded == []


def test_what_is_told_already_is_not_told_again(world: Any, a_flow: Any) -> None:
    flow = a_flow()
    flow.metadata[PAGE] = kept = http.Response.make(403)
    assert failed(world, flow, flows.Error.KILLED_MESSAGE) is kept
    assert world.recorded == []


def test_a_servers_text_in_the_record_is_bounded_and_visible(world: Any, a_flow: Any) -> None:
    failed(world, a_flow(), "unexpected server response: \x1b[2J\udcff" + "x" * 10_000)
    reason = world.recorded[0].verdict.reason
    assert len(reason) < 700
    assert reason.isprintable()


async def test_a_bug_in_policy_leaves_no_page_and_no_content(world: Any, a_flow: Any) -> None:
    def broken(question: Question) -> Verdict:
        raise ZeroDivisionError

    flow = a_flow()
    flow.error = flows.Error("server closed connection")
    addon = Failures(**{**world.ports(), "decide": broken})
    with taddons.context(addon) as context:
        await context.master.addons.trigger_event(HttpErrorHook(flow))
    assert PAGE not in flow.metadata
