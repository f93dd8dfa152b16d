"""URL lists: what matches, against a slow reference, and whatever a client asks for."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from webguard.policy import address
from webguard.policy.address import Address
from webguard.policy.urls import MOST_WILD, Kind, UrlList


def found(entry: str, url: str, kind: Kind = Kind.BLOCKED) -> bool:
    return bool(UrlList(name="l", kind=kind, entries=(entry,)).find(address.parse(url)))


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        pytest.param("shop.example", "http://shop.example/", id="host"),
        pytest.param("shop.example", "https://shop.example:8443/a?b=c", id="any port and page"),
        pytest.param("SHOP.example", "http://Shop.Example/", id="no case"),
        pytest.param("shop.example.", "http://shop.example/", id="closing dot of an entry"),
        pytest.param("shop.example", "http://shop.example./", id="closing dot of a host"),
        pytest.param("shop.example/", "http://shop.example/a", id="closing slash"),
        pytest.param("shop.example/*", "http://shop.example/a", id="everything below"),
        pytest.param("*.shop.example", "http://shop.example/", id="the domain itself"),
        pytest.param("*.shop.example", "http://a.b.shop.example/x", id="below the domain"),
        pytest.param("*.c?m", "http://www.shop.cam/", id="the vendor's own example"),
        pytest.param("nk??.shop.*", "http://nk01.shop.example/x", id="wildcards"),
        pytest.param("*", "http://anything/at/all", id="everything"),
        pytest.param("*", "http:///", id="everything, no host"),
        pytest.param("*casino*", "http://x.example/casino/1", id="a word anywhere"),
        pytest.param("http://shop.example", "http://shop.example/", id="scheme"),
        pytest.param("HTTPS://shop.example", "https://shop.example/", id="scheme has no case"),
        pytest.param("*://shop.example", "https://shop.example/", id="any scheme"),
        pytest.param("https://shop.example", "wss://shop.example/", id="WebSocket is HTTPS"),
        pytest.param("shop.example:443", "https://shop.example/", id="default port"),
        pytest.param("shop.example:*", "https://shop.example:99/", id="any port"),
        pytest.param("shop.example/a/b?c=1", "http://shop.example/a/b?c=1", id="whole address"),
        pytest.param("shop.example/a*", "http://shop.example/abc?d", id="path"),
        pytest.param("shop.example/%61", "http://shop.example/a", id="escaped letter in an entry"),
        pytest.param("shop.example/a", "http://shop.example/%61", id="escaped letter in a path"),
        pytest.param("shop.example/ä", "http://shop.example/%c3%a4", id="international path"),
        pytest.param("shop.example/b", "http://shop.example/a/../b", id="dots"),
        pytest.param("shop.example/b", "http://shop.example/%2e%2e/b", id="escaped dots"),
        pytest.param("shop.example/a", "http://shop.example/a#b", id="fragment"),
        pytest.param("shop.example", "http://u:p@shop.example/", id="user name"),
        pytest.param("bücher.example", "http://xn--bcher-kva.example/", id="A-label"),
        pytest.param("xn--bcher-kva.example", "http://BÜCHER.example/", id="international host"),
        pytest.param("*.bücher.example", "http://a.bücher.example/", id="international domain"),
        pytest.param("bücher.example", "http://bücher。example/", id="ideographic full stop"),
        pytest.param("i❤.example", "http://i❤.example/", id="an emoji, which IDNA refuses"),
        pytest.param("127.0.0.1", "http://2130706433/", id="IPv4 as a number"),
        pytest.param("127.0.0.1", "http://0x7f.1/", id="IPv4 in short"),
        pytest.param("127.0.0.1", "http://0177.0.0.01:80/", id="IPv4 in octal"),
        pytest.param("[2001:db8::1]", "http://[2001:DB8:0:0::1]/", id="IPv6"),
        pytest.param("[2001:db8::1]:80", "http://[2001:db8::1]/", id="IPv6 and port"),
        pytest.param("192.0.2.1", "http://[::ffff:192.0.2.1]/", id="IPv4 in IPv6"),
        pytest.param("https://shop.example:8443/a/*", "https://shop.example:8443/a/b", id="all"),
    ],
)
def test_an_entry_matches(entry: str, url: str) -> None:
    assert found(entry, url)


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        pytest.param("shop.example", "http://www.shop.example/", id="below a host"),
        pytest.param("shop.example", "http://shop.example.org/", id="another domain"),
        pytest.param("shop.example", "http://x/shop.example", id="in the path"),
        pytest.param("shop.example", "http://shop.example@x/", id="as a user name"),
        pytest.param("*.shop.example", "http://myshop.example/", id="not a label"),
        pytest.param("*.shop.example", "http://x/y.shop.example", id="*. reaches over no slash"),
        pytest.param("*.shop.ex*", "http://x/y.shop.example", id="not with more wildcards either"),
        pytest.param("http://shop.example", "https://shop.example/", id="other scheme"),
        pytest.param("shop.example:80", "https://shop.example/", id="other port"),
        pytest.param("shop.example/a", "http://shop.example/A", id="case of a path"),
        pytest.param("shop.example/a", "http://shop.example/a?b", id="query"),
        pytest.param("shop.example/a/*", "http://shop.example/a/../b", id="out of the folder"),
        pytest.param("a?b.example", "http://ab.example/", id="? is one character"),
        pytest.param("a?b*", "http://a/b", id="? is no slash"),
    ],
)
@pytest.mark.parametrize("kind", Kind)
def test_an_entry_does_not_match(entry: str, url: str, kind: Kind) -> None:
    assert not found(entry, url, kind)


@pytest.mark.parametrize("entry", ["*shop.example", "cdn*.shop.example", "*shop.example/a"])
def test_nobody_is_allowed_by_what_is_appended_to_an_address(entry: str) -> None:
    url = "http://cdn.evil.example/" + entry.replace("*", ".")

    assert not found(entry, url, Kind.ALLOWED)


@pytest.mark.parametrize(
    ("entry", "blocked", "allowed"),
    [
        pytest.param("*.shop.example", True, True, id="host"),
        pytest.param("www.sh?p.example", True, True, id="wildcard in the host"),
        pytest.param("www.shop.example/a", False, False, id="page"),
        pytest.param("www.shop.example/a*", False, False, id="pages"),
        pytest.param("*shop*/a", False, False, id="pages of many"),
        pytest.param("https://www.shop.example:443", True, True, id="scheme and port"),
        pytest.param("http://www.shop.example", False, False, id="other scheme"),
    ],
)
def test_of_tls_that_is_not_decrypted_only_the_host_matches(
    entry: str, blocked: bool, allowed: bool
) -> None:
    asked = address.server("www.shop.example")

    for kind, expected in ((Kind.BLOCKED, blocked), (Kind.ALLOWED, allowed)):
        assert bool(UrlList(name="l", kind=kind, entries=(entry,)).find(asked)) is expected


@pytest.mark.parametrize("entry", ["http://shop.example", "shop.example:80", "http://shop.*/"])
def test_what_is_not_known_of_an_address_blocks_and_does_not_allow(entry: str) -> None:
    asked = Address(scheme="", host="shop.example", port=0, path="/")

    assert UrlList(name="l", kind=Kind.BLOCKED, entries=(entry,)).find(asked)
    assert not UrlList(name="l", kind=Kind.ALLOWED, entries=(entry,)).find(asked)


def test_the_entry_that_matched_is_named() -> None:
    entries = ("a.example", "*.b.example", "c.example/x", "c.example/y*", "d?.example")
    names = UrlList(name="l", kind=Kind.BLOCKED, entries=entries)

    asked = ("a.example", "x.b.example", "c.example/x", "c.example/yz", "d1.example")
    assert tuple(names.find(address.parse(f"http://{each}")) for each in asked) == entries


def test_too_many_entries_with_wildcards_are_refused() -> None:
    entries = tuple(f"*word{number}*" for number in range(MOST_WILD + 1))

    with pytest.raises(ValueError, match=r"\*\.names"):
        UrlList(name="l", kind=Kind.BLOCKED, entries=entries)


def like(pattern: str, text: str, within: int) -> bool:
    """Compare by the book, one character after the other; "?" before `within` is no slash."""
    rows = [[False] * (len(text) + 1) for _ in range(len(pattern) + 1)]
    rows[0][0] = True
    for i, wanted in enumerate(pattern, 1):
        for j in range(len(text) + 1):
            if wanted == "*":
                rows[i][j] = rows[i - 1][j] or (j > 0 and rows[i][j - 1])
            elif j:
                one = text[j - 1] != "/" or i > within
                same = one if wanted == "?" else wanted == text[j - 1]
                rows[i][j] = same and rows[i - 1][j - 1]
    return rows[-1][-1]


def slow(entry: str, asked: Address, kind: Kind) -> bool:
    """The rules of docs/rules.md, once more and differently."""
    host, slash, tail = entry.partition("/")
    path = "" if tail in ("", "*") else slash + tail
    below = host.startswith("*.") and len(host) > 2
    host = host[2:] if below else host
    labels = asked.host.split(".")
    starts = [".".join(labels[number:]) for number in range(len(labels) if below else 1)]
    for start in starts:
        if like(host, start, 99) and (not path or (asked.path and like(path, asked.path, 0))):
            return True
        wild = "*" in host or "?" in host
        across = wild and kind is Kind.BLOCKED and asked.path
        if across and like(host + path, start + asked.path, len(host)):
            return True
    return False


labels = st.text(alphabet="ab*?", min_size=1, max_size=4)
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)
paths = st.just("") | st.text(alphabet="ab*?/", max_size=5).map(lambda text: f"/{text}")
entries = st.builds(
    lambda start, host, path: start + host + path, st.sampled_from(["", "*."]), hosts, paths
)
addresses = st.builds(
    Address,
    scheme=st.just("http"),
    host=st.lists(st.text(alphabet="ab", min_size=1, max_size=3), min_size=1, max_size=4).map(
        ".".join
    ),
    port=st.just(80),
    path=st.just("") | st.text(alphabet="ab/.", max_size=6).map(lambda text: f"/{text}"),
)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.lists(entries, max_size=4), addresses, st.sampled_from(Kind))
@example(["*.*a/b"], Address("http", "b.a", 80, "/b"), Kind.BLOCKED)
@example(["*.a?b"], Address("http", "a.a", 80, "/b"), Kind.BLOCKED)
@example(["?.a"], Address("http", "b.a", 80, ""), Kind.ALLOWED)
def test_the_matcher_equals_a_slow_reference(texts: list[str], asked: Address, kind: Kind) -> None:
    expected = any(slow(text, asked, kind) for text in texts)

    assert bool(UrlList(name="l", kind=kind, entries=tuple(texts)).find(asked)) is expected


EVERY_KIND = UrlList(
    name="l",
    kind=Kind.BLOCKED,
    entries=("a.b", "*.b", "*a*b*a/b*c", "a.b/c*", "a.b/c", "*.a?b*c", "[::1]", "1.2.3.4"),
)
hostile = st.text(max_size=60) | st.text(alphabet="a.:/@[]%\\?#x01\ud800\udc80ü。-", max_size=60)


@pytest.mark.slow
@settings(max_examples=300)
@given(hostile)
def test_whatever_a_client_asks_for_is_compared_and_nothing_raises(text: str) -> None:
    everything = UrlList(name="l", kind=Kind.BLOCKED, entries=("*",))

    for url in (text, f"http://{text}", f"https://{text}/", f"http://{text}.b/x"):
        EVERY_KIND.find(address.parse(url))
        assert everything.find(address.parse(url)) == "*"
    assert everything.find(address.server(text)) == "*"


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("a." * 50_000, id="labels"),
        pytest.param("a" * 200_000, id="one label"),
        pytest.param("." * 100_000, id="dots"),
        pytest.param("1" * 50_000, id="digits"),
        pytest.param("0x" + "f" * 50_000, id="hexadecimal digits"),
        pytest.param("ü" * 50_000, id="international"),
        pytest.param("[" * 50_000, id="brackets"),
    ],
)
def test_a_host_without_bounds_ends_soon(host: str) -> None:
    """Each of these took minutes with a naive expression, or raised."""
    EVERY_KIND.find(address.parse(f"http://{host}:80/{'a/b' * 20_000}"))
    EVERY_KIND.find(address.parse(f"http://{host}x.b/"))


def test_a_domain_at_the_end_of_an_endless_name_is_still_found() -> None:
    assert EVERY_KIND.find(address.parse(f"http://{'x.' * 5000}b/")) == "*.b"
