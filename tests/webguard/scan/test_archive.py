"""Archives: what is found in them, and what is said of those that cannot be read whole."""

import bz2
import os

import pytest
import zstandard

from tests.webguard.scan.packing import encrypted, tarred, written, zipped
from webguard.model import ScanResult
from webguard.scan import archive
from webguard.scan.archive import ARCHIVE, MISSING, Bounds, Unpacker, is_archive, library
from webguard.scan.engine import Engine, compile_rules

BAD = b"this is the malware of this test"
RULES = compile_rules({"own.yar": f'rule Own {{ strings: $a = "{BAD.decode()}" condition: $a }}'})
SMALL = Bounds(member=64 * 1024, total=256 * 1024, floor=100_000, entries=20, depth=3)


async def scan(content: bytes, bounds: Bounds = SMALL, encoding: str = "") -> ScanResult:
    return await Unpacker(Engine(RULES), library(), bounds).scan(content, encoding)


def members(result: ScanResult) -> list[str]:
    return [each.member for each in result.detections]


def reasons(result: ScanResult) -> dict[str, str]:
    return {each.where: each.reason for each in result.unscanned}


@pytest.mark.parametrize(
    ("content", "member"),
    [
        pytest.param(zipped({"a/bad": BAD}), "zip/a/bad", id="zip"),
        pytest.param(b"MZ program" + zipped({"bad": BAD}), "zip/bad", id="behind a program"),
        pytest.param(tarred({"bad": BAD}), "tar/bad", id="tar"),
        pytest.param(tarred({"bad": BAD}, "w:gz"), "gzip/tar/bad", id="tar.gz"),
        pytest.param(tarred({"bad": BAD}, "w:bz2"), "bzip2/tar/bad", id="tar.bz2"),
        pytest.param(tarred({"bad": BAD}, "w:xz"), "xz/tar/bad", id="tar.xz"),
        pytest.param(zstandard.compress(tarred({"bad": BAD})), "zstd/tar/bad", id="tar.zst"),
        pytest.param(bz2.compress(BAD), "bzip2", id="bz2"),
        pytest.param(written("7zip", "bad", BAD), "7zip/bad", id="7z"),
        pytest.param(written("newc", "bad", BAD), "cpio/bad", id="newc"),
        pytest.param(written("cpio", "bad", BAD), "cpio/bad", id="odc"),
        pytest.param(written("arbsd", "bad", BAD), "ar/bad", id="ar"),
        pytest.param(written("iso9660", "BAD.TXT", BAD), "iso9660/BAD.TXT", id="iso"),
        pytest.param(zipped({"b.zip": zipped({"bad": BAD})}), "zip/b.zip/zip/bad", id="nested"),
        pytest.param(
            zipped({"b": tarred({"bad": BAD}, "w:gz")}), "zip/b/gzip/tar/bad", id="tar.gz in zip"
        ),
    ],
)
async def test_what_is_in_an_archive_is_found_and_named(content: bytes, member: str) -> None:
    result = await scan(content)

    assert member in members(result)
    assert result.unscanned == ()


async def test_an_archive_in_a_content_encoding_is_opened() -> None:
    assert members(await scan(zstandard.compress(zipped({"bad": BAD})), encoding="zstd")) == [
        "zstd/zip/bad"
    ]


@pytest.mark.parametrize(
    ("content", "where", "reason"),
    [
        pytest.param(encrypted({"a": BAD}), "zip/a", "it is encrypted", id="encrypted"),
        pytest.param(
            zipped({"a": os.urandom(9000)})[:4000], "zip/a", "it is damaged", id="truncated"
        ),
        pytest.param(
            zipped({"a": os.urandom(70_000)}), "zip/a", "it is larger than 65536", id="one member"
        ),
        pytest.param(
            zipped({str(n): os.urandom(60_000) for n in range(6)}),
            "zip",
            "more than 262144 bytes in all",
            id="all members",
        ),
        pytest.param(zipped({"a": bytes(200_000)}), "zip/a", "it grows more than 250", id="bomb"),
        pytest.param(
            zipped({str(n): b"" for n in range(21)}), "zip", "more than 20 members", id="entries"
        ),
        pytest.param(
            zipped({"a": zipped({"b": zipped({"c": zipped({"d": BAD})})})}),
            "zip/a/zip/b/zip/c/archive",
            "more than 3 archives",
            id="depth",
        ),
    ],
)
async def test_what_is_not_looked_at_is_said(content: bytes, where: str, reason: str) -> None:
    result = await scan(content)

    assert reasons(result)[where].startswith(reason)
    assert members(result) == []


async def test_a_bomb_of_bombs_is_stopped_over_all_of_it() -> None:
    bomb = zipped({"zeros": bytes(60_000)})
    for _ in range(2):
        bomb = zipped({str(number): bomb for number in range(16)})

    result = await scan(bomb, Bounds(total=300_000, floor=0))

    assert any("bytes in all" in each.reason for each in result.unscanned)


async def test_time_is_bounded() -> None:
    result = await scan(zipped({"a": b"x", "b": BAD}), Bounds(seconds=0))

    assert reasons(result)["zip/a"] == "unpacking took more than 0 s"


async def test_what_was_read_before_the_trouble_is_scanned() -> None:
    cut = await scan(tarred({"bad": BAD, "rest": os.urandom(5000)})[:3000])
    long = await scan(zipped({"bad": BAD + os.urandom(70_000), "behind": BAD}))

    assert "tar/bad" in members(cut)
    assert "tar/rest" in reasons(cut)
    assert {"zip/bad", "zip/behind"} <= set(members(long))


async def test_a_name_is_text_of_the_attackers() -> None:
    result = await scan(zipped({"engine": b"", "\x1b[2J\n\u202e" + "x" * 500: BAD}))

    (member,) = members(result)
    assert member.isprintable()
    assert member.startswith("zip/\N{REPLACEMENT CHARACTER}[2J")
    assert len(member) < 300


async def test_a_member_cannot_pass_for_a_failure_of_ours() -> None:
    result = await scan(encrypted({"engine": BAD, "file": BAD}))

    assert set(reasons(result)) == {"zip/engine", "zip/file"}


async def test_thousands_of_reasons_are_few() -> None:
    result = await scan(encrypted({str(n): BAD for n in range(100)}), Bounds())

    assert len(result.unscanned) == 20
    assert result.unscanned[-1].reason == "and 81 more members"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text about PK\x05\x06 and nothing else",
        b"MZ with 7z\xbc\xaf\x27\x1c that is none",
        bytes(4096),
        b"x" * 4096,
    ],
)
async def test_what_only_looks_like_an_archive_is_none(content: bytes) -> None:
    assert (await scan(content)).unscanned == ()


async def test_without_the_library_an_archive_is_not_scanned_and_all_else_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archive, "SONAME", "libabsent.so.0")
    unpacker = Unpacker(Engine(RULES), library(), SMALL)

    assert reasons(await unpacker.scan(zipped({"a": b""}), "")) == {ARCHIVE: MISSING}
    assert members(await unpacker.scan(BAD, "")) == [""]
    assert (await unpacker.scan(b"clean", "")).unscanned == ()


def test_the_name_says_nothing_and_the_bytes_do() -> None:
    assert is_archive(zipped({"a": b""}))
    assert not is_archive(b"archive.zip")
