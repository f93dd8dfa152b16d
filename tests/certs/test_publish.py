"""The host's side: the public copy, and whom we trust upstream."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs import pem
from certs.authority import Authority
from certs.publish import place, publish, upstream_roots, withdraw
from webguard.errors import ConfigError, HostError

if TYPE_CHECKING:
    from collections.abc import Callable

BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def a_host(root: Path, bundle: bytes, name: str = BUNDLE) -> Path:
    (root / name).parent.mkdir(parents=True)
    (root / name).write_bytes(bundle)
    return root


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("etc/ssl/certs", "etc/ssl/certs/ESET-SSL-Filter-CA.pem"),
        (
            "etc/pki/ca-trust/extracted/pem",
            "etc/pki/ca-trust/extracted/pem/ESET-SSL-Filter-CA.pem",
        ),
        ("nothing", "etc/ssl/certs/ESET-SSL-Filter-CA.pem"),
    ],
    ids=["Debian", "Red Hat", "neither"],
)
def test_the_public_copy_is_where_the_family_has_it(
    tmp_path: Path, authority: Authority, folder: str, path: str
) -> None:
    (tmp_path / folder).mkdir(parents=True)

    copy = publish(tmp_path, authority.public)
    again = publish(tmp_path, authority.public)

    assert copy == again == tmp_path / path == place(tmp_path)
    assert copy.read_bytes() == authority.public.pem
    assert b"PRIVATE" not in copy.read_bytes()
    assert copy.stat().st_mode & 0o7777 == 0o644
    assert list(copy.parent.iterdir()) == [copy]


def test_a_new_generation_takes_the_place_of_an_old_one(
    tmp_path: Path, authority: Authority
) -> None:
    old = Authority.ensure(tmp_path / "old")
    publish(tmp_path, old.public)

    assert publish(tmp_path, authority.public).read_bytes() == authority.public.pem


def test_what_is_not_ours_is_neither_replaced_nor_withdrawn(
    tmp_path: Path, authority: Authority, foreign: Callable[[str], bytes]
) -> None:
    theirs = foreign("ESET SSL Filter CA")
    place(tmp_path).parent.mkdir(parents=True)
    place(tmp_path).write_bytes(theirs)

    with pytest.raises(HostError, match="not Webguard's"):
        publish(tmp_path, authority.public)

    assert withdraw(tmp_path) is False
    assert place(tmp_path).read_bytes() == theirs


def test_withdrawing_removes_ours_once(tmp_path: Path, authority: Authority) -> None:
    copy = publish(tmp_path, authority.public)

    assert [withdraw(tmp_path), withdraw(tmp_path)] == [True, False]
    assert not copy.exists()


@pytest.mark.parametrize("name", [BUNDLE, "etc/pki/tls/certs/ca-bundle.crt", "etc/ssl/cert.pem"])
def test_upstream_trust_is_the_hosts_bundle(
    tmp_path: Path, authority: Authority, roots: bytes, name: str
) -> None:
    host = a_host(tmp_path, b"# comment \xff\n" + roots, name)

    assert upstream_roots(host, (), authority.public) == roots


def test_no_generation_of_ours_is_trusted_upstream(
    tmp_path: Path, authority: Authority, roots: bytes
) -> None:
    old = Authority.ensure(tmp_path / "old").public
    host = a_host(tmp_path / "host", old.pem + roots + authority.public.pem)
    extra = tmp_path / "extra.pem"
    extra.write_bytes(old.pem + roots)

    trusted = upstream_roots(host, (extra,), authority.public)

    assert pem.fingerprints(trusted) == pem.fingerprints(roots)


def test_extra_cas_are_added_once(
    tmp_path: Path, authority: Authority, roots: bytes, foreign: Callable[[str], bytes]
) -> None:
    host, extra, own = a_host(tmp_path, roots), tmp_path / "extra.pem", foreign("Own CA")
    extra.write_bytes(b"our own CA:\n" + own + roots)

    assert upstream_roots(host, (extra, extra), authority.public) == roots + own


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(None, "cannot be read", id="missing"),
        pytest.param(b" \n", "is empty", id="empty"),
        pytest.param(b"\x30\x82\x01", "holds no PEM certificate", id="DER"),
        pytest.param(pem.block(b"\x30\x01"), "is broken", id="broken certificate"),
    ],
)
def test_an_extra_ca_of_no_use_is_an_error_that_names_the_file(
    tmp_path: Path, authority: Authority, roots: bytes, content: bytes | None, problem: str
) -> None:
    host, extra = a_host(tmp_path, roots), tmp_path / "extra.pem"
    if content is not None:
        extra.write_bytes(content)

    with pytest.raises(ConfigError, match=problem) as caught:
        upstream_roots(host, (extra,), authority.public)

    assert caught.value.where == str(extra)


def test_an_extra_ca_that_is_a_fifo_does_not_hang(
    tmp_path: Path, authority: Authority, roots: bytes
) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(ConfigError, match="not a file"):
        upstream_roots(a_host(tmp_path, roots), (tmp_path / "fifo",), authority.public)


def test_our_own_ca_as_an_extra_is_an_error(
    tmp_path: Path, authority: Authority, roots: bytes
) -> None:
    extra = tmp_path / "extra.pem"
    extra.write_bytes(authority.public.pem)

    with pytest.raises(ConfigError, match="never trusted upstream"):
        upstream_roots(a_host(tmp_path, roots), (extra,), authority.public)


def test_a_host_without_a_bundle_is_told_what_to_install(
    tmp_path: Path, authority: Authority
) -> None:
    with pytest.raises(HostError, match="apt-get install ca-certificates"):
        upstream_roots(a_host(tmp_path, b"\n"), (), authority.public)
