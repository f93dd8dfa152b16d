"""Contents by their digests, alone and in the engine."""

import asyncio
import gzip
import hashlib

import pytest

from webguard.errors import ConfigError
from webguard.model import Detection
from webguard.scan.engine import Engine, compile_rules
from webguard.scan.hashes import Hashes

BODY = b"a body that somebody listed" * 10
NOTHING = compile_rules({})


def digest(algorithm: str, content: bytes = BODY) -> str:
    return hashlib.new(algorithm, content).hexdigest()


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_a_content_is_known_by_any_digest(algorithm: str) -> None:
    known = Hashes([("bad", [(digest(algorithm), "Thing")])])

    assert known.find(BODY, "gzip") == [Detection(engine="hash", name="bad/Thing", member="gzip")]
    assert known.find(BODY + b"x") == []


def test_a_digest_without_a_name_is_named_by_itself() -> None:
    known = Hashes([("bad", [(digest("sha1").upper(), "")])])

    assert [each.name for each in known.find(BODY)] == [f"bad/{digest('sha1')[:16]}"]


def test_of_two_lists_the_first_names_it() -> None:
    known = Hashes([("a", [(digest("md5"), "x")]), ("b", [(digest("md5"), "y")])])

    assert [each.name for each in known.find(BODY)] == ["a/x"]


def test_only_the_digests_that_a_list_needs_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Hashes([("a", [(digest("sha1"), "x")])])
    computed: list[str] = []
    real = hashlib.new

    def counted(name: str, data: bytes, *, usedforsecurity: bool = True) -> "hashlib._Hash":
        computed.append(name)
        return real(name, data, usedforsecurity=usedforsecurity)

    monkeypatch.setattr("webguard.scan.hashes.hashlib.new", counted)

    known.find(BODY)
    Hashes().find(BODY)

    assert computed == ["sha1"]


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_nothing_at_all_is_never_known(algorithm: str) -> None:
    """Lists found on the net hold the digest of the empty file: it would block every 204."""
    assert Hashes([("a", [(digest(algorithm, b""), "x")])]).find(b"") == []


@pytest.mark.parametrize("padding", [b"", bytes(20_000)], ids=["small", "in a thread"])
async def test_a_body_is_known_as_transferred_and_as_decoded(padding: bytes) -> None:
    inner = BODY + padding
    body = gzip.compress(inner, 0)
    lists = [("in", [(digest("md5", inner), "x")]), ("out", [(digest("sha256", body), "y")])]
    engine = Engine(NOTHING, hashes=Hashes(lists))

    found = (await engine.scan(body, "gzip")).detections

    assert {(each.engine, each.name, each.member) for each in found} == {
        ("hash", "in/x", "gzip"),
        ("hash", "out/y", ""),
    }


async def test_rules_and_hashes_are_swapped_together() -> None:
    engine = Engine(NOTHING, generation=1)
    assert (await engine.scan(BODY, "")).detections == ()

    engine.swap(
        compile_rules({"a.yar": "rule New { condition: true }"}),
        hashes=Hashes([("bad", [(digest("md5"), "x")])]),
        generation=2,
    )

    assert engine.generation == 2
    found = (await engine.scan(BODY, "")).detections
    assert [(each.engine, each.name) for each in found] == [("hash", "bad/x"), ("yara", "New")]


async def test_rules_that_are_no_rules_change_nothing() -> None:
    engine = Engine(compile_rules({"a.yar": "rule Old { condition: true }"}), generation=1)

    with pytest.raises(ConfigError, match="compile them"):
        engine.swap(b"garbage", hashes=Hashes(), generation=2)

    assert engine.generation == 1
    assert [each.name for each in (await engine.scan(BODY, "")).detections] == ["Old"]


async def test_a_scan_under_way_is_of_one_generation_alone() -> None:
    """Begun with nothing to find, and swapped while it was decoded: it finds both."""
    engine = Engine(NOTHING)
    inner = BODY + bytes(200_000)
    rules = compile_rules({"a.yar": "rule New { condition: true }"})
    async with asyncio.TaskGroup() as tasks:
        # Stored, not compressed: a small body would be decoded at once.
        scan = tasks.create_task(engine.scan(gzip.compress(inner, 0), "gzip"))
        await asyncio.sleep(0)  # it is in its thread now

        engine.swap(rules, hashes=Hashes([("bad", [(digest("md5", inner), "x")])]), generation=2)
        assert not scan.done()

    assert {each.engine for each in scan.result().detections} == {"hash", "yara"}


async def test_after_a_crash_the_engine_goes_on_with_the_swapped_rules() -> None:
    engine = Engine(NOTHING)
    engine.swap(compile_rules({"a.yar": "rule New { condition: true }"}), generation=2)
    engine._scanner = None  # type: ignore[assignment]

    failed = await engine.scan(BODY, "")
    after = await engine.scan(BODY, "")

    assert failed.unscanned
    assert [each.name for each in after.detections] == ["New"]
