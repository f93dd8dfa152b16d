"""The grammar of URL lists: what is refused, and with which remedy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.policy import pattern


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        pytest.param("", "empty", id="nothing"),
        pytest.param("a b", "white space", id="space"),
        pytest.param("a\x00b", "control", id="NUL"),
        pytest.param("a.example/#x", "never sent", id="fragment"),
        pytest.param("ftp://a.example/", "only http://", id="scheme"),
        pytest.param("u@a.example", "user names", id="user name"),
        pytest.param("a.example:x", "not a port", id="port"),
        pytest.param("a.example:0", "not a port", id="port 0"),
        pytest.param("a.example:65536", "not a port", id="port too large"),
        pytest.param("2001:db8::1", "brackets", id="IPv6 without brackets"),
        pytest.param("[2001:zz::1]", "not an IPv6", id="bad IPv6"),
        pytest.param("[::1", "not an IPv6", id="open bracket"),
        pytest.param("*.[::1]", "not an IPv6", id="below an IPv6 address"),
        pytest.param("/path", "not the name of a host", id="no host"),
        pytest.param("a..example", "not the name of a host", id="empty label"),
        pytest.param("a.example?x=1", "not the name of a host", id="query without a path"),
        pytest.param("a" * 64 + ".example", "not the name of a host", id="long label"),
        pytest.param("a." * 127 + "example", "253", id="long host"),
        pytest.param("a/" + "b" * 2050, "2048", id="long"),
        pytest.param("bü*cher.example", "xn--", id="wildcard in an international label"),
        pytest.param("a.example/b/../c", "without", id="dots"),
        pytest.param("a.example/%2e%2e/c", "without", id="escaped dots"),
    ],
)
def test_what_is_no_pattern_is_refused_with_a_remedy(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"\(.+\)$") as caught:
        pattern.parse(text)

    assert problem in str(caught.value)


@given(st.text(max_size=30) | st.text(alphabet="a*?.:/[]@#ü", max_size=30))
def test_a_text_is_a_pattern_or_a_value_error(text: str) -> None:
    try:
        parts = pattern.parse(text)
    except ValueError:
        return
    assert parts.host.isascii()
    assert parts.path == "" or parts.path.startswith("/")
