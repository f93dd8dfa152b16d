"""Netlink's attributes: what we write we can read, and what makes no sense ends the reading."""

import pytest

from netiso.netlink import attribute, attributes, string, text


def test_attributes_come_back_as_they_were_written() -> None:
    inner = attribute(1, b"abc") + attribute(2, b"")
    written = text(1, "name") + attribute(3, inner, nested=True)

    (one, name), (two, nested) = attributes(written)

    assert (one, string(name)) == (1, "name")
    assert (two, list(attributes(nested))) == (3, [(1, b"abc"), (2, b"")])


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x01", id="less than a header"),
        pytest.param(b"\x00\x00\x01\x00", id="size zero, which would never end"),
        pytest.param(b"\x03\x00\x01\x00", id="size below the header's"),
        pytest.param(b"\x20\x00\x01\x00abcd", id="size past the end"),
    ],
)
def test_bytes_that_make_no_sense_end_the_reading(payload: bytes) -> None:
    good = attribute(9, b"good")
    assert list(attributes(good + payload)) == [(9, b"good")]
