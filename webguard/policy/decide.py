"""Decide what happens to what was asked about. Pure: the same question, the same verdict.

The order is the policy, strictest fact first:

1. a detection blocks, whatever else is true;
2. a server that cannot be trusted or reached blocks: there is nothing good to deliver;
3. our own failure follows `web.on_failure`;
4. content that was not looked at follows `web.unscanned`;
5. everything else is allowed.

Nothing is allowed because a fact is missing: a response without a scan result
counts as not looked at.
"""

from dataclasses import dataclass
from typing import Literal

from webguard.model import Action, Question, ScanResult, Stage, Unscanned, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings that decide, frozen. `generation` says in a verdict which ones were in force."""

    generation: int = 0
    unscanned: Action = Action.ALLOW
    on_failure: Literal["open", "closed"] = "open"

    def __post_init__(self) -> None:
        if self.unscanned not in (Action.ALLOW, Action.BLOCK):
            raise ValueError(f"unscanned content is allowed or blocked, not {self.unscanned}")
        if self.on_failure not in ("open", "closed"):
            raise ValueError(f"on_failure is open or closed, not {self.on_failure}")


def decide(policy: Policy, question: Question) -> Verdict:
    """Return the verdict on `question`. Never raises."""
    scan = question.scan or _not_scanned(question.stage)
    if scan.detections:
        found = scan.detections[0]
        more = len(scan.detections) - 1
        return Verdict(
            action=Action.BLOCK,
            reason=f"the content matched {found.name} ({found.kind})"
            + (f" and {more} more" if more else ""),
            rule=f"{found.engine}:{found.name}",
            generation=policy.generation,
        )
    if question.upstream:
        return Verdict(
            action=Action.BLOCK,
            reason=f"the server cannot be used: {question.upstream}",
            rule="upstream",
            generation=policy.generation,
        )
    if question.failure:
        return Verdict(
            action=Action.ALLOW if policy.on_failure == "open" else Action.BLOCK,
            reason=f"inspection failed: {question.failure}",
            rule="web.on_failure",
            generation=policy.generation,
        )
    if scan.unscanned:
        missed = scan.unscanned[0]
        return Verdict(
            action=policy.unscanned,
            reason=f"not fully scanned: {missed.where}: {missed.reason}",
            rule="web.unscanned",
            generation=policy.generation,
        )
    return Verdict(
        action=Action.ALLOW, reason="nothing found", rule="default", generation=policy.generation
    )


def _not_scanned(stage: Stage) -> ScanResult:
    """Stand in for a missing scan result: only a response has content that was to be scanned."""
    if stage is Stage.RESPONSE:
        return ScanResult(unscanned=(Unscanned(where="body", reason="it was not scanned"),))
    return ScanResult()
