"""Compile rules in a process of their own, and read the operator's.

YARA-X holds the interpreter's lock while it compiles, so a thread would not
help: the daemon would answer nobody for as long as a large set of rules takes.
And a rule that makes the compiler run away, or crash, ends that process and not
the daemon.

Run as `python -P -m webguard.scan.compiler`: JSON of names and texts on standard
input, JSON with the compiled rules, or with the mistake, on standard output.
"""

import base64
import json
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from webguard import host
from webguard.errors import ConfigError
from webguard.scan.engine import compile_rules

LARGEST = 16 * 1024**2  # bytes of one file
_TIMEOUT = 60.0

_SOURCES = TypeAdapter(dict[str, str])


class Answer(BaseModel):
    """What the process says: compiled rules, or where the mistake is and what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    compiled: str = ""  # base64
    where: str = ""
    problem: str = ""


def own_rules(folder: Path) -> dict[str, str]:
    """Return the operator's rules, `*.yar` of `folder`, as path and text; none without it.

    Raises `ConfigError` for what cannot be read.
    """
    try:
        paths = sorted(folder.iterdir())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise _unreadable(folder, error) from error
    found: dict[str, str] = {}
    for path in paths:
        if path.name.lower().endswith(".yara") and not path.name.startswith("."):
            # Passed over in silence, it would be a rule that somebody believes in.
            raise ConfigError(f"{path}:1", "only files called *.yar are read (rename or remove it)")
        if path.name.endswith(".yar") and not path.name.startswith("."):
            found[str(path)] = _text(path)
    return found


def compile_apart(sources: Mapping[str, str], *, timeout: float = _TIMEOUT) -> bytes:
    """Return rules compiled by another process. Blocks: call it in a thread.

    Raises `ConfigError` for the first mistake, and `HostError` when the process
    dies or takes longer than `timeout` seconds.
    """
    said = host.run(
        [sys.executable, "-P", "-m", "webguard.scan.compiler"],
        # Escaped: a text that is not valid UTF-8 must arrive as what it is.
        stdin=json.dumps(dict(sources)),
        timeout=timeout,
        remedy="take out of rules.d what was added last",
    )
    answer = Answer.model_validate_json(said)
    if answer.where:
        raise ConfigError(answer.where, answer.problem)
    return base64.b64decode(answer.compiled)


def _text(path: Path) -> str:
    try:
        content = _bytes(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > LARGEST:
        raise ConfigError(f"{path}:1", "larger than 16 MiB (split it)")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}", "this is not UTF-8 text (save it as UTF-8)") from error


def _bytes(path: Path) -> bytes:
    # Non-blocking, so that a FIFO in the file's place cannot hold us up.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"{path}:1", "this is not a regular file (put a file in its place)")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(LARGEST + 1)
    finally:
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}:1", f"cannot read it: {error.strerror} (correct its owner, mode and path)"
    )


def _answer(text: bytes) -> Answer:
    try:
        compiled = compile_rules(_SOURCES.validate_python(json.loads(text)))
    except ConfigError as error:
        return Answer(where=error.where, problem=error.problem)
    return Answer(compiled=base64.b64encode(compiled).decode("ascii"))


def main() -> None:
    """Compile what standard input holds."""
    sys.stdout.write(_answer(sys.stdin.buffer.read()).model_dump_json())


if __name__ == "__main__":
    main()
