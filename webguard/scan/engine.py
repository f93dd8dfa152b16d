"""Scan content with YARA-X. Knows neither flows nor containers.

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
from collections.abc import Mapping
from importlib import resources

import yara_x

from webguard.errors import ConfigError
from webguard.model import ENGINE, Detection, ScanResult, Unscanned
from webguard.scan.decode import Decoded, Limits, decode

_NAME = "yara"
_MAX_DETECTIONS = 32  # in one result; the first already decides
# At the floor of `Limits`, about 5 ms of work: less than what a thread would cost others.
_SMALL = 8 * 1024
# Each may need `Limits.output` of memory.
_DECODERS = 2


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


class Engine:
    """A set of compiled rules, ready to scan with. Belongs to the thread that made it.

    `timeout` (whole seconds) is for each of a body's layers.
    """

    def __init__(self, rules: bytes, *, timeout: int = 2, limits: Limits | None = None) -> None:
        try:
            self._rules = yara_x.Rules.deserialize_from(io.BytesIO(rules))
        except OSError as error:
            raise ConfigError("rules", f"{error} (compile them with this version)") from error
        self._timeout = timeout
        self._limits = limits or Limits()
        self._scanner = self._new_scanner()
        self._decoding = asyncio.Semaphore(_DECODERS)

    async def scan(self, body: bytes, content_encoding: str) -> ScanResult:
        """Scan `body` as it was transferred, and everything that it decodes to.

        Never raises for any content. This is the port `Scan`.
        """
        if len(body) <= _SMALL:
            decoded, sha256 = _open(body, content_encoding, self._limits)
        else:
            async with self._decoding:
                # Not a method of ours: the thread may be the last to let go of what
                # it was given, and a scanner must not be freed in another thread either.
                decoded, sha256 = await asyncio.to_thread(
                    _open, body, content_encoding, self._limits
                )
        detections: dict[Detection, None] = {}  # a set that keeps the order
        unscanned = list(decoded.unscanned)
        for member, content in (("", body), *decoded.layers):
            found, failure = self._match(member, content)
            detections |= dict.fromkeys(found)
            if failure:
                unscanned.append(Unscanned(where=ENGINE, reason=failure))
        return ScanResult(
            detections=tuple(detections)[:_MAX_DETECTIONS],
            unscanned=tuple(unscanned),
            sha256=sha256,
        )

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
        scanner = yara_x.Scanner(self._rules)
        scanner.set_timeout(self._timeout)
        # One match of a pattern decides a rule; a body made of matches would cost memory.
        scanner.max_matches_per_pattern(1000)
        return scanner


def _open(body: bytes, content_encoding: str, limits: Limits) -> tuple[Decoded, str]:
    return decode(body, content_encoding, limits), hashlib.sha256(body).hexdigest()


def _detection(rule: yara_x.Rule, member: str) -> Detection:
    meta = dict(rule.metadata)
    return Detection(
        engine=_NAME,
        name=str(meta.get("name", rule.identifier)),
        kind=str(meta.get("kind", "malware")),
        member=member,
    )
