"""Teach a container to trust our CA, undo it, and say truthfully how things stand.

All work in the container is done by the writer, a process of its own; here is
what it is asked and what its answers mean. The calls block, up to 20 s for a
file system that does not answer: call them from a thread, one at a time for
each container.

Status is what is there now, never what we remember to have done. Whether a
program really trusts us only its handshakes can tell: "trusted" is said on such
evidence alone.
"""

import json
import os
import sys
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from certs import records, stores
from certs.certificate import OurCertificate
from certs.records import Entry
from certs.stores import Do, Fact, Plan, Step
from webguard.errors import HostError, RefusedError
from webguard.host import run
from webguard.model import Container

_WRITER = Path(__file__).with_name("writer.py")


class Outcome(StrEnum):
    """What became of one store, or how it stands."""

    INSTALLED = "installed"
    ALREADY = "already installed"
    REMOVED = "removed"
    NOT_PRESENT = "not present"  # our CA is not in it
    MOUNTED = "mounted"
    READ_ONLY = "read-only"
    REFUSED = "refused"


class Level(StrEnum):
    """How far a container trusts us."""

    TRUSTED = "trusted"  # all stores hold our CA, and a handshake since then has succeeded
    INSTALLED = "installed"
    PARTLY = "partly"
    NOT_INSTALLED = "not installed"


_REMEDIES = {
    Outcome.MOUNTED: "what is mounted there belongs to somebody else: add the host's copy of the "
    "CA certificate (ESET-SSL-Filter-CA.pem) to what is mounted, or start without that mount",
    Outcome.READ_ONLY: "start the container without a read-only root, or mount a bundle that "
    "holds the CA certificate at this path",
    Outcome.REFUSED: "put a plain PEM file at this path in the image, then install again",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """One place in a container, with what became of it. The reason may quote the container."""

    path: str
    outcome: Outcome
    reason: str = ""

    @property
    def remedy(self) -> str:
        """What the operator can do, "" if nothing needs doing."""
        return _REMEDIES.get(self.outcome, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All stores of one container."""

    container: Container
    family: str
    stores: tuple[Store, ...]
    # Programs that ran before the install may have read their store before it.
    restart_needed: bool = False
    trusted_at: int | None = None  # ns since the epoch: the handshake that proves it

    @property
    def level(self) -> Level:
        """The answer in a word."""
        holds = [s.outcome in (Outcome.INSTALLED, Outcome.ALREADY) for s in self.stores]
        if not any(holds):
            return Level.NOT_INSTALLED
        if not all(holds):
            return Level.PARTLY
        return Level.INSTALLED if self.trusted_at is None else Level.TRUSTED


def install(
    container: Container,
    *,
    ours: OurCertificate,
    roots: bytes,
    state: Path,
    trusted_at: int | None = None,
) -> Report:
    """Put our CA in every store of a running container. Safe to repeat.

    `roots` (PEM) go into the bundle of a container that has none. `trusted_at`
    is `status`'s: a handshake before anything was installed now proves nothing.
    Raises `RefusedError` if the container as a whole cannot be entered; a store
    that cannot be written is an outcome.
    """
    facts = _look(container, ours, stores.paths())
    plan = stores.plan(facts, ours, roots.decode("ascii"))
    # A mount that holds our CA already is as good as a file that does.
    settled = [s for s in plan.steps if facts.get(s.path, Fact()).ours]
    steps = [step for step in plan.steps if step not in settled]
    answers = _write(container, [_request(step, ours) for step in steps])
    stamp = {"ca": ours.fingerprint, "marker": ours.marker, "at": time.time_ns()} | _clock()
    done = [
        {**answer, **stamp, "target": step.target, "candidates": step.candidates}
        for step, answer in zip(steps, answers, strict=True)
        if answer["outcome"] == Outcome.INSTALLED
    ]
    if done:
        records.add(state, container, done)
    found = [Store(path=step.path, outcome=Outcome.ALREADY) for step in settled]
    return _report(container, plan, [*found, *map(_store, answers)], state, trusted_at)


def status(
    container: Container, *, ours: OurCertificate, state: Path, trusted_at: int | None = None
) -> Report:
    """Say which stores of a running container hold our CA. Changes nothing.

    `trusted_at` is when a handshake with this run of the container last
    succeeded (ns since the epoch), None if none did. Raises as `install` does.
    """
    plan = stores.plan(_look(container, ours, stores.paths()), ours, "")
    links = [step for step in plan.steps if step.do is Do.LINK]
    files = [step.path for step in plan.steps if step.do is not Do.LINK]
    asked = [_request(step, ours) | {"do": "find link"} for step in links]
    found = [_there(_store(answer)) for answer in _write(container, asked)]
    found += [_standing(path, fact) for path, fact in _look(container, ours, files).items()]
    return _report(container, plan, found, state, trusted_at)


def remove(container: Container, *, ours: OurCertificate, state: Path) -> Report:
    """Take our CA out of every store: byte exact where nobody changed the file since.

    Safe to repeat. What has no record goes by fingerprint. Raises as `install`
    does.
    """
    entries = records.load(state, container)
    plan = stores.plan(_look(container, ours, stores.paths()), ours, "")
    recorded = {entry["path"] for entry in entries}
    # Without a record: an anchor bears our name, so it is ours alone; a bundle never is.
    unrecorded: list[Entry] = [
        {**_request(step, ours), "ca": ours.fingerprint, "created": step.do is Do.CREATE}
        for step in plan.steps
        if step.path not in recorded and recorded.isdisjoint(step.candidates)
    ]
    # Links before what they lead to, so that no client meets a link to nothing.
    asked = [*reversed(entries), *reversed(unrecorded)]
    answers = _write(container, [_undo(entry) for entry in asked])
    left = {a["path"] for a in answers if a["outcome"] not in (Outcome.REMOVED, "not present")}
    records.save(state, container, [entry for entry in entries if entry["path"] in left])
    return _report(container, replace(plan, refused=()), [_store(a) for a in answers], state, None)


def _undo(entry: Entry) -> Entry:
    do = "unlink" if entry["do"] == Do.LINK else "cut"
    return {**entry, "do": do, "fingerprints": [entry["ca"]]}


def _request(step: Step, ours: OurCertificate) -> Entry:
    return {
        "do": step.do,
        "path": step.path,
        "content": step.content,
        "target": step.target,
        "candidates": step.candidates,
        "fingerprints": [ours.fingerprint],
        "marker": ours.marker,
    }


def _look(
    container: Container, ours: OurCertificate, paths: tuple[str, ...] | list[str]
) -> dict[str, Fact]:
    asked = [{"do": "look", "path": path, "fingerprints": [ours.fingerprint]} for path in paths]
    return {a["path"]: _fact(a) for a in _write(container, asked)}


def _fact(answer: Entry) -> Fact:
    if answer.get("outcome") == "not present":
        return Fact()
    return Fact(
        kind=answer.get("kind", "thing we cannot look at"),
        identity=answer.get("identity", ""),
        ours=answer.get("ours", False),
        hashed=answer.get("hashed", False),
        mounted=answer.get("mounted", ""),
        reason=answer.get("reason", ""),
    )


def _there(store: Store) -> Store:
    """Say of what is found that it is installed: here nothing was asked to be."""
    found = store.outcome is Outcome.ALREADY
    return replace(store, outcome=Outcome.INSTALLED) if found else store


def _standing(path: str, fact: Fact) -> Store:
    if fact.ours:
        return Store(path=path, outcome=Outcome.INSTALLED)
    if fact.mounted:
        return Store(path=path, outcome=Outcome.MOUNTED, reason=fact.mounted)
    return Store(path=path, outcome=Outcome.NOT_PRESENT, reason=fact.reason)


def _store(answer: Entry) -> Store:
    return Store(
        path=answer["path"],
        outcome=Outcome(answer["outcome"]),
        reason=answer.get("reason", ""),
    )


def _report(
    container: Container, plan: Plan, found: list[Store], state: Path, trusted_at: int | None
) -> Report:
    refused = [Store(path=p, outcome=Outcome.REFUSED, reason=r) for p, r in plan.refused]
    entries = records.load(state, container)
    installed = max((entry["at"] for entry in entries), default=0)
    if trusted_at is not None and trusted_at < installed:
        trusted_at = None  # it trusted something else, before
    boot = _clock()["boot"]
    stale = any(e["boot"] == boot and e["ticks"] > container.started for e in entries)
    return Report(
        container=container,
        family=plan.family,
        stores=(*found, *refused),
        restart_needed=stale and trusted_at is None,
        trusted_at=trusted_at,
    )


def _clock() -> dict[str, Any]:
    """Return the time in the unit of a process's start time, and the boot it counts from."""
    ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
    return {
        "boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "ticks": int(ticks),
    }


def _write(container: Container, steps: list[Entry]) -> list[Entry]:
    """Have the writer do `steps`; return one answer for each."""
    who = f"container {container.id[:12]}"
    if container.pid <= 0:
        raise RefusedError(f"{who} is not running: start it first, then ask again")
    if not steps:
        return []
    request = {
        "pid": container.pid,
        "started": container.started,
        "cgroups": container.cgroups,
        "steps": steps,
    }
    remedy = "is the daemon root, with all the capabilities that its unit grants?"
    # -B: root writes no byte code beside the sources.
    argv = [sys.executable, "-I", "-S", "-B", str(_WRITER)]
    said = run(argv, stdin=json.dumps(request), remedy=remedy, timeout=10)
    try:
        report = json.loads(said)
    except ValueError as error:
        raise HostError(f"write to {who}", f"no report: {said[:200]}", remedy) from error
    if "failed" in report:
        raise HostError(f"write to {who}", report["failed"], remedy)
    if report.get("outcome") == "gone":
        raise RefusedError(f"{who} is gone: {report['reason']} (start it first, then ask again)")
    if "outcome" in report:
        raise RefusedError(f"{who} is not touched: {report['reason']}")
    answers: list[Entry] = report["stores"]
    return answers
