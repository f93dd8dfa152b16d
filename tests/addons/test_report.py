"""Foreign text on its way into a record."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http
from mitmproxy.test import tflow

from addons.peers import UNKNOWN
from addons.report import answer, answered, http_facts, text, unfinished, url_of
from webguard.model import Action, Verdict

VERDICT = Verdict(action=Action.BLOCK, reason="because", rule="r")


@given(st.text(st.characters()), st.integers(min_value=1, max_value=300))
def test_all_text_becomes_visible_and_bounded(untrusted: str, longest: int) -> None:
    clean = text(untrusted, longest)
    assert clean.isprintable()
    assert len(clean) <= longest
    clean.encode("utf-8")


@pytest.mark.parametrize(
    ("untrusted", "clean"),
    [
        pytest.param("plain ünï 漢", "plain ünï 漢", id="plain text stays"),
        pytest.param("a\x1b[2Jb", "a\\x1b[2Jb", id="terminal"),
        pytest.param("a\r\nb", "a\\r\\nb", id="lines"),
        pytest.param("a\x9bb", "a\\x9bb", id="C1"),
        pytest.param("a\u202eb", "a\\u202eb", id="direction of writing"),
        pytest.param("a\udce9b", "a\\xe9b", id="a byte that is not UTF-8"),
        pytest.param("a\ud800b", "a\\ud800b", id="half of a pair"),
        pytest.param("a\0b", "a\\x00b", id="zero"),
    ],
)
def test_what_a_person_would_not_see_is_escaped(untrusted: str, clean: str) -> None:
    assert text(untrusted) == clean


@given(st.binary(max_size=200), st.binary(max_size=100), st.binary(max_size=20))
def test_no_request_is_too_odd_for_a_record(path: bytes, host: bytes, method: bytes) -> None:
    flow = tflow.tflow()
    flow.request.headers = http.Headers([(b"host", host)])
    flow.request.data.path, flow.request.data.method = path, method
    facts = http_facts(flow, UNKNOWN, status=0, body=None)
    assert facts.url.isprintable()
    assert facts.method.isprintable()


def test_a_long_address_is_cut() -> None:
    flow = tflow.tflow()
    flow.request.path = "/" + "x" * 20_000
    assert len(url_of(flow)) == 8192


@pytest.mark.parametrize("make", [lambda flow: answer(flow, VERDICT, "e"), unfinished])
def test_only_the_very_page_that_we_made_counts_as_ours(make: Any) -> None:
    flow = tflow.tflow(resp=True)
    assert not answered(flow)
    flow.response = make(flow)
    assert answered(flow)
    assert flow.response is not None
    flow.response = flow.response.copy()  # what a server that copies our page would send
    assert not answered(flow)


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("user:secret@example.test", "http://example.test/x@y"),
        ("a@b:secret@example.test", "http://example.test/x@y"),
        ("example.test", "http://example.test/x@y"),
    ],
)
def test_a_password_in_an_address_is_not_recorded(host: str, shown: str) -> None:
    flow = tflow.tflow()
    flow.request.scheme, flow.request.port, flow.request.path = "http", 80, "/x@y"
    flow.request.headers = http.Headers([(b"host", host.encode())])
    assert url_of(flow) == shown


def test_one_page_serves_a_whole_exchange_that_does_not_come_to_a_verdict() -> None:
    flow = tflow.tflow(resp=True)
    first = unfinished(flow)
    answer(flow, VERDICT, "e")
    flow.response = unfinished(flow)

    assert flow.response is first
    assert answered(flow)
