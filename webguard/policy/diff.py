"""What another policy would change, and for which container. Pure.

Two policies may differ and change nothing (a group that no container is in), or
differ in one entry and change much: so the question is always asked about
containers. Connections whose container nobody knows are one of them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from webguard.model import Container
from webguard.policy.decide import Policy
from webguard.policy.show import Effective, effective

_SHOWN = 20
"""Entries of a list that a difference names; the counts are of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting of one container."""

    setting: str  # "group", "web.enabled", ..., or "list:<name>"
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerChange:
    """What changes for one container; None is those that nobody knows."""

    container: Container | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListChange:
    """What changes in one list, whoever uses it."""

    name: str
    kind: str
    added: int
    removed: int
    examples: tuple[str, ...]  # "+entry" and "-entry", the first of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Everything that changes."""

    containers: tuple[ContainerChange, ...]
    lists: tuple[ListChange, ...]

    @property
    def nothing(self) -> bool:
        """Whether it is the same policy for all that were asked about."""
        return not self.containers and not self.lists


def compare(old: Policy, new: Policy, containers: Iterable[Container]) -> Difference:
    """Return what changes for `containers`, and for those that nobody knows, with `new`."""
    lists = _lists(old, new)
    altered = {each.name: each for each in lists}
    found = []
    for container in (*containers, None):
        before, after = effective(old, container), effective(new, container)
        if changes := _changes(before, after, altered):
            found.append(ContainerChange(container=container, changes=changes))
    return Difference(containers=tuple(found), lists=lists)


def _changes(
    before: Effective, after: Effective, altered: dict[str, ListChange]
) -> tuple[Change, ...]:
    pairs = [
        ("group", before.group, after.group),
        ("web.enabled", _word(before.enabled), _word(after.enabled)),
        ("web.unscanned", before.unscanned, after.unscanned),
        ("web.on_failure", before.on_failure, after.on_failure),
    ]
    old = {each.name: f"{each.kind}, {each.entries} entries" for each in before.lists}
    new = {each.name: f"{each.kind}, {each.entries} entries" for each in after.lists}
    for name in dict.fromkeys((*old, *new)):
        said = new.get(name, "not used")
        if name in old and name in new and (change := altered.get(name)):
            said += f" (+{change.added} -{change.removed})"
        pairs.append((f"list:{name}", old.get(name, "not used"), said))
    return tuple(
        Change(setting=setting, before=was, after=will)
        for setting, was, will in pairs
        if was != will
    )


def _word(value: bool) -> str:
    return "true" if value else "false"


def _lists(old: Policy, new: Policy) -> tuple[ListChange, ...]:
    before, after = _contents(old), _contents(new)
    found = []
    for name in dict.fromkeys((*before, *after)):
        kind, was = before.get(name, ("", frozenset()))
        kind, will = after.get(name, (kind, frozenset()))
        if (kind, was) == before.get(name) == after.get(name):
            continue
        added, removed = sorted(will - was), sorted(was - will)
        signed = [*(f"+{each}" for each in added), *(f"-{each}" for each in removed)]
        found.append(
            ListChange(
                name=name,
                kind=kind,
                added=len(added),
                removed=len(removed),
                examples=tuple(signed[:_SHOWN]),
            )
        )
    return tuple(found)


def _contents(policy: Policy) -> dict[str, tuple[str, frozenset[str]]]:
    urls = {each.name: (each.kind.value, frozenset(each.entries)) for each in policy.lists}
    digests = {
        each.name: ("hashes", frozenset(" ".join(entry).strip() for entry in each.entries))
        for each in policy.hashes
    }
    return urls | digests
