"""What is not HTTP: refused or told, never just passed on."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from mitmproxy import http, tcp
from mitmproxy.addons.next_layer import NextLayer
from mitmproxy.proxy import events, layer, layers
from mitmproxy.proxy.context import Context
from mitmproxy.proxy.layers.http._hooks import HttpRequestHook, HttpResponseHook
from mitmproxy.proxy.layers.tcp import TcpStartHook
from mitmproxy.test import taddons, tflow

from addons.bodyscan import BodyScan
from addons.tunnels import Tunnels
from tests.webguard.inspection.inputs import look_at
from webguard.model import Question, ScanResult, Verdict

type Build = Callable[..., http.HTTPFlow]

TLS = b"\x16\x03\x01\x00\x05hello"


def broken(question: Question) -> Verdict:
    raise ZeroDivisionError


async def clean(body: bytes, encoding: str) -> ScanResult:
    return ScanResult()


def chosen(world: Any, client: bytes, server: bytes = b"", *, rawtcp: bool = True) -> str:
    """What a connection with these first bytes is taken for, by mitmproxy and by us."""
    both = (NextLayer(), Tunnels(**world.ports()))
    with taddons.context(*both) as made:
        made.options.add_option("rawtcp", bool, rawtcp, "")
        made.options.rawtcp = rawtcp
        context = Context(tflow.tclient_conn(), made.options)
        context.client.alpn = None
        context.layers.append(SimpleNamespace())  # type: ignore[arg-type]
        asked = layer.NextLayer(context)
        asked.events = [events.Start()]
        if server:
            asked.events.append(events.DataReceived(context.server, server))
        if client:
            asked.events.append(events.DataReceived(context.client, client))
        for each in both:
            each.next_layer(asked)
    expected = (
        1 if asked.layer is None else 3 if isinstance(asked.layer, layers.ServerTLSLayer) else 2
    )
    assert len(context.layers) == expected, "a layer that was given up is still in the stack"
    if isinstance(asked.layer, layers.ServerTLSLayer):
        assert asked.data_server() == b""
    return type(asked.layer).__name__


@pytest.mark.parametrize(
    ("client", "server", "taken_for"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n", b"", "HttpLayer", id="HTTP"),
        pytest.param(b"G", b"", "HttpLayer", id="a letter"),
        pytest.param(b"\r\n\r\nGET / HTTP/1.1", b"", "HttpLayer", id="after empty lines"),
        pytest.param(b"GET\t/ HTTP/1.1\r\n", b"", "HttpLayer", id="with a tabulator"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"HTTP/1.1 200", "HttpLayer", id="answered already"),
        pytest.param(b"", b"HTTP/1.1 200", "NoneType", id="only the server spoke"),
        pytest.param(b"", b"\x15\x03\x01\x00\x02\x01\x70", "NoneType", id="a server's alert"),
        pytest.param(b"\x16", b"", "NoneType", id="perhaps TLS"),
        pytest.param(b"\x16\x03", b"", "NoneType", id="probably TLS"),
        pytest.param(TLS, b"", "ServerTLSLayer", id="TLS"),
        pytest.param(TLS, b"\x15\x03\x01", "ServerTLSLayer", id="TLS, and the server spoke"),
        pytest.param(b"SSH-2.0-x y\r\n", b"", "TCPLayer", id="SSH"),
        pytest.param(b"\x00\x01binary", b"", "TCPLayer", id="binary"),
    ],
)
def test_neither_end_decides_alone_that_it_is_no_http(
    world: Any, client: bytes, server: bytes, taken_for: str
) -> None:
    assert chosen(world, client, server) == taken_for


@pytest.mark.parametrize("client", [b"SSH-2.0-x y\r\n", b"\x00\x01binary"])
def test_where_nothing_may_be_tunnelled_all_is_read_as_http(world: Any, client: bytes) -> None:
    assert chosen(world, client, rawtcp=False) == "HttpLayer"


@pytest.mark.parametrize("upgrade", ["websocket", "h2c", "H2C", " TLS/1.0 "])
def test_an_upgrade_follows_policy(
    world: Any, closed_world: Any, a_flow: Build, upgrade: str
) -> None:
    open_flow, closed_flow = a_flow(upgrade=upgrade), a_flow(upgrade=upgrade)
    Tunnels(**world.ports()).request(open_flow)
    Tunnels(**closed_world.ports()).request(closed_flow)
    assert open_flow.response is None
    assert closed_flow.response is not None
    assert closed_flow.response.status_code == 403
    assert [each.kind for each in closed_world.recorded] == ["web.blocked"]


async def test_the_scanner_keeps_an_earlier_refusal(closed_world: Any, a_flow: Build) -> None:
    """In the order in which they run in a worker."""
    flow = a_flow(upgrade="websocket")
    both = (
        Tunnels(**closed_world.ports()),
        BodyScan(look=look_at, scan=clean, **closed_world.ports()),
    )
    with taddons.context(*both) as context:
        await context.master.addons.trigger_event(HttpRequestHook(flow))
        refusal = flow.response
        await context.master.addons.trigger_event(HttpResponseHook(flow))
    assert refusal is not None
    assert refusal.status_code == 403
    assert flow.response is refusal
    assert len(closed_world.recorded) == 1


@pytest.mark.parametrize("hook", [HttpRequestHook, HttpResponseHook], ids=["request", "response"])
async def test_a_bug_in_policy_opens_no_tunnel(world: Any, a_flow: Build, hook: Any) -> None:
    flow = a_flow(upgrade="websocket")
    if hook is HttpResponseHook:
        flow.response = http.Response.make(101)
    both = (
        Tunnels(**{**world.ports(), "decide": broken}),
        BodyScan(look=look_at, scan=clean, **world.ports()),
    )
    with taddons.context(*both) as context:
        await context.master.addons.trigger_event(hook(flow))
    assert flow.response is not None
    assert flow.response.status_code == 403


def piece(flow: tcp.TCPFlow, content: bytes, *, from_client: bool = True) -> tcp.TCPMessage:
    message = tcp.TCPMessage(from_client, content)
    flow.messages.append(message)
    return message


def test_a_tunnel_is_told_and_not_kept_in_memory(world: Any) -> None:
    addon, flow = Tunnels(**world.ports()), tflow.ttcpflow()
    flow.messages.clear()
    addon.tcp_start(flow)
    passed = piece(flow, b"abc")
    addon.tcp_message(flow)
    assert passed.content == b"abc"
    assert flow.messages == []
    assert [each.outcome for each in world.recorded] == ["tunnelled"]


@pytest.mark.parametrize("from_client", [True, False], ids=["to the server", "to the client"])
def test_nothing_passes_a_tunnel_that_is_refused(closed_world: Any, from_client: bool) -> None:
    addon, flow = Tunnels(**closed_world.ports()), tflow.ttcpflow()
    addon.tcp_start(flow)
    passed = piece(flow, b"abc", from_client=from_client)
    addon.tcp_message(flow)
    assert passed.content == b""
    assert [each.kind for each in closed_world.recorded] == ["web.blocked"]


async def test_nothing_passes_a_tunnel_if_policy_has_a_bug(world: Any) -> None:
    addon, flow = Tunnels(**{**world.ports(), "decide": broken}), tflow.ttcpflow()
    with taddons.context(addon) as context:
        await context.master.addons.trigger_event(TcpStartHook(flow))
    passed = piece(flow, b"abc")
    addon.tcp_message(flow)
    assert passed.content == b""


def test_what_is_remembered_of_an_upgrade_goes_with_the_connection(
    world: Any, a_flow: Build
) -> None:
    addon, flow, tunnel = Tunnels(**world.ports()), a_flow(), tflow.ttcpflow()
    flow.response = http.Response.make(101, headers={"Upgrade": "websocket"})
    tunnel.client_conn = flow.client_conn
    addon.response(flow)
    addon.tcp_start(tunnel)
    assert [each.outcome for each in world.recorded] == ["tunnelled"]
    addon.client_disconnected(flow.client_conn)
    addon.tcp_start(tunnel)
    assert len(world.recorded) == 2
