"""Addresses: one form for each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.policy import address
from webguard.policy.address import Address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        pytest.param("http://a/b?c", Address("http", "a", 80, "/b?c"), id="plain"),
        pytest.param("https://a:1/", Address("https", "a", 1, "/"), id="port"),
        pytest.param("https://a:/", Address("https", "a", 443, "/"), id="empty port"),
        pytest.param("a:443", Address("", "a", 443, "/"), id="authority"),
        pytest.param("http://a?b", Address("http", "a", 80, "/?b"), id="query without a path"),
        pytest.param("http://a\\b", Address("http", "a", 80, "/b"), id="backslash"),
        pytest.param("http://x@a@b/", Address("http", "b", 80, "/"), id="two user names"),
        pytest.param("http://[::1]:8/", Address("http", "[::1]", 8, "/"), id="IPv6"),
        pytest.param("http://[::1%25lo]/", Address("http", "[::1]", 80, "/"), id="zone"),
        pytest.param("http://a:99999999/", Address("http", "a:99999999", 80, "/"), id="no port"),
        pytest.param("", Address("", "", 0, "/"), id="nothing"),
        pytest.param("http://1.2.3.4.5/", Address("http", "1.2.3.4.5", 80, "/"), id="no IPv4"),
        pytest.param("http://256.1/", Address("http", "256.1", 80, "/"), id="too large for IPv4"),
        pytest.param("http://09.1/", Address("http", "09.1", 80, "/"), id="no octal"),
    ],
)
def test_an_address_has_one_form(url: str, expected: Address) -> None:
    assert address.parse(url) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/a/./b", "/a/b", id="dot"),
        pytest.param("/a/../../b", "/b", id="above the root"),
        pytest.param("/a/..", "/", id="dots at the end"),
        pytest.param("/a/.", "/a/", id="dot at the end"),
        pytest.param("/a?x=/../b", "/a?x=/../b", id="dots in a query"),
        pytest.param("/.a/..b", "/.a/..b", id="hidden files"),
        pytest.param("/%2E%2e/%2F", "/%2F", id="escaped dots, escaped slash"),
        pytest.param("/%7e%zz%", "/~%zz%", id="escapes"),
        pytest.param("/\udcff\ud800", "/%ED%B3%BF%ED%A0%80", id="surrogates"),
        pytest.param("/\udcff", "/%FF", id="a raw byte"),
    ],
)
def test_a_path_has_one_form(text: str, expected: str) -> None:
    assert address.path(text) == expected


@given(st.text(max_size=40))
def test_the_form_of_a_host_is_its_own_form(name: str) -> None:
    once = address.host(name)

    if once.isascii():
        assert address.host(once) == once


def test_a_name_that_is_too_long_to_resolve_is_not_worked_on() -> None:
    """The work of IDNA grows with the square of the length."""
    assert address.host("ü" * 254) == "ü" * 254
    assert address.host("ü" * 40) != "ü" * 40


def test_a_number_that_is_too_long_for_an_address_is_none() -> None:
    assert address.host("0x" + "0" * 70 + "1") == "0x" + "0" * 70 + "1"
