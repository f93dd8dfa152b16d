"""Groups of containers, and the settings that may differ between them. Pure.

A container belongs to the first group that it matches. What a container is
called, its labels and its image are chosen by whoever starts it: a group is as
trustworthy as the people who may start containers.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from webguard.model import Action, Container
from webguard.policy import wildcard

DEFAULT = "default"
"""The group of whatever no other matches: the settings of webguard.yaml."""
UNKNOWN = "unknown"
"""The group of connections whose container nobody knows."""

type OnFailure = Literal["open", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Which containers: each kind that is given must fit. Without any it is all of them.

    Of `names`, `images` and `runtimes` one is enough; of `labels`
    (`key=value`) all are needed. `*` and `?` are wildcards, but not in a key.
    """

    names: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    _names: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)
    _images: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)
    _labels: tuple[tuple[str, re.Pattern[str]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not all("=" in each for each in self.labels):
            raise ValueError("a label is key=value")
        labels = (each.partition("=") for each in self.labels)
        for name, value in (
            ("_names", tuple(map(wildcard.compiled, self.names))),
            ("_images", tuple(map(wildcard.compiled, self.images))),
            ("_labels", tuple((key, wildcard.compiled(value)) for key, _, value in labels)),
        ):
            object.__setattr__(self, name, value)

    @property
    def everything(self) -> bool:
        """Whether no container can fail to match."""
        return not (self.names or self.images or self.labels or self.runtimes)

    def fits(self, container: Container) -> bool:
        """Return whether `container` matches. A fact that we do not have does not."""
        return (
            (not self.runtimes or container.runtime in self.runtimes)
            and _any(self._names, container.name)
            and _any(self._images, container.image)
            and all(
                any(key == name and value.fullmatch(text) for name, text in container.labels)
                for key, value in self._labels
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A named set of containers with its settings, all of them resolved."""

    name: str
    match: Match = field(default_factory=Match)
    enabled: bool = True
    unscanned: Action = Action.ALLOW
    on_failure: OnFailure = "open"
    lists: tuple[str, ...] | None = None  # names of URL lists; None for all

    def __post_init__(self) -> None:
        if self.unscanned not in (Action.ALLOW, Action.BLOCK):
            raise ValueError(f"unscanned content is allowed or blocked, not {self.unscanned}")
        if self.on_failure not in ("open", "closed"):
            raise ValueError(f"on_failure is open or closed, not {self.on_failure}")


def _any(patterns: tuple[re.Pattern[str], ...], text: str) -> bool:
    return not patterns or any(each.fullmatch(text) for each in patterns)
