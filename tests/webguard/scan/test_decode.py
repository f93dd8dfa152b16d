"""Encodings: undone, bounded, and broken in every way."""

import gzip
import random
import zlib
from collections.abc import Callable
from functools import partial

import brotli  # type: ignore[import-untyped]
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webguard.scan.decode import Decoded, Limits, decode

TEXT = bytes(range(256)) * 40 + random.Random(1).randbytes(3000)


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data)[2:-4]


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(data)


ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": partial(brotli.compress, quality=5),
    "zstd": zstd,
}
# Raw: a stored block of one byte, and one of five. Zlib: its header, and a
# stored block of 65,534 bytes whose second length is the first's content.
TWO_READINGS = b"\x78\x01\x00\xfe\xff\x01" + b"\x00\x05\x00\xfa\xffHELLO" + b"\x07"
SMALL = Limits(output=100_000, ratio=10, floor=1000)


def innermost(decoded: Decoded) -> bytes:
    return decoded.layers[-1][1]


def reasons(decoded: Decoded) -> str:
    return "; ".join(f"{each.where}: {each.reason}" for each in decoded.unscanned)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("text", [TEXT, b"x", b"a" * 300_000], ids=["text", "a byte", "long"])
def test_a_whole_body_is_decoded(name: str, text: bytes) -> None:
    decoded = decode(ENCODERS[name](text), name)

    assert decoded == Decoded(layers=((name.removeprefix("x-"), text),))


@pytest.mark.parametrize("header", ["", "identity", "Identity, ", " , "])
def test_a_body_without_encoding_has_no_layers(header: str) -> None:
    assert decode(TEXT, header) == Decoded()


@pytest.mark.parametrize("header", ["gzip", "br, gzip", "unknown"])
def test_an_empty_body_has_nothing_to_decode(header: str) -> None:
    assert decode(b"", header) == Decoded()


def test_deflate_without_zlibs_frame_is_decoded() -> None:
    assert ("deflate", TEXT) in decode(raw_deflate(TEXT), "deflate").layers


def test_deflate_that_is_broken_either_way_gives_both_readings() -> None:
    """What clients make of such a body differs, so an attacker could choose."""
    decoded = decode(TWO_READINGS, "deflate")

    assert {content for _, content in decoded.layers} == {
        b"\x01HELLO",
        b"\x05\x00\xfa\xffHELLO\x07",
    }
    assert decoded.unscanned


def test_encodings_are_undone_from_right_to_left() -> None:
    body = gzip.compress(zstd(brotli.compress(zlib.compress(TEXT))))

    decoded = decode(body, " deflate,BR , zstd,X-GZip ")

    assert decoded.layers[-1] == ("gzip/zstd/br/deflate", TEXT)
    assert len(decoded.layers) == 4
    assert not decoded.unscanned


def test_a_gzip_file_is_opened_whatever_the_header_says() -> None:
    file = gzip.compress(TEXT)

    assert decode(file, "").layers == (("gzip", TEXT),)
    assert decode(brotli.compress(file), "br").layers[-1] == ("br/gzip", TEXT)
    assert decode(gzip.compress(file), "gzip").layers[-1] == ("gzip/gzip", TEXT)


def test_all_members_of_a_gzip_file_are_read() -> None:
    body = gzip.compress(TEXT) + gzip.compress(b"") + gzip.compress(b"more")

    assert decode(body, "gzip") == Decoded(layers=(("gzip", TEXT + b"more"),))


def test_all_frames_of_zstd_are_read() -> None:
    assert decode(zstd(TEXT) + zstd(b"more"), "zstd").layers == (("zstd", TEXT + b"more"),)


def test_zeros_behind_the_end_are_padding() -> None:
    assert not decode(gzip.compress(TEXT) + bytes(512), "gzip").unscanned


@pytest.mark.parametrize("behind", [b"x", b"junk" * 5000, b"\x1f\x8b\x09", b"\x00x"])
@pytest.mark.parametrize("name", ENCODERS)
def test_what_follows_the_end_hides_nothing(name: str, behind: bytes) -> None:
    decoded = decode(ENCODERS[name](TEXT) + behind, name)

    assert innermost(decoded) == TEXT
    assert decoded.unscanned


@pytest.mark.parametrize("name", ENCODERS)
def test_what_follows_an_end_that_lies_on_the_border_of_two_steps_hides_nothing(name: str) -> None:
    noise = random.Random(2).randbytes(4200)
    for size in range(4070, 4110):
        decoded = decode(ENCODERS[name](noise[:size]) + b"x" * 100, name)

        assert innermost(decoded) == noise[:size]
        assert decoded.unscanned


@pytest.mark.parametrize("name", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_what_comes_before_a_cut_is_kept(name: str, kept: float) -> None:
    body = ENCODERS[name](TEXT)

    decoded = decode(body[: int(len(body) * kept)], name)

    assert len(innermost(decoded)) > len(TEXT) * kept / 4
    assert TEXT.startswith(innermost(decoded))
    assert "cut off" in reasons(decoded)


def test_blocks_before_a_cut_are_kept_of_zstd() -> None:
    long = random.Random(3).randbytes(500_000)

    decoded = decode(zstd(long)[:-10], "zstd")

    assert len(innermost(decoded)) >= 3 * 128 * 1024
    assert long.startswith(innermost(decoded))
    assert reasons(decoded) == "zstd: it is cut off"


def test_a_missing_trailer_hides_nothing() -> None:
    decoded = decode(gzip.compress(TEXT)[:-8], "gzip")

    assert innermost(decoded) == TEXT
    assert reasons(decoded) == "gzip: it is cut off"


def test_a_wrong_checksum_hides_nothing() -> None:
    body = bytearray(gzip.compress(TEXT))
    body[-6] ^= 1

    decoded = decode(bytes(body), "gzip")

    assert innermost(decoded) == TEXT
    assert "broken" in reasons(decoded)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoding_that_lies_is_unscanned(name: str) -> None:
    decoded = decode(b"<html>plain text</html>", name)

    assert [each.where for each in decoded.unscanned] == [name.removeprefix("x-")]


def test_a_gzip_file_under_a_lying_header_is_still_opened() -> None:
    decoded = decode(gzip.compress(TEXT), "br")

    assert decoded.layers == (("gzip", TEXT),)
    assert "br: it is broken" in reasons(decoded)


@pytest.mark.parametrize("name", ["compress", "engine", "gzip;q=1", "gz\x1bip\n", "ä" * 1000])
def test_an_unknown_encoding_is_unscanned_and_its_name_never_the_place(name: str) -> None:
    (missed,) = decode(b"body", name).unscanned

    assert missed.where == "content-encoding"
    assert len(missed.reason) < 400
    assert missed.reason.isprintable()
    assert missed.reason.isascii()


def test_what_lies_outside_an_unknown_encoding_is_decoded() -> None:
    decoded = decode(gzip.compress(b"secret"), "rot13, gzip")

    assert decoded.layers == (("gzip", b"secret"),)
    assert "'rot13'" in reasons(decoded)


def test_what_lies_inside_an_unknown_encoding_is_tried() -> None:
    """Clients skip the names that they do not know."""
    decoded = decode(brotli.compress(b"secret"), "br, aws-chunked")

    assert decoded.layers == (("br", b"secret"),)
    assert "'aws-chunked'" in reasons(decoded)


def test_a_thousand_unknown_encodings_are_named_once() -> None:
    assert len(decode(b"x", "a," * 1000).unscanned) == 1


def test_at_most_five_layers_are_opened() -> None:
    body = TEXT
    for _ in range(6):
        body = gzip.compress(body)

    decoded = decode(body, "gzip, gzip")

    assert len(decoded.layers) == 5
    assert "more than 5 layers" in reasons(decoded)


def test_a_bomb_of_layers_in_the_header_ends() -> None:
    decoded = decode(gzip.compress(gzip.compress(TEXT)), ", ".join(["gzip"] * 10_000))

    assert ("gzip/gzip", TEXT) in decoded.layers
    assert decoded.unscanned


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("frame", [lambda bomb: bomb, lambda bomb: bomb + b"x"], ids=["", "tail"])
def test_a_bomb_ends_at_the_ratio(name: str, frame: Callable[[bytes], bytes]) -> None:
    bomb = frame(ENCODERS[name](bytes(5_000_000)))

    decoded = decode(bomb, name, SMALL)

    most = min(SMALL.output, max(SMALL.floor, SMALL.ratio * len(bomb)))
    assert len(innermost(decoded)) == most
    assert decoded.unscanned
    assert "10-fold" in reasons(decoded) or "larger than 100000" in reasons(decoded)


def test_a_bomb_that_breaks_at_its_end_keeps_the_bound() -> None:
    bomb = bytearray(zstd(bytes(90_000)))
    bomb[-1] ^= 1  # the checksum

    decoded = decode(bytes(bomb), "zstd", SMALL)

    assert len(innermost(decoded)) == SMALL.floor


def test_two_readings_together_keep_the_bound() -> None:
    decoded = decode(TWO_READINGS, "deflate", Limits(output=12))

    assert sum(len(content) for _, content in decoded.layers) == 12


def test_the_bound_is_for_all_layers_together() -> None:
    body = TEXT
    for _ in range(4):
        body = gzip.compress(body)

    decoded = decode(body, "", Limits(output=len(TEXT) + 100))

    assert sum(len(content) for _, content in decoded.layers) == len(TEXT) + 100
    assert "larger than" in reasons(decoded)


def test_exactly_the_bound_is_not_over_it() -> None:
    for name, encode in ENCODERS.items():
        assert not decode(encode(TEXT), name, Limits(output=len(TEXT))).unscanned
        assert decode(encode(TEXT), name, Limits(output=len(TEXT) - 1)).unscanned


def test_a_body_may_grow_to_the_floor_whatever_the_ratio() -> None:
    assert not decode(gzip.compress(bytes(1000)), "gzip", SMALL).unscanned


@pytest.mark.parametrize(
    ("name", "member"), [("gzip", gzip.compress(b"")), ("zstd", zstd(b""))], ids=["gzip", "zstd"]
)
def test_a_bomb_of_empty_members_ends(name: str, member: bytes) -> None:
    assert "more than 1024" in reasons(decode(member * 2000, name))


names = st.sampled_from(["gzip", "x-gzip", "deflate", "br", "zstd", "identity", "other", ""])
headers = st.one_of(st.text(max_size=40), st.lists(names, max_size=7).map(", ".join))


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Bytes that are encoded, and then perhaps damaged."""
    body = draw(st.binary(max_size=300)) * draw(st.integers(1, 50))
    for name in draw(st.lists(st.sampled_from(sorted(ENCODERS)), max_size=6)):
        body = ENCODERS[name](body)
    if body and draw(st.booleans()):
        at = draw(st.integers(0, len(body) - 1))
        body = body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 2)) :]
    return body


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(bodies(), headers)
def test_no_content_raises_or_grows_over_the_bound(body: bytes, header: str) -> None:
    decoded = decode(body, header, SMALL)

    most = min(SMALL.output, max(SMALL.floor, SMALL.ratio * len(body)))
    assert sum(len(content) for _, content in decoded.layers) <= most
    assert len(decoded.layers) <= SMALL.layers + 1  # deflate may be read in two ways
    assert all(content for _, content in decoded.layers)
    assert len(decoded.unscanned) <= SMALL.layers + 2


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=2000), st.lists(st.sampled_from(sorted(ENCODERS)), max_size=4))
def test_what_was_encoded_is_found_again(content: bytes, chain: list[str]) -> None:
    body = content
    for name in chain:
        body = ENCODERS[name](body)

    decoded = decode(body, ", ".join(chain))

    views = [body, *(each for _, each in decoded.layers)]
    assert content in views or not content
