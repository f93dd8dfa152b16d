"""Which names may be in a certificate."""

import pytest
from cryptography import x509
from hypothesis import assume, example, given
from hypothesis import strategies as st

from certs.names import subject_names


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("*.example.com", id="wildcard"),
        pytest.param("a..b", id="empty label"),
        pytest.param(".example.com", id="dot first"),
        pytest.param("example.com.", id="dot last"),
        pytest.param("-a.example", id="hyphen first"),
        pytest.param("a-.example", id="hyphen last"),
        pytest.param("a b", id="space"),
        pytest.param("a\n", id="line feed"),
        pytest.param("a\0.example", id="NUL"),
        pytest.param("b\u00fccher.example", id="IDN as it is spoken"),
        pytest.param("\u212aa.example", id="a Kelvin sign, whose lower case is k"),
        pytest.param("a" * 64 + ".example", id="long label"),
        pytest.param(".".join(["a" * 50] * 5), id="254 characters"),
        pytest.param("1.2.3", id="short address"),
        pytest.param("1.2.3.256", id="no address"),
        pytest.param("a.0x7f", id="ends in a number"),
        pytest.param("fe80::1%eth0", id="zone"),
        pytest.param("[::1]", id="brackets"),
        pytest.param("\u0661.2.3.4", id="a digit of another script"),
        pytest.param("host:443", id="port"),
        pytest.param("user@host", id="user"),
    ],
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        subject_names((name,))


@pytest.mark.parametrize("count", [0, 17])
def test_the_number_of_names_is_bounded(count: int) -> None:
    with pytest.raises(ValueError, match="names"):
        subject_names([f"h{number}.example" for number in range(count)])


def test_upper_case_and_repetition_go() -> None:
    assert subject_names(("A.Example", "a.example")) == [x509.DNSName("a.example")]


@given(st.text(max_size=300))
@example("xn--.example")
@example("1.1.1.1")
@example("::ffff:1.2.3.4")
def test_whatever_passes_is_a_name_that_a_certificate_can_carry(text: str) -> None:
    try:
        (name,) = subject_names((text,))
    except ValueError:
        return

    value = str(name.value)
    assert x509.SubjectAlternativeName([name]).public_bytes()
    assert value.isascii()
    assert len(value) <= 253
    assert not set(value) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.:")


@given(st.ip_addresses())
def test_every_address_is_an_address(address: object) -> None:
    (name,) = subject_names((str(address).partition("%")[0],))

    assert isinstance(name, x509.IPAddress)


@given(
    st.lists(
        st.from_regex(r"[a-z0-9_][a-z0-9-]{0,20}[a-z_]", fullmatch=True), min_size=1, max_size=8
    )
)
def test_every_plain_host_name_passes(labels: list[str]) -> None:
    # A last label like "0x" makes it an address to some resolvers, and is refused: see below.
    assume(not labels[-1].startswith("0x"))
    host = ".".join(labels)

    assert subject_names((host,)) == [x509.DNSName(host)]


@pytest.mark.parametrize("host", ["0x", "a.0x", "1.2.3.0x4", "0x7f_"])
def test_what_some_resolvers_take_for_an_address_is_no_host_name(host: str) -> None:
    with pytest.raises(ValueError, match="neither an address nor a host name"):
        subject_names((host,))
