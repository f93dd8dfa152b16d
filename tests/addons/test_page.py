"""The answer to a client: understood by people and programs, and nobody's script."""

import json
from html.parser import HTMLParser
from typing import override
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy import http

from addons.page import refusal

EVENT = "01234567-0000-7000-8000-000000000000"


def made(
    status: int = 403, url: str = "http://good.test/", reason: str = "it matched", **asked: str
) -> http.Response:
    headers = http.Headers()
    for name, value in asked.items():
        headers[name.replace("_", "-")] = value
    return refusal(status=status, url=url, reason=reason, event_id=EVENT, asked=headers)


def page(accept: str, url: str = "http://good.test/", reason: str = "it matched") -> bytes:
    return made(url=url, reason=reason, accept=accept).raw_content or b""


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        pytest.param(
            "text/html,application/xhtml+xml,*/*;q=0.8", "text/html; charset=utf-8", id="browser"
        ),
        pytest.param("*/*", "application/problem+json", id="curl"),
        pytest.param("", "application/problem+json", id="no header"),
        pytest.param("application/json", "application/problem+json", id="API client"),
    ],
)
def test_a_browser_gets_a_page_and_a_program_a_problem(accept: str, kind: str) -> None:
    answer = made(accept=accept)
    assert answer.headers["content-type"] == kind
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-webguard-event"] == EVENT
    assert int(answer.headers["content-length"]) == len(answer.raw_content or b"")


def test_nothing_names_the_engine() -> None:
    for asked in ({"accept": "text/html"}, {"accept": "*/*"}, {"content_type": "application/grpc"}):
        answer = made(502, **asked)
        whole = repr(list(answer.headers.fields)).encode() + (answer.raw_content or b"")
        assert b"mitm" not in whole.lower()


@pytest.mark.parametrize(
    ("language", "title"),
    [
        pytest.param("en", "Blocked by Webguard", id="English"),
        pytest.param("uk", "Заблоковано Webguard", id="Ukrainian"),
        pytest.param("es", "Bloqueado por Webguard", id="Spanish"),
    ],
)
def test_a_page_is_in_the_browsers_language_and_says_so(language: str, title: str) -> None:
    answer = made(accept="text/html", accept_language=f"{language}-XX,fr;q=0.9")
    shown = (answer.raw_content or b"").decode()
    assert f'<html lang="{language}">' in shown
    assert f"<h1>{title}</h1>" in shown
    assert answer.headers["content-language"] == language
    # What policy says is English whatever the page is: a screen reader has to know.
    assert '<dd lang="en">it matched</dd>' in shown


def test_a_program_is_told_in_english_whatever_it_accepts() -> None:
    answer = made(accept="*/*", accept_language="uk")
    assert json.loads(answer.raw_content or b"")["title"] == "Blocked by Webguard"
    assert "content-language" not in answer.headers


class Tags(HTMLParser):
    """Collects the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)


@given(st.text(max_size=300), st.text(max_size=300))
def test_no_address_and_no_reason_become_markup(url: str, reason: str) -> None:
    plain, hostile = Tags(), Tags()
    plain.feed(page("text/html").decode())
    hostile.feed(page("text/html", "<script>" + url, "<img src=x onerror=y>" + reason).decode())
    assert hostile.seen == plain.seen


@given(st.text(max_size=300))
def test_a_problem_is_always_valid_json(reason: str) -> None:
    assert json.loads(page("*/*", reason=reason))["detail"] == reason


@pytest.mark.parametrize(
    ("kind", "answered"),
    [
        pytest.param("application/grpc", "application/grpc", id="plain"),
        pytest.param("application/grpc+proto", "application/grpc+proto", id="with its format"),
        pytest.param("Application/GRPC; x=y", "application/grpc", id="a parameter, no case"),
        pytest.param("application/grpc-web+proto", "application/grpc-web+proto", id="of browsers"),
    ],
)
def test_grpc_gets_a_status_of_its_own(kind: str, answered: str) -> None:
    answer = made(reason="100 % ☠", content_type=kind, accept="text/html")
    assert (answer.status_code, answer.raw_content) == (200, b"")
    assert answer.headers["content-type"] == answered
    assert answer.headers["grpc-status"] == "7"
    assert (
        unquote(answer.headers["grpc-message"]) == f"Blocked by Webguard: 100 % ☠ (event {EVENT})"
    )
    assert "100 %25 %E2%98%A0" in answer.headers["grpc-message"]
    assert answer.headers["x-webguard-event"] == EVENT


@pytest.mark.parametrize("kind", ["application/grpcx", "text/grpc", "application/grpc+a\u00e9"])
def test_what_only_looks_like_grpc_is_no_grpc(kind: str) -> None:
    assert made(content_type=kind).status_code == 403


@given(st.text(max_size=3000))
def test_no_reason_becomes_another_header_of_a_grpc_answer(reason: str) -> None:
    answer = made(reason=reason, content_type="application/grpc")
    said = answer.headers["grpc-message"]
    assert said.isascii()
    assert said.isprintable()
    # A character is four bytes at most, but what is no character is told by its number.
    assert len(said) < 12_500
    assert len(answer.headers.fields) == len(made(content_type="application/grpc").headers.fields)
