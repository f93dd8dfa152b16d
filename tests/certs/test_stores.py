"""The table of stores, as plans."""

import pytest

from certs import stores
from certs.authority import Authority
from certs.stores import BARE, OTHERS, Do, Fact, Plan

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
ANCHORS = "/usr/local/share/ca-certificates"


def a_plan(authority: Authority, **facts: Fact) -> Plan:
    known = {path: Fact() for path in stores.paths()} | facts
    return stores.plan(known, authority.public, "ROOTS\n")


def shape(plan: Plan) -> list[tuple[Do, str]]:
    return [(step.do, step.path) for step in plan.steps]


def test_a_debian_like_container_gets_all_three_places(authority: Authority) -> None:
    plan = a_plan(
        authority,
        **{
            BUNDLE: Fact(kind="file", identity="1:1"),
            ANCHORS: Fact(kind="directory"),
            "/etc/ssl/certs": Fact(kind="directory", hashed=True),
        },
    )

    ours = authority.public
    assert shape(plan) == [
        (Do.APPEND, BUNDLE),
        (Do.CREATE, f"{ANCHORS}/{ours.file_name}.crt"),
        (Do.LINK, f"/etc/ssl/certs/{ours.file_name}.pem"),
        (Do.LINK, f"/etc/ssl/certs/{ours.subject_hash}.0"),
    ]
    assert plan.steps[2].target == f"{ANCHORS}/{ours.file_name}.crt"
    assert plan.steps[3].target == f"{ours.file_name}.pem"


def test_an_alpine_like_container_has_no_hash_links(authority: Authority) -> None:
    plan = a_plan(
        authority,
        **{
            BUNDLE: Fact(kind="file", identity="1:1"),
            "/etc/ssl/cert.pem": Fact(kind="file", identity="1:1"),
            ANCHORS: Fact(kind="directory"),
            "/etc/ssl/certs": Fact(kind="directory"),
        },
    )

    assert [do for do, _ in shape(plan)] == [Do.APPEND, Do.CREATE]


def test_a_container_with_a_bundle_alone_gets_that_alone(authority: Authority) -> None:
    plan = a_plan(authority, **{BUNDLE: Fact(kind="file", identity="1:1")})

    assert shape(plan) == [(Do.APPEND, BUNDLE)]


def test_two_different_bundles_are_both_written(authority: Authority) -> None:
    plan = a_plan(
        authority,
        **{
            BUNDLE: Fact(kind="file", identity="1:1"),
            "/etc/ssl/cert.pem": Fact(kind="file", identity="1:2"),
        },
    )

    assert shape(plan) == [(Do.APPEND, BUNDLE), (Do.APPEND, "/etc/ssl/cert.pem")]


def test_a_bare_container_gets_the_roots_and_ours(authority: Authority) -> None:
    plan = a_plan(authority)

    assert shape(plan) == [(Do.CREATE, BARE)]
    assert plan.steps[0].content == "ROOTS\n" + authority.public.block


@pytest.mark.parametrize("path", OTHERS)
def test_a_family_that_is_not_in_the_table_is_not_taken_for_bare(
    authority: Authority, path: str
) -> None:
    plan = a_plan(authority, **{path: Fact(kind="file")})

    assert (plan.family, plan.steps, plan.refused[0][0]) == ("unknown", (), path)


@pytest.mark.parametrize("kind", ["directory", "FIFO", "character device"])
def test_a_bundle_that_is_no_file_is_refused_by_its_kind(authority: Authority, kind: str) -> None:
    plan = a_plan(authority, **{BUNDLE: Fact(kind=kind)})

    assert plan.steps == ()
    assert plan.refused == ((BUNDLE, f"it is a {kind}, not a file"),)
