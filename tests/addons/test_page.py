"""The answer to a client: understood by people and programs, and nobody's script."""

import json
from html.parser import HTMLParser
from typing import override

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.page import refusal

EVENT = "01234567-0000-7000-8000-000000000000"


def page(accept: str, url: str = "http://good.test/", reason: str = "it matched") -> bytes:
    made = refusal(status=403, url=url, reason=reason, event_id=EVENT, accept=accept)
    return made.raw_content or b""


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
    made = refusal(status=403, url="u", reason="r", event_id=EVENT, accept=accept)
    assert made.headers["content-type"] == kind
    assert made.headers["cache-control"] == "no-store"
    assert made.headers["x-webguard-event"] == EVENT
    assert int(made.headers["content-length"]) == len(made.raw_content or b"")


def test_nothing_names_the_engine() -> None:
    for accept in ("text/html", "*/*"):
        made = refusal(status=502, url="u", reason="r", event_id=EVENT, accept=accept)
        whole = repr(list(made.headers.fields)).encode() + (made.raw_content or b"")
        assert b"mitm" not in whole.lower()


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
