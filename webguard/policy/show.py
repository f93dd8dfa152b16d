"""What is in force for one container, as data. Pure."""

from dataclasses import dataclass

from webguard.model import Container
from webguard.policy.decide import Policy
from webguard.policy.groups import UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class ListInUse:
    """A list, without what is in it."""

    name: str
    kind: str  # "blocked", "allowed" or "hashes"
    entries: int
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effective:
    """The settings of one container, all of them, and the group they come from."""

    group: str
    enabled: bool
    unscanned: str
    on_failure: str
    lists: tuple[ListInUse, ...]  # in the order in which they are asked


def effective(policy: Policy, container: Container | None) -> Effective:
    """Return what holds for `container`; None is one that nobody knows."""
    group = policy.group_of(container)
    urls = (
        ListInUse(
            name=each.name,
            kind=each.kind.value,
            entries=len(each.entries),
            description=each.description,
        )
        for each in policy.lists_of(group)
    )
    digests = (
        ListInUse(
            name=each.name,
            kind="hashes",
            entries=len(each.entries),
            description=each.description,
        )
        for each in policy.hashes
    )
    return Effective(
        group=UNKNOWN if container is None else group.name,
        enabled=group.enabled,
        unscanned=group.unscanned.value,
        on_failure=group.on_failure,
        lists=(*urls, *digests),
    )
