"""Decide what happens to what was asked about. Pure: the same question, the same verdict.

The container chooses the group, the group's settings decide. The order is the
policy, strictest fact first:

0. a group with `web.enabled: false` is let pass: its operator said so. Asked of a
   connection that is `bypass`: do not even look;
1. a detection blocks, whatever else is true;
2. an address in a blocked list, and in no allowed one, is not asked for;
3. a server that cannot be trusted or reached blocks: there is nothing good to deliver;
4. our own failure follows `web.on_failure`;
5. content that was not looked at follows `web.unscanned`;
6. everything else is allowed. An allowed list ends only 2: its content is scanned.

Nothing is allowed because a fact is missing: a response without a scan result
counts as not looked at.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from webguard.model import Action, Container, Question, ScanResult, Stage, Unscanned, Verdict
from webguard.policy import address
from webguard.policy.address import Address
from webguard.policy.groups import DEFAULT, UNKNOWN, Group, OnFailure
from webguard.policy.hashes import HashList
from webguard.policy.urls import Kind, UrlList

_SHOWN = 200  # characters of a list's entry in a reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Everything that decides, frozen. `generation` says in a verdict which one was in force.

    `enabled`, `unscanned` and `on_failure` are for containers that no group matches.
    """

    generation: int = 0
    enabled: bool = True
    unscanned: Action = Action.ALLOW
    on_failure: OnFailure = "open"
    groups: tuple[Group, ...] = ()  # the first match counts
    lists: tuple[UrlList, ...] = ()
    hashes: tuple[HashList, ...] = ()
    _default: Group = field(init=False, repr=False, compare=False)
    _unknown: Group = field(init=False, repr=False, compare=False)
    _fallback: Group = field(init=False, repr=False, compare=False)
    _lists: dict[str, tuple[UrlList, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _once(each.name for each in self.groups)
        _once([each.name for each in self.lists] + [each.name for each in self.hashes])
        default = Group(
            name=DEFAULT,
            enabled=self.enabled,
            unscanned=self.unscanned,
            on_failure=self.on_failure,
        )
        if any(each.name == DEFAULT and not each.match.everything for each in self.groups):
            raise ValueError("the group default is everybody's")
        everybody = (each for each in self.groups if each.match.everything)
        fallback = next((each for each in everybody if each.name != UNKNOWN), default)
        unknown = next((each for each in self.groups if each.name == UNKNOWN), fallback)
        object.__setattr__(self, "_default", default)
        object.__setattr__(self, "_unknown", unknown)
        object.__setattr__(self, "_fallback", fallback)
        chosen = {group.name: self._chosen(group) for group in (default, *self.groups)}
        object.__setattr__(self, "_lists", chosen)

    @property
    def fallback(self) -> Group:
        """The group of whatever no group matches by a fact."""
        return self._fallback

    def group_of(self, container: Container | None) -> Group:
        """Return whose settings hold for `container`; None is one that nobody knows."""
        if container is None:
            return self._unknown
        for group in self.groups:
            if group.name != UNKNOWN and group.match.fits(container):
                return group
        return self._default

    def lists_of(self, group: Group) -> tuple[UrlList, ...]:
        """Return the URL lists that this group uses, allowed ones first."""
        return self._lists[group.name]

    def _chosen(self, group: Group) -> tuple[UrlList, ...]:
        known = {each.name for each in self.lists}
        if missing := [name for name in group.lists or () if name not in known]:
            raise ValueError(f"group {group.name} uses the list {missing[0]}, which there is not")
        used = [each for each in self.lists if group.lists is None or each.name in group.lists]
        return tuple(sorted(used, key=lambda each: each.kind is not Kind.ALLOWED))


def decide(policy: Policy, question: Question) -> Verdict:
    """Return the verdict on `question`. Never raises."""
    group = policy.group_of(question.container)
    action, reason, rule = _judge(policy, group, question)
    return Verdict(
        action=action,
        reason=reason,
        rule=rule,
        group=UNKNOWN if question.container is None else group.name,
        generation=policy.generation,
    )


def decide_server(
    policy: Policy, name: str, container: Container | None, *, port: int = 443
) -> Verdict:
    """Return the verdict on a server of which only the name is known, as in TLS we do not open.

    Only entries about whole hosts can match. Never raises.
    """
    group = policy.group_of(container)
    found = _listed(policy, group, address.server(name, port)) if group.enabled else None
    action, reason, rule = found or (Action.ALLOW, "no list blocks it", "default")
    return Verdict(
        action=action,
        reason=reason,
        rule=rule,
        group=UNKNOWN if container is None else group.name,
        generation=policy.generation,
    )


type _Judgement = tuple[Action, str, str]


def _judge(policy: Policy, group: Group, question: Question) -> _Judgement:
    """Return action, reason and rule."""
    if not group.enabled:
        new = question.stage is Stage.CONNECTION
        action = Action.BYPASS if new else Action.ALLOW
        return action, "web protection is off for this group", "web.enabled"
    scan = question.scan or _not_scanned(question.stage)
    if scan.detections:
        return _detected(scan)
    listed = None
    if question.stage is Stage.REQUEST and policy.lists_of(group):
        listed = _listed(policy, group, address.parse(question.subject))
        if listed and listed[0] is Action.BLOCK:
            return listed
    return _prevented(group, question, scan) or listed or _NOTHING


_NOTHING: _Judgement = (Action.ALLOW, "nothing found", "default")


def _prevented(group: Group, question: Question, scan: ScanResult) -> _Judgement | None:
    """Return what follows from work that could not be done, None if it was done."""
    if question.upstream:
        return Action.BLOCK, f"the server cannot be used: {question.upstream}", "upstream"
    if question.failure:
        action = Action.ALLOW if group.on_failure == "open" else Action.BLOCK
        return action, f"inspection failed: {question.failure}", "web.on_failure"
    if scan.unscanned:
        missed = scan.unscanned[0]
        reason = f"not fully scanned: {missed.where}: {missed.reason}"
        return group.unscanned, reason, "web.unscanned"
    return None


def _detected(scan: ScanResult) -> _Judgement:
    found = scan.detections[0]
    more = len(scan.detections) - 1
    reason = f"the content matched {found.name} ({found.kind})" + (
        f" and {more} more" if more else ""
    )
    return Action.BLOCK, reason, f"{found.engine}:{found.name}"


def _listed(policy: Policy, group: Group, asked: Address) -> _Judgement | None:
    """Return what the group's lists say, None if they do not say anything."""
    for each in policy.lists_of(group):
        if entry := each.find(asked):
            reason = f"the address is in the list {each.name} ({entry[:_SHOWN]})"
            action = Action.ALLOW if each.kind is Kind.ALLOWED else Action.BLOCK
            return action, reason, f"list:{each.name}"
    return None


def _not_scanned(stage: Stage) -> ScanResult:
    """Stand in for a missing scan result: only a response has content that was to be scanned."""
    if stage is Stage.RESPONSE:
        return ScanResult(unscanned=(Unscanned(where="body", reason="it was not scanned"),))
    return ScanResult()


def _once(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{name!r} is here twice")
        seen.add(name)
