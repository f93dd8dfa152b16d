"""What is in force, for one container and for whom not, as data. Pure."""

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


def switched_off(policy: Policy) -> tuple[str, ...]:
    """Return the groups whose traffic is not inspected, because `web.enabled` is false."""
    fallback = policy.fallback
    every = policy.groups if fallback in policy.groups else (fallback, *policy.groups)
    return tuple(each.name for each in every if not each.enabled)


def why_off(policy: Policy) -> str:
    """Return why the host is not protected by what was asked for; "" if it is.

    Groups that are switched off are exceptions that somebody made; without the
    one that everybody else belongs to, inspection itself is the exception.
    """
    if policy.fallback.enabled:
        return ""
    if inspected := [each.name for each in policy.groups if each.enabled]:
        return f"web.enabled is false: only groups are inspected: {', '.join(inspected)}"
    return "web.enabled is false: nothing is inspected"
