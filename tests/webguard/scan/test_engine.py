"""The engine: what it finds, and what it says when it cannot look."""

import asyncio
import gzip
import hashlib
from functools import partial

import brotli  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from webguard.errors import ConfigError
from webguard.model import ENGINE, Detection, ScanResult
from webguard.ports import Scan
from webguard.scan.decode import Limits
from webguard.scan.engine import Engine, compile_rules, shipped_rules

pytestmark = pytest.mark.slow

# In two pieces, or virus scanners would take this file for the test file.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-" + b"ANTIVIRUS-TEST-FILE!$H+H*"
FOUND = Detection(engine="yara", name="Eicar", kind="test file")

SHIPPED = compile_rules(shipped_rules())
# Needs some minutes; the scanner's clock stops it.
SLOW = """rule slow { condition: filesize > 0 and
    for all i in (0..1000000000) : ( for all j in (0..1000000000) : ( i + j + 1 != 0 ) ) }"""


async def scan(body: bytes, content_encoding: str = "") -> ScanResult:
    return await Engine(SHIPPED).scan(body, content_encoding)


def test_a_part_is_looked_at_as_it_stands() -> None:
    engine = Engine(SHIPPED)
    assert engine.look(EICAR).detections == (FOUND,)
    assert engine.look(gzip.compress(EICAR)) == ScanResult()


def test_a_part_that_takes_too_long_is_a_failure_of_ours() -> None:
    result = Engine(compile_rules({"slow.yar": SLOW}), timeout=1).look(b"x")
    assert [each.where for each in result.unscanned] == [ENGINE]


@pytest.mark.parametrize(
    ("body", "found"),
    [
        pytest.param(EICAR, True, id="alone"),
        pytest.param(EICAR + b"\n", True, id="newline"),
        pytest.param(EICAR + b" \t\n\r\x1a", True, id="every kind of white space"),
        pytest.param(EICAR + b" " * 59, True, id="127 bytes"),
        pytest.param(EICAR + b" " * 60, True, id="128 bytes"),
        pytest.param(EICAR + b" " * 61, False, id="129 bytes"),
        pytest.param(b" " + EICAR, False, id="something before it"),
        pytest.param(b"\xef\xbb\xbf" + EICAR, False, id="a byte order mark before it"),
        pytest.param(EICAR + b"x", False, id="text behind it"),
        pytest.param(EICAR + b"\n\nx", False, id="text behind white space"),
        pytest.param(EICAR + b" " * 59 + b"x", False, id="text in the last byte"),
        pytest.param(EICAR + b"\0", False, id="NUL is not white space"),
        pytest.param(EICAR + b"\x0b", False, id="vertical tab is not white space"),
        pytest.param(EICAR[:-1], False, id="cut off"),
        pytest.param(EICAR.lower(), False, id="lower case"),
        pytest.param(b"<pre>" + EICAR + b"</pre>", False, id="quoted in a page"),
        pytest.param(b"", False, id="nothing"),
    ],
)
async def test_eicar_is_what_its_definition_says(body: bytes, found: bool) -> None:
    result = await scan(body)

    assert result.detections == ((FOUND,) if found else ())
    assert result.unscanned == ()


@pytest.mark.parametrize(
    ("body", "header", "member"),
    [
        pytest.param(gzip.compress(EICAR), "gzip", "gzip", id="gzip"),
        pytest.param(gzip.compress(EICAR), "", "gzip", id="a gzip file"),
        pytest.param(gzip.compress(brotli.compress(EICAR)), "br, gzip", "gzip/br", id="chain"),
        pytest.param(gzip.compress(EICAR)[:-8], "gzip", "gzip", id="cut off"),
        pytest.param(brotli.compress(EICAR) + b"x", "br", "br", id="tail"),
        pytest.param(EICAR, "gzip", "", id="an encoding that lies"),
        pytest.param(EICAR, "unheard-of", "", id="an unknown encoding"),
    ],
)
async def test_content_is_found_through_its_encoding(body: bytes, header: str, member: str) -> None:
    result = await scan(body, header)

    assert [(each.name, each.member) for each in result.detections] == [("Eicar", member)]


async def test_a_body_is_scanned_as_transferred_as_well() -> None:
    rules = compile_rules({"own.yar": "rule Magic { condition: uint16be(0) == 0x1f8b }"})

    result = await Engine(rules).scan(gzip.compress(b"x"), "gzip")

    assert [(each.name, each.kind, each.member) for each in result.detections] == [
        ("Magic", "malware", "")
    ]


async def test_the_hash_is_of_the_body_as_transferred() -> None:
    body = gzip.compress(EICAR)

    assert (await scan(body, "gzip")).sha256 == hashlib.sha256(body).hexdigest()


async def test_large_bodies_beside_each_other_all_get_their_answer() -> None:
    engine = Engine(SHIPPED)
    clean = gzip.compress(bytes(range(256)) * 2000) + bytes(20_000)
    malicious = gzip.compress(EICAR) + bytes(20_000)

    results = await asyncio.gather(*(engine.scan(body, "gzip") for body in [clean, malicious] * 10))

    assert [bool(each.detections) for each in results] == [False, True] * 10


async def test_the_engine_is_the_port() -> None:
    port: Scan = Engine(SHIPPED).scan

    assert (await port(EICAR, "")).detections


async def test_a_bomb_is_unscanned_and_not_our_failure() -> None:
    engine = Engine(SHIPPED, limits=Limits(output=10_000, floor=1000, ratio=10))

    result = await engine.scan(gzip.compress(bytes(10**6)), "gzip")

    assert [each.where for each in result.unscanned] == ["gzip"]


async def test_running_out_of_time_is_our_failure_and_hides_no_other_layer() -> None:
    rules = {
        "slow.yar": SLOW.replace("filesize > 0", "uint16be(0) == 0x1f8b"),
        **shipped_rules(),
    }
    engine = Engine(compile_rules(rules), timeout=1)

    result = await engine.scan(gzip.compress(EICAR), "gzip")

    assert [each.name for each in result.detections] == ["Eicar"]
    assert [each.where for each in result.unscanned] == [ENGINE]
    assert "1 s" in result.unscanned[0].reason


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_crash_of_the_engine_is_our_failure_and_the_next_scan_works() -> None:
    """A scanner in another thread than its own panics: a real crash, made by hand."""
    engine = await asyncio.to_thread(partial(Engine, SHIPPED))

    first = await engine.scan(EICAR, "")
    second = await engine.scan(EICAR, "")

    assert [each.where for each in first.unscanned] == [ENGINE]
    assert second.detections == (FOUND,)
    assert second.unscanned == ()


@pytest.mark.parametrize("name", [ENGINE, ENGINE.upper(), f"gzip, {ENGINE}"])
async def test_content_cannot_pass_for_our_failure(name: str) -> None:
    result = await scan(b"x", name)

    assert result.unscanned
    assert ENGINE not in [each.where for each in result.unscanned]


async def test_one_name_is_one_detection() -> None:
    rules = {
        f"{number}.yar": 'rule Many { strings: $a = "a" condition: #a > 10 }'
        for number in range(100)
    }

    result = await Engine(compile_rules(rules)).scan(b"a" * 100_000, "")

    assert len(result.detections) == 1  # the same name, once


async def test_a_body_that_matches_everything_gives_a_bounded_answer() -> None:
    rules = {"own.yar": "\n".join(f"rule r{n} {{ condition: true }}" for n in range(100))}

    assert len((await Engine(compile_rules(rules)).scan(b"x", "")).detections) == 32


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        pytest.param("rule a {", "own.yar:1", "syntax error", id="syntax"),
        pytest.param("\nrule a { condition: $b }", "own.yar:2", "unknown pattern", id="pattern"),
        pytest.param("rule a { condition: b }", "own.yar:1", "`b`", id="identifier"),
        pytest.param('import "nosuch"', "own.yar:1", "nosuch", id="module"),
        pytest.param('include "/etc/passwd"', "own.yar:1", "include", id="include"),
        pytest.param(
            "rule a{condition:true}\nrule a{condition:true}", "own.yar:2", "a", id="twice"
        ),
        pytest.param("\n\udc80", "own.yar:2", "UTF-8", id="not text"),
        pytest.param("\0", "own.yar:1", "syntax error", id="NUL"),
    ],
)
def test_a_rule_that_does_not_compile_is_named(text: str, where: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_rules({"good.yar": "rule good { condition: true }", "own.yar": text})

    assert caught.value.where == where
    assert problem in caught.value.problem
    assert caught.value.problem.endswith(")")


def test_rules_of_two_files_may_share_a_name() -> None:
    rule = "rule same { condition: true }"

    assert compile_rules({"a.yar": rule, "b.yar": rule})


@pytest.mark.parametrize("rules", [b"", b"garbage", SHIPPED[:-50]])
def test_rules_that_were_not_compiled_are_refused(rules: bytes) -> None:
    with pytest.raises(ConfigError, match="compile them"):
        Engine(rules)


def test_no_shipped_rule_looks_like_the_test_file() -> None:
    assert shipped_rules()
    assert not any(EICAR.decode() in text for text in shipped_rules().values())


ENGINE_OF_SHIPPED_RULES = Engine(SHIPPED)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=300), st.text(max_size=30))
def test_no_content_raises(body: bytes, header: str) -> None:
    result = asyncio.run(ENGINE_OF_SHIPPED_RULES.scan(body, header))

    assert len(result.sha256) == 64
