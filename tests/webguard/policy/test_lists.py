"""Files of lists.d: what they say, and what an operator gets wrong."""

from pathlib import Path

import pytest

from webguard.errors import ConfigError
from webguard.policy import lists
from webguard.policy.hashes import HashList
from webguard.policy.urls import Kind, UrlList

MD5 = "0" * 31 + "a"
SHA256 = "B" * 64
GOOD = "name: ads\ntype: blocked\nentries: ['*.ads.example']\n"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert lists.load(tmp_path / "none") == lists.Lists(urls=(), hashes=(), choice={})


def test_every_kind_of_list_is_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        a__yaml=GOOD,
        b__yaml="name: own\ntype: allowed\ndescription: ours\nfile: own.txt\n",
        c__yaml=f"name: bad\ntype: hashes\nentries: ['{MD5} Some.Thing', {SHA256}]\n",
        d__yaml="name: later\ntype: blocked\nactive: false\nentries: [x.example]\n",
        own__txt="\ufeff# ours\r\n\r\n  shop.example  \r\n*.shop.example/a\n",
        notes__txt="not a list",
    )

    found = lists.load(tmp_path)

    assert found.urls == (
        UrlList(name="ads", kind=Kind.BLOCKED, entries=("*.ads.example",)),
        UrlList(
            name="own",
            kind=Kind.ALLOWED,
            description="ours",
            entries=("shop.example", "*.shop.example/a"),
        ),
    )
    assert found.hashes == (
        HashList(name="bad", entries=((MD5, "Some.Thing"), (SHA256.lower(), ""))),
    )
    assert found.choice == {"ads": True, "own": True, "later": False}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        pytest.param("type: blocked\nentries: []", 1, "no key 'name'", id="no name"),
        pytest.param("name: a\nentries: []", 1, "blocked, allowed or hashes", id="no type"),
        pytest.param("name: a\ntype: block\nentries: []", 2, "write type: and blocked", id="type"),
        pytest.param("name: A b\ntype: blocked\nentries: []", 1, "a-z", id="name"),
        pytest.param("name: a\ntype: blocked", 1, "either entries or a file", id="nothing in it"),
        pytest.param("name: a\ntype: blocked\nentries: []\nfile: x.txt", 4, "keep one", id="both"),
        pytest.param("name: a\ntype: blocked\nentry: []", 3, "did you mean entries?", id="typo"),
        pytest.param(
            "name: a\ntpye: blocked\nentries: []",
            2,
            "unknown key 'tpye' (did you mean type? write type: and blocked, allowed or hashes)",
            id="typo in type",
        ),
        pytest.param("nam: a\ntpye: b", 1, "unknown key 'nam' (did you mean name?", id="two typos"),
        pytest.param("name: a\nkind: b", 1, "there is no key 'type'", id="another word for type"),
        pytest.param("name: a\nname: b\n", 2, "here twice", id="duplicate key"),
        pytest.param("name: a\ntype: blocked\nentries: x", 3, "a list of texts", id="word"),
        pytest.param("name: a\ntype: blocked\nentries:\n- a\n- 5", 5, "in quotes", id="number"),
        pytest.param("name: a\ntype: blocked\nentries:\n- *.a", 4, "quotes", id="bare asterisk"),
        pytest.param(
            "name: a\ntype: blocked\nentries:\n- a.example\n- b c", 5, "'b c': white", id="pattern"
        ),
        pytest.param(
            "name: a\ntype: blocked\nactive: false\nentries:\n- b c", 5, "white", id="inactive"
        ),
        pytest.param("name: a\ntype: hashes\nentries:\n- xyz", 4, "not a hash", id="no hash"),
        pytest.param("name: a\ntype: hashes\nentries:\n- abcd", 4, "not a hash", id="short hash"),
        pytest.param("name: a\ntype: hashes\nentries: ['*']", 3, "not a hash", id="wrong type"),
        pytest.param(
            f'name: a\ntype: hashes\nentries:\n- "{MD5} a\\0b"', 4, "not a name", id="NUL"
        ),
        pytest.param("name: a\ntype: blocked\nfile: ../x", 3, "without any /", id="other folder"),
        pytest.param("name: a\ntype: blocked\nfile: none.txt", 3, "put it there", id="no file"),
        pytest.param("name: a\ntype: blocked\nactive: yes\nentries: []", 3, "true", id="yes"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_a_remedy(
    tmp_path: Path, text: str, line: int, problem: str
) -> None:
    write(tmp_path, a__yaml=text)

    with pytest.raises(ConfigError) as caught:
        lists.load(tmp_path)

    assert caught.value.where == f"{tmp_path / 'a.yaml'}:{line}"
    assert problem in caught.value.problem
    assert caught.value.problem.endswith(")")


@pytest.mark.parametrize(
    ("content", "line", "problem"),
    [
        pytest.param(b"a.example\n\n# x\nb c\n", 4, "white space", id="bad entry"),
        pytest.param(b"a.example\n\xff\n", 2, "UTF-8", id="not text"),
        pytest.param("a.example\u2028b c\n".encode(), 1, "white space", id="a line for editors"),
    ],
)
def test_a_mistake_in_a_text_file_is_named_there(
    tmp_path: Path, content: bytes, line: int, problem: str
) -> None:
    write(tmp_path, a__yaml="name: a\ntype: blocked\nfile: a.txt\n")
    (tmp_path / "a.txt").write_bytes(content)

    with pytest.raises(ConfigError, match=problem) as caught:
        lists.load(tmp_path)

    assert caught.value.where == f"{tmp_path / 'a.txt'}:{line}"


def test_two_lists_of_one_name_are_an_error(tmp_path: Path) -> None:
    write(tmp_path, a__yaml=GOOD, b__yaml=f"# another\n{GOOD}")

    with pytest.raises(ConfigError, match=r"is in a\.yaml already") as caught:
        lists.load(tmp_path)

    assert caught.value.where == f"{tmp_path / 'b.yaml'}:2"


def test_a_file_that_would_be_passed_over_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, a__yml=GOOD)

    with pytest.raises(ConfigError, match=r"\*\.yaml"):
        lists.load(tmp_path)


@pytest.mark.parametrize("name", [".a.yaml", "a.yaml~", "a.yaml.example", ".a.yml.swp"])
def test_what_editors_and_packages_leave_behind_is_no_list(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("garbage")

    assert lists.load(tmp_path).urls == ()


def test_a_text_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    write(tmp_path, a__yaml="name: a\ntype: blocked\nfile: a.txt\n")
    with (tmp_path / "a.txt").open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(ConfigError, match="64 MiB"):
        lists.load(tmp_path)


def test_too_many_entries_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MOST_ENTRIES", 2)
    write(tmp_path, a__yaml="name: a\ntype: blocked\nfile: a.txt\n", a__txt="a.b\nc.d\ne.f\n")

    with pytest.raises(ConfigError, match="shorten the list") as caught:
        lists.load(tmp_path)

    assert caught.value.where == f"{tmp_path / 'a.txt'}:3"


def test_too_many_entries_in_all_active_lists_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MOST_ENTRIES", 3)
    text = "name: {}\ntype: {}\nactive: {}\nentries: [{}]\n"
    write(
        tmp_path,
        a__yaml=text.format("a", "blocked", "true", "a.b, c.d"),
        b__yaml=text.format("b", "blocked", "false", "a.b, c.d"),
        c__yaml=text.format("c", "hashes", "true", f"'{'0' * 32}'"),
    )
    assert len(lists.load(tmp_path).urls) == 1
    write(tmp_path, d__yaml=text.format("d", "allowed", "true", "e.f"))

    with pytest.raises(ConfigError, match="more than 3 entries") as caught:
        lists.load(tmp_path)

    assert caught.value.where == f"{tmp_path / 'd.yaml'}:1"


def test_a_folder_in_the_place_of_a_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").mkdir()

    with pytest.raises(ConfigError, match="regular file"):
        lists.load(tmp_path)


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lists.d").touch()

    with pytest.raises(ConfigError, match="cannot read it"):
        lists.load(tmp_path / "lists.d")


def test_every_example_of_the_documentation_is_a_list(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()
    blocks = [each.partition("```")[0] for each in text.split("```yaml\n")[1:]]
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yaml").write_text(block)

    found = lists.load(tmp_path)

    assert (len(found.urls), len(found.hashes)) == (1, 1)
    keys = {line.partition(":")[0] for line in text.splitlines()}
    assert set(lists.ListFile.model_fields) - keys == {"file"}
    assert "`file: " in text
