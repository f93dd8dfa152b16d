"""The words of the system: every value that crosses from one room to another.

Nothing here reads a clock, a file or a socket. A value is built once, where the
fact was learned, and never changed; a later fact is a new value.

Three words are easy to mix up:

- a `Detection` says what some *content* is (a signature matched);
- an `Alarm` says what some *process did* (a behaviour rule matched; a later room);
- a `Verdict` says what we *will do* about it, and only policy makes one.

Text that a container chose (names, labels, URLs, argv) is untrusted wherever it
appears: escape it for the medium it is printed on, and never parse it.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum

INSTANCE = r"^[a-z][a-z0-9_]{0,15}$"
"""Of an instance's name: it stands in paths, and in the names of tables and cgroups."""


class Action(StrEnum):
    """What a verdict tells the room that asked to do."""

    ALLOW = "allow"
    BLOCK = "block"
    BYPASS = "bypass"
    HOLD = "hold"
    RECORD = "record"


class Stage(StrEnum):
    """When policy is asked. Each stage knows other facts (see `Question`)."""

    CONNECTION = "connection"  # it was accepted, nothing of it was read
    REQUEST = "request"  # the request is complete, nothing was sent upstream
    RESPONSE = "response"  # the response is complete, nothing was delivered
    UPSTREAM = "upstream"  # the server could not be reached or could not be trusted


class Network(StrEnum):
    """Whose network a container uses, as measured by comparing namespaces."""

    HOST = "host"
    PRIVATE = "private"
    UNKNOWN = "unknown"  # its first process was gone before we could look


class Severity(IntEnum):
    """OCSF severity ids."""

    INFORMATIONAL = 1
    LOW = 2
    MEDIUM = 3
    HIGH = 4
    CRITICAL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One run of one container. `key` is its identity; the rest are facts about it.

    The identity has three parts because each alone repeats: ids survive a
    restart, and pids (with them cgroup ids) come back for somebody else.
    """

    runtime: str  # "docker", "podman", "cri", or "proc" when only the kernel told us
    id: str  # the full id
    started: int  # start time of its first process, clock ticks since boot (proc(5) stat 22)
    pid: int  # its first process, in our pid namespace
    cgroups: tuple[int, ...] = ()  # ids of its cgroup v2 directory; sub-cgroups are not listed
    netns: int = 0  # inode of its network namespace, 0 if unknown
    network: Network = Network.UNKNOWN
    name: str = ""
    image: str = ""  # the reference it was started from
    image_digest: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    pod: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """The identity of this run."""
        return self.runtime, self.id, self.started


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process, as far as it was still alive when we looked. Pids repeat: see `started`."""

    pid: int
    started: int
    exe: str = ""
    argv: tuple[str, ...] = ()
    uid: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """Content matched a signature."""

    engine: str
    name: str
    kind: str = "malware"
    member: str = ""  # path inside an archive or encoding, "" for the content itself


ENGINE = "engine"
"""`Unscanned.where` when we, not the content, are the reason. No content can forge it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unscanned:
    """A part of the content that was not looked at, and why, in one phrase."""

    where: str  # "body", the name of an encoding, or `ENGINE`
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    """What scanning found, and whether it saw everything.

    No detections together with anything in `unscanned` is *not* clean: policy
    decides what it is.
    """

    detections: tuple[Detection, ...] = ()
    unscanned: tuple[Unscanned, ...] = ()
    sha256: str = ""  # of the content as transferred, "" if it was never held whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What policy is asked. Fields that the stage cannot know are at their defaults."""

    stage: Stage
    subject: str  # URL or path, untrusted text
    container: Container | None = None
    process: Process | None = None
    scan: ScanResult | None = None
    failure: str = ""  # why we, not the content, could not do our work; "" if we could
    upstream: str = ""  # why the server cannot be trusted or reached; "" if it can


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What we will do, and why. Only `webguard.policy` makes one."""

    action: Action
    reason: str  # one sentence for a person
    rule: str  # the setting or rule that decided
    group: str = "default"
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Http:
    """The HTTP facts of an event. All text is the client's or the server's."""

    method: str = ""
    url: str = ""
    version: str = ""
    status: int = 0  # what the origin answered, 0 if it did not
    client: str = ""  # address and port of the asking socket
    server: str = ""  # original destination
    request_bytes: int = 0
    response_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact worth keeping. `id` is a UUIDv7, `at` nanoseconds since the epoch, UTC."""

    id: str
    at: int
    kind: str  # "web.blocked", "web.passed", "web.failed", "daemon.started", ...
    severity: Severity = Severity.INFORMATIONAL
    subject: str = ""
    container: Container | None = None
    process: Process | None = None
    http: Http | None = None
    scan: ScanResult | None = None
    verdict: Verdict | None = None
    outcome: str = ""
    remedy: str = ""
    schema: int = 1
