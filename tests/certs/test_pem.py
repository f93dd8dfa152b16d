"""Finding and dropping certificates in bytes that nobody promised anything about."""

from hypothesis import given
from hypothesis import strategies as st

from certs import pem

OURS = b"\x30\x03our"
MARKER = b"# ours, added\n"
BLOCK = MARKER + pem.block(OURS)

# Pieces of PEM in any order, so that blocks are nested, cut and glued together.
FRAGMENT = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"-----BEGIN CERTIFICATE-----",
            b"-----END CERTIFICATE-----",
            b"-----BEGIN PRIVATE KEY-----\n",
            b"\n",
            b"\r\n",
            b"====",
            pem.block(b"\x30\x05other"),
            pem.block(b"\x30\x05third").replace(b"\n", b"\r\n"),
            MARKER,
        ]
    ),
)
BUNDLE = st.lists(FRAGMENT, max_size=12).map(b"".join)


@given(st.binary(min_size=1, max_size=5000))
def test_a_block_is_read_back(der: bytes) -> None:
    written = pem.block(der)

    assert list(pem.blocks(written)) == [(0, len(written), der)]
    assert max(map(len, written.splitlines())) <= 64


@given(BUNDLE)
def test_blocks_never_overlap_and_never_leave_the_data(data: bytes) -> None:
    position = 0
    for start, end, _ in pem.blocks(data):
        assert position <= start < end <= len(data)
        position = end


@given(BUNDLE, BUNDLE)
def test_what_was_inserted_between_whole_lines_is_taken_out_again(
    before: bytes, after: bytes
) -> None:
    if pem.unfinished(before):
        return
    inserted = before + b"\n" + BLOCK + after

    assert pem.without(inserted, {pem.sha256(OURS)}, MARKER) == before + b"\n" + after


@given(BUNDLE)
def test_nothing_is_taken_from_data_that_has_none_of_ours(data: bytes) -> None:
    assert pem.without(data, {pem.sha256(OURS)}, MARKER) == data


def test_ours_without_its_marker_is_found_as_well() -> None:
    data = b"text\n" + pem.block(OURS) + b"more"

    assert pem.without(data, {pem.sha256(OURS)}, MARKER) == b"text\nmore"


def test_a_marker_of_somebody_elses_certificate_stays() -> None:
    data = MARKER + pem.block(b"other")

    assert pem.without(data, {pem.sha256(OURS)}, MARKER) == data


def test_a_block_that_is_no_base64_has_no_fingerprint() -> None:
    data = b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n"

    assert [der for _, _, der in pem.blocks(data)] == [b""]
    assert pem.fingerprints(data) == set()


def test_megabytes_of_beginnings_end() -> None:
    """The search is linear: with a backtracking one this test would take days."""
    begins = b"-----BEGIN CERTIFICATE-----" * ((4 << 20) // 27)

    assert list(pem.blocks(begins)) == []
    assert pem.unfinished(begins)
    ends = begins.replace(b"BEGIN", b"END")
    assert list(pem.blocks(ends)) == []
