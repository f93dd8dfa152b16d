"""Files of `lists.d`: one YAML file is one list.

    name: ads                 # unique among all lists
    type: blocked             # blocked, allowed or hashes
    description: who keeps it
    active: true
    entries: ["*.ads.example"]    # or, for long ones, file: ads.txt

`file` names a text file in the same folder: an entry a line; what starts with
`#` is a comment. A list that is not active is checked all the same.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from webguard.errors import ConfigError
from webguard.policy import checked, hashes, pattern, yaml
from webguard.policy.checked import Section, sequence
from webguard.policy.hashes import HashList
from webguard.policy.urls import Kind, UrlList

NAME = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
"""Of lists and groups: they are printed, and typed by people."""
LARGEST_TEXT = 64 * 1024**2
MOST_ENTRIES = 1_000_000  # of all lists; a worker needs about 250 bytes and 15 µs for each


class ListFile(Section):
    """The keys of one list."""

    name: str = Field(
        pattern=NAME, description="write name: and 1 to 64 of a-z, 0-9, _ . - for the list"
    )
    type: Literal["blocked", "allowed", "hashes"] = Field(
        description="write type: and blocked, allowed or hashes"
    )
    description: str = Field(
        default="", max_length=1000, description="write a sentence of at most 1000 characters"
    )
    active: bool = Field(default=True, description="write true or false")
    entries: Annotated[tuple[str, ...], BeforeValidator(sequence)] = Field(
        default=(), description="write a list of texts, each in quotes"
    )
    file: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$",
        description="write the name of a text file in the same folder, without any /",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lists:
    """What a folder holds."""

    urls: tuple[UrlList, ...]  # the active ones
    hashes: tuple[HashList, ...]  # the active ones
    choice: Mapping[str, bool]  # the URL lists that a group may name, and whether they are active


def load(folder: Path) -> Lists:
    """Return the lists of `folder`; without the folder there are none.

    Raises `ConfigError` for the first mistake.
    """
    origin: dict[str, Path] = {}
    urls: list[UrlList] = []
    digests: list[HashList] = []
    choice: dict[str, bool] = {}
    entries = 0
    for path in checked.folder(folder):
        keys, document = checked.parse(ListFile, checked.read(path, yaml.MAX_BYTES), str(path))
        if keys.name in origin:
            raise ConfigError(
                f"{path}:{document.line(('name',))}",
                f"the list {keys.name} is in {origin[keys.name].name} already"
                " (give one of them another name)",
            )
        origin[keys.name] = path
        found = _list(keys, path, document)
        if isinstance(found, UrlList):
            choice[keys.name] = keys.active
        if not keys.active:
            continue
        entries += len(found.entries)
        if entries > MOST_ENTRIES:
            raise ConfigError(
                f"{path}:1",
                f"with this list the active ones have more than {MOST_ENTRIES} entries"
                " (shorten lists, or switch some off with active: false)",
            )
        if isinstance(found, UrlList):
            urls.append(found)
        else:
            digests.append(found)
    return Lists(urls=tuple(urls), hashes=tuple(digests), choice=choice)


def _list(keys: ListFile, path: Path, document: yaml.Document) -> UrlList | HashList:
    entries, where = _entries(keys, path, document)
    if len(entries) > MOST_ENTRIES:
        raise ConfigError(
            where(MOST_ENTRIES), f"more than {MOST_ENTRIES} entries (shorten the list)"
        )
    if keys.type == "hashes":
        digests = tuple(_each(hashes.parse, entries, where))
        return HashList(name=keys.name, entries=digests, description=keys.description)
    try:
        return UrlList(
            name=keys.name,
            kind=Kind(keys.type),
            entries=tuple(entries),
            description=keys.description,
        )
    except ValueError as error:
        # Which one it was costs another pass, so it is only asked when there is one.
        list(_each(pattern.parse, entries, where))
        raise ConfigError(f"{path}:{document.line(('entries',))}", str(error)) from error


type _Where = Callable[[int], str]


def _entries(keys: ListFile, path: Path, document: yaml.Document) -> tuple[tuple[str, ...], _Where]:
    """Return the entries, and what tells where the one of that index is."""
    both = {"entries", "file"} & keys.model_fields_set
    if len(both) != 1:
        raise ConfigError(
            f"{path}:{document.line(('file',))}",
            "a list has either entries or a file (keep one of these keys)",
        )
    if "entries" in both:
        return keys.entries, lambda index: f"{path}:{document.line(('entries', index))}"
    text = path.parent / keys.file
    try:
        content = checked.read(text, LARGEST_TEXT)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}:{document.line(('file',))}",
            f"there is no file {text} (put it there, or correct its name)",
        ) from error
    if len(content) > LARGEST_TEXT:
        raise ConfigError(f"{text}:1", "larger than 64 MiB (split the list)")
    entries, numbers = _lines(content, text)
    return entries, lambda index: f"{text}:{numbers[index]}"


def _lines(content: bytes, path: Path) -> tuple[tuple[str, ...], list[int]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}", "this is not UTF-8 text (save it as UTF-8)") from error
    found: list[str] = []
    numbers: list[int] = []
    # Not splitlines: it also splits at characters that editors do not count as lines.
    for number, each in enumerate(text.split("\n"), 1):
        entry = each.strip(" \t\r")
        if entry and not entry.startswith("#"):
            found.append(entry)
            numbers.append(number)
    return tuple(found), numbers


def _each[T](parse: Callable[[str], T], entries: Iterable[str], where: _Where) -> Iterable[T]:
    for index, entry in enumerate(entries):
        try:
            yield parse(entry)
        except ValueError as error:
            raise ConfigError(where(index), f"{entry[:80]!r}: {error}") from error
