"""Which trust stores there are, and what to do to teach one our CA. Pure; the table is data.

A family is known by the files that are there, never by what os-release says:
images are cut down and mixed. A store takes our certificate at up to three
places, because each alone is lost: the bundle is what programs read, the anchor
is what a package upgrade makes the bundle from again, and the hash link is what
OpenSSL looks up in the directory.

A store that is not in the table is named and refused. It is never taken for an
empty container: a second bundle beside it would switch its own roots off.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from certs.certificate import OurCertificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Where one family of images keeps its trust."""

    name: str
    bundles: tuple[str, ...]  # PEM files that programs read; those that exist are appended to
    anchors: str  # the folder that bundles are made from again
    ending: str  # of an anchor's file name; the family's tool ignores others
    hashed: str  # the folder that may hold subject-hash links


FAMILIES = (
    # Alpine and Wolfi have the same files and no hash links; distroless the bundle alone.
    Family(
        name="debian-like",
        bundles=("/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem"),
        anchors="/usr/local/share/ca-certificates",
        ending=".crt",
        hashed="/etc/ssl/certs",
    ),
)

# Where Go and OpenSSL's derivatives look on systems that are not in the table.
OTHERS = (
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
)

# A container without any store gets the first file that every runtime looks for.
BARE = "/etc/ssl/certs/ca-certificates.crt"


class Do(StrEnum):
    """What a step asks of the writer; `certs.operations` says what each does."""

    APPEND = "append"
    CREATE = "create"
    LINK = "link"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """What is at one path of a container."""

    kind: str = "missing"  # "file", "directory", "FIFO", ...
    identity: str = ""  # the same for two paths to the same object
    ours: bool = False  # a PEM file that holds our certificate
    hashed: bool = False  # a directory with subject-hash links
    mounted: str = ""  # what is mounted there, "" if it is on the container's root
    reason: str = ""  # why it could not be looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One change to one store."""

    do: Do
    path: str
    content: str = ""  # APPEND, CREATE
    target: str = ""  # LINK: what the link says
    candidates: tuple[str, ...] = ()  # LINK: names to try in turn; the first is `path`


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do to all stores of a container, and those we will not touch."""

    family: str
    steps: tuple[Step, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()  # path, reason


def paths() -> tuple[str, ...]:
    """Return every path that `plan` wants to know about."""
    known = [path for f in FAMILIES for path in (*f.bundles, f.anchors, f.hashed)]
    return tuple(dict.fromkeys((*known, BARE, *OTHERS)))


def plan(facts: Mapping[str, Fact], ours: OurCertificate, roots: str) -> Plan:
    """Decide what to do, given what is at each of `paths()`.

    `roots` is the host's bundle, for a container that has none: with our
    certificate alone, a program that brings its own roots would lose them.
    Planning for a container that has it all already gives the same steps.
    """
    for family in FAMILIES:
        if any(facts[path].kind != "missing" for path in family.bundles):
            return _existing(family, facts, ours)
    others = [path for path in OTHERS if facts[path].kind != "missing"]
    if others:
        refused = tuple((path, "a trust store of a family we cannot write yet") for path in others)
        return Plan(family="unknown", refused=refused)
    return Plan(family="bare", steps=(Step(do=Do.CREATE, path=BARE, content=roots + ours.block),))


def _existing(family: Family, facts: Mapping[str, Fact], ours: OurCertificate) -> Plan:
    steps, refused = [], []
    seen: set[str] = set()
    for path in family.bundles:
        fact = facts[path]
        if fact.kind == "missing" or fact.identity in seen:
            continue
        if fact.kind == "file":
            seen.add(fact.identity)  # a link to a bundle is the same file: written once
            steps.append(Step(do=Do.APPEND, path=path, content=ours.block))
        else:
            refused.append((path, fact.reason or f"it is a {fact.kind}, not a file"))
    if facts[family.anchors].kind == "directory":
        anchor = f"{family.anchors}/{ours.file_name}{family.ending}"
        steps.append(Step(do=Do.CREATE, path=anchor, content=ours.pem.decode("ascii")))
        if facts[family.hashed].hashed:
            steps += _hash_links(family.hashed, anchor, ours)
    return Plan(family=family.name, steps=tuple(steps), refused=tuple(refused))


def _hash_links(folder: str, anchor: str, ours: OurCertificate) -> list[Step]:
    """The two links that the family's own tool would make, so that it finds its work done."""
    named = f"{ours.file_name}.pem"
    # Two subjects may share a hash, so `.0` may be somebody else's: take the next free one.
    numbered = tuple(f"{folder}/{ours.subject_hash}.{number}" for number in range(16))
    return [
        _link((f"{folder}/{named}",), anchor),
        _link(numbered, named),
    ]


def _link(candidates: tuple[str, ...], target: str) -> Step:
    return Step(do=Do.LINK, path=candidates[0], candidates=candidates, target=target)
