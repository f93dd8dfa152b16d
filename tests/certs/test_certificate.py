"""Knowing our own certificate when we see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from certs.authority import Authority
from certs.certificate import NAME_PREFIX, our_certificate

if TYPE_CHECKING:
    from collections.abc import Callable


def test_our_certificate_is_read_from_its_pem(authority: Authority) -> None:
    assert our_certificate(authority.public.pem) == authority.public


def test_the_block_is_marked_and_the_file_name_is_plain(authority: Authority) -> None:
    ours = authority.public

    assert ours.block == ours.marker + ours.pem.decode()
    assert ours.marker.startswith("# ")
    assert ours.marker.count("\n") == 1
    assert set(ours.file_name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


@pytest.mark.parametrize(
    "name",
    ["Some CA", NAME_PREFIX, NAME_PREFIX + "../../x", "X" + NAME_PREFIX + "01234567", "01234567"],
)
def test_a_certificate_by_another_name_is_not_ours(
    foreign: Callable[[str], bytes], name: str
) -> None:
    with pytest.raises(ValueError, match="not one of"):
        our_certificate(foreign(name))


@pytest.mark.parametrize("count", [0, 2])
def test_one_certificate_is_one(authority: Authority, count: int) -> None:
    with pytest.raises(ValueError, match="certificates"):
        our_certificate(authority.public.pem * count)
