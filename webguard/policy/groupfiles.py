"""Files of `policy.d`: named groups of containers, and what holds for them.

The files count in the order of their names, the groups in the order in which
they stand; a container belongs to the first that it matches. A group gets what
it does not say from `webguard.yaml`, never from another group: nothing is merged,
so what is in force can be read in one place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from webguard.errors import ConfigError
from webguard.model import Action
from webguard.policy import checked, yaml
from webguard.policy.checked import Section, one_or_more, section, sequence, unique
from webguard.policy.config import Config
from webguard.policy.groups import DEFAULT, UNKNOWN, Group, Match
from webguard.policy.lists import NAME


def _label(value: str) -> str:
    key, equals, _ = value.partition("=")
    if not key or not equals or "*" in key or "?" in key:
        raise ValueError("this is not key=value")
    return value


type Globs = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=512)], ...],
    BeforeValidator(one_or_more),
    Field(min_length=1, max_length=256),
]


class MatchKeys(Section):
    """Which containers. Every key that is there must fit."""

    name: Globs = Field(default=("*",), description="write a name or a list of them, * and ? wild")
    image: Globs = Field(
        default=("*",), description="write an image or a list of them, * and ? wild"
    )
    label: Annotated[
        tuple[Annotated[str, AfterValidator(_label)], ...],
        BeforeValidator(one_or_more),
        Field(min_length=1, max_length=64),
    ] = Field(default=("a=*",), description="write key=value or a list of them, * and ? wild")
    runtime: Annotated[
        tuple[Literal["docker", "podman", "cri", "proc"], ...],
        BeforeValidator(one_or_more),
        Field(min_length=1),
    ] = Field(default=("docker",), description="write docker, podman, cri or proc, or a list")


class WebKeys(Section):
    """The settings of `web` that a group may have of its own."""

    enabled: bool = Field(default=True, description="write true or false")
    on_failure: Literal["open", "closed"] = Field(
        default="open", description="write open or closed"
    )
    unscanned: Literal["allow", "block"] = Field(
        default="allow", description="write allow or block"
    )
    lists: Annotated[
        tuple[str, ...], BeforeValidator(sequence), Field(max_length=256), AfterValidator(unique)
    ] = Field(default=(), description="write the names of URL lists in brackets, or [] for none")


class GroupKeys(Section):
    """One group."""

    name: str = Field(
        pattern=NAME, description="write name: and 1 to 64 of a-z, 0-9, _ . - for the group"
    )
    description: str = Field(
        default="", max_length=1000, description="write a sentence of at most 1000 characters"
    )
    match: Annotated[MatchKeys, BeforeValidator(section)] = Field(
        default=MatchKeys(), description="write the keys of match indented below it"
    )
    web: Annotated[WebKeys, BeforeValidator(section)] = Field(
        default=WebKeys(), description="write the keys of web indented below it"
    )


class GroupFile(Section):
    """One file."""

    groups: Annotated[tuple[GroupKeys, ...], BeforeValidator(sequence), Field(max_length=1000)] = (
        Field(default=(), description="write a list of groups, each with - name: first")
    )


@dataclass(frozen=True, slots=True)
class _Read:
    keys: GroupKeys
    group: Group
    where: str


def load(folder: Path, config: Config, lists: Mapping[str, bool]) -> tuple[Group, ...]:
    """Return the groups of `folder` in the order in which they count.

    `lists` says which URL lists there are and whether they are active. Raises
    `ConfigError` for the first mistake; without the folder there are no groups.
    """
    found: list[_Read] = []
    for path in checked.folder(folder):
        file, document = checked.parse(GroupFile, checked.read(path, yaml.MAX_BYTES), str(path))
        for index, keys in enumerate(file.groups):
            spot = ("groups", index)
            where = f"{path}:{document.line((*spot, 'name'))}"
            for number, name in enumerate(keys.web.lists):
                if name not in lists:
                    line = document.line((*spot, "web", "lists", number))
                    raise ConfigError(f"{path}:{line}", _no_list(name, lists))
            read = _Read(keys, _group(keys, config, lists), where)
            _check(read, found)
            found.append(read)
    return tuple(each.group for each in found)


def _no_list(name: str, lists: Mapping[str, bool]) -> str:
    known = ", ".join(sorted(lists)[:20]) or "none"
    return f"there is no URL list {name!r} (the lists are: {known})"


def _check(read: _Read, before: list[_Read]) -> None:
    """Raise for a group that could never be what its author thinks."""
    name, match = read.group.name, read.group.match
    for each in before:
        if each.group.name == name:
            raise ConfigError(
                read.where,
                f"the group {name} is in {each.where} already (give one of them another name)",
            )
        if each.group.match.everything and UNKNOWN not in (name, each.group.name):
            raise ConfigError(
                read.where,
                f"the group {name} is never reached: {each.group.name} in {each.where} matches"
                " every container (move that one to the end)",
            )
    if name in (DEFAULT, UNKNOWN) and not match.everything:
        meaning = "every container" if name == DEFAULT else "containers that nobody knows"
        raise ConfigError(
            read.where, f"the group {name} is for {meaning} (remove match, or rename the group)"
        )


def _group(keys: GroupKeys, config: Config, lists: Mapping[str, bool]) -> Group:
    own, web, match = keys.web.model_fields_set, keys.web, keys.match
    given = match.model_fields_set
    return Group(
        name=keys.name,
        match=Match(
            names=match.name if "name" in given else (),
            images=match.image if "image" in given else (),
            labels=match.label if "label" in given else (),
            runtimes=match.runtime if "runtime" in given else (),
        ),
        enabled=web.enabled if "enabled" in own else config.web.enabled,
        unscanned=Action(web.unscanned if "unscanned" in own else config.web.unscanned),
        on_failure=web.on_failure if "on_failure" in own else config.web.on_failure,
        lists=tuple(name for name in web.lists if lists[name]) if "lists" in own else None,
    )
