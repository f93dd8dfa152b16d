"""Scan content with YARA-X and lists of hashes. Knows neither flows nor containers.

Nothing that content can do raises here. What could not be looked at is
`Unscanned`, and one of them is different: `where == ENGINE` says that our own
engine failed (it crashed, or ran out of time), not that the content was
unreadable. Whoever asks policy makes it the question's `failure`, so that
`web.on_failure` decides about it and not `web.unscanned`.

YARA-X holds the interpreter's lock while it scans, so threads gain nothing; and
its scanner may be used in the thread that made it only (any other use is a Rust
panic). So scanning happens in the thread of the event loop. Decoding and hashing
release the lock, and large ones are done in a thread.
"""

import asyncio
import hashlib
import io
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources

import yara_x

from webguard.errors import ConfigError
from webguard.model import ENGINE, Detection, ScanResult, Unscanned
from webguard.scan.decode import Decoded, Limits, decode
from webguard.scan.hashes import Hashes

_NAME = "yara"
_MAX_DETECTIONS = 32  # in one result; the first already decides
# At the floor of `Limits`, about 5 ms of work: less than what a thread would cost others.
_SMALL = 8 * 1024
# Each may need `Limits.output` of memory.
_DECODERS = 2


type Deeper = Callable[[bytes], Awaitable[ScanResult]]
"""Scan what is packed in content that the engine has scanned as it is."""


def shipped_rules() -> dict[str, str]:
    """Return the rules that come with Webguard: name of the file and its text."""
    folder = resources.files("webguard.scan") / "rules"
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return {file.name: file.read_text("utf-8") for file in files if file.name.endswith(".yar")}


def compile_rules(sources: Mapping[str, str]) -> bytes:
    """Compile YARA rules, given as file name and text, to what `Engine` takes.

    Raises `ConfigError` for the first mistake. Rules of two files may share a
    name. `include` is refused: rules are what the operator listed, nothing else.
    """
    compiler = yara_x.Compiler()
    compiler.enable_includes(False)
    for name, text in sources.items():
        compiler.new_namespace(name)
        try:
            compiler.add_source(text, origin=name)
        except yara_x.CompileError as error:
            raise _mistake(name, compiler.errors()) from error
        except UnicodeEncodeError as error:
            line = text.count("\n", 0, error.start) + 1
            raise ConfigError(f"{name}:{line}", "this is not text (save it as UTF-8)") from error
    buffer = io.BytesIO()
    compiler.build().serialize_into(buffer)
    return buffer.getvalue()


def _mistake(name: str, errors: list[dict[str, object]]) -> ConfigError:
    """Make the compiler's first error ours: where, what, and what to do."""
    first = errors[0]
    labels = first.get("labels")
    detail = labels[0]["text"] if isinstance(labels, list) and labels else ""
    said = f"{first.get('title')}: {detail}" if detail else f"{first.get('title')}"
    return ConfigError(
        f"{name}:{first.get('line') or 1}", f"{said} (correct the rule, or remove it)"
    )


def inside(member: str, result: ScanResult) -> ScanResult:
    """Return `result` of something inside `member` as one of the whole ("": it is the whole)."""
    if not member:
        return result
    found = (
        replace(each, member=f"{member}/{each.member}" if each.member else member)
        for each in result.detections
    )
    missed = (
        each if each.where == ENGINE else replace(each, where=f"{member}/{each.where}")
        for each in result.unscanned
    )
    return replace(result, detections=tuple(found), unscanned=tuple(missed))


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What one generation scans with."""

    rules: yara_x.Rules
    hashes: Hashes
    generation: int


class Engine:
    """A set of compiled rules, ready to scan with. Belongs to the thread that made it.

    `timeout` (whole seconds) is for each of a body's layers.
    """

    def __init__(
        self,
        rules: bytes,
        *,
        timeout: int = 2,
        limits: Limits | None = None,
        hashes: Hashes | None = None,
        generation: int = 0,
        deeper: Deeper | None = None,
    ) -> None:
        self._timeout = timeout
        self._deeper = deeper
        self._limits = limits or Limits()
        self._decoding = asyncio.Semaphore(_DECODERS)
        self._loaded = _load(rules, hashes, generation)
        self._scanner = self._new_scanner()

    @property
    def generation(self) -> int:
        """Which rules and hashes a scan that is begun now uses."""
        return self._loaded.generation

    def swap(self, rules: bytes, *, hashes: Hashes | None = None, generation: int) -> None:
        """Use other rules and hashes from now on; every result is of one set alone.

        Scans that wait for their decoding use the new ones. Raises `ConfigError`
        for what are not compiled rules, and then nothing has changed. Call it in
        the engine's thread; it holds that up for about 0.1 s per thousand rules.
        """
        self._loaded = _load(rules, hashes, generation)
        self._scanner = self._new_scanner()

    async def load(self) -> None:
        """Have everything loaded that a body may need, before files are out of reach.

        Not by scanning: YARA-X then starts a thread of its own, which stays.
        """
        await self._opened(bytes(_SMALL + 1), "", self._loaded.hashes)

    async def scan(
        self, body: bytes, content_encoding: str, deeper: Deeper | None = None
    ) -> ScanResult:
        """Scan `body` as it was transferred, and everything that it decodes to.

        `deeper`, or else the engine's own, is asked for what is packed in each of these.
        Never raises for any content. This is the port `Scan`.
        """
        deeper = deeper or self._deeper
        while True:
            loaded = self._loaded
            opened = await self._opened(body, content_encoding, loaded.hashes)
            # Hashed with lists that a swap has replaced meanwhile: once more.
            if loaded is self._loaded:
                break
        detections = dict.fromkeys(opened.known)  # a set that keeps the order
        unscanned = list(opened.decoded.unscanned)
        for member, content in (("", body), *opened.decoded.layers):
            found, failure = self._match(member, content)
            detections |= dict.fromkeys(found)
            if failure:
                unscanned.append(Unscanned(where=ENGINE, reason=failure))
        # Last: others may scan while we wait, and by then with other rules.
        for member, content in (("", body), *opened.decoded.layers):
            if deeper is not None:
                more = inside(member, await deeper(content))
                detections |= dict.fromkeys(more.detections)
                unscanned += more.unscanned
        return ScanResult(
            detections=tuple(detections)[:_MAX_DETECTIONS],
            unscanned=tuple(unscanned),
            sha256=opened.sha256,
        )

    def look(self, part: bytes) -> ScanResult:
        """Scan a part of a body as it stands: nothing is decoded, and no list has its hash.

        Never raises for any content. This is the port `Look`: it holds the thread up,
        so parts are to be small.
        """
        found, failure = self._match("", part)
        return ScanResult(
            detections=tuple(found)[:_MAX_DETECTIONS],
            unscanned=(Unscanned(where=ENGINE, reason=failure),) if failure else (),
        )

    async def _opened(self, body: bytes, content_encoding: str, hashes: Hashes) -> "_Opened":
        if len(body) <= _SMALL:
            return _open(body, content_encoding, self._limits, hashes)
        async with self._decoding:
            # Not a method of ours: the thread may be the last to let go of what
            # it was given, and a scanner must not be freed in another thread either.
            return await asyncio.to_thread(_open, body, content_encoding, self._limits, hashes)

    def _match(self, member: str, content: bytes) -> tuple[list[Detection], str]:
        """Return what matched, and why the engine failed ("" if it did not)."""
        try:
            matching = self._scanner.scan(content).matching_rules
            return [_detection(rule, member) for rule in matching], ""
        except yara_x.TimeoutError:
            return [], f"scanning took more than {self._timeout} s"
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - a Rust panic is a BaseException
            # After a panic nothing is known about the scanner's state.
            self._scanner = self._new_scanner()
            return [], f"scanning failed: {type(error).__name__}: {error}"[:200]

    def _new_scanner(self) -> yara_x.Scanner:
        scanner = yara_x.Scanner(self._loaded.rules)
        scanner.set_timeout(self._timeout)
        # One match of a pattern decides a rule; a body made of matches would cost memory.
        scanner.max_matches_per_pattern(1000)
        return scanner


@dataclass(frozen=True, slots=True)
class _Opened:
    """A body with everything that can be done to it in any thread."""

    decoded: Decoded
    known: tuple[Detection, ...]
    sha256: str


def _open(body: bytes, content_encoding: str, limits: Limits, hashes: Hashes) -> _Opened:
    decoded = decode(body, content_encoding, limits)
    known = [
        found
        for member, content in (("", body), *decoded.layers)
        for found in hashes.find(content, member)
    ]
    return _Opened(decoded, tuple(known), hashlib.sha256(body).hexdigest())


def _load(rules: bytes, hashes: Hashes | None, generation: int) -> _Loaded:
    try:
        loaded = yara_x.Rules.deserialize_from(io.BytesIO(rules))
    except OSError as error:
        raise ConfigError("rules", f"{error} (compile them with this version)") from error
    return _Loaded(loaded, hashes or Hashes(), generation)


def _detection(rule: yara_x.Rule, member: str) -> Detection:
    meta = dict(rule.metadata)
    return Detection(
        engine=_NAME,
        name=str(meta.get("name", rule.identifier)),
        kind=str(meta.get("kind", "malware")),
        member=member,
    )
