"""Remember what we changed in a container, so that it can be undone to the byte.

One JSON file for each container (its full id: a restart keeps the container's
files, a new container has others). The runtime is no part of the key: while an
engine is away its containers are known by the kernel alone, and no two runtimes
have a container of one id. Written durably before the install is reported.
Without a record removal still works, by fingerprint.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from certs import durable
from webguard.errors import HostError
from webguard.model import Container

type Entry = dict[str, Any]
"""A step that was done: `do`, `path`, `ca` (fingerprint), `marker`, and the writer's answer."""


def load(state: Path, container: Container) -> list[Entry]:
    """Return what was done to a container and not undone, oldest first."""
    path = _path(state, container)
    try:
        record = json.loads(path.read_bytes())
        entries: list[Entry] = record["entries"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(
            f"read the record {path}",
            f"{type(error).__name__}: {error}",
            "move it away: removal then goes by fingerprint instead of being byte exact",
        ) from error
    return entries


def add(state: Path, container: Container, done: list[Entry]) -> None:
    """Remember what was done, in place of what was remembered of the same paths and CA."""
    new = {(entry["path"], entry["ca"]) for entry in done}
    kept = [e for e in load(state, container) if (e["path"], e["ca"]) not in new]
    save(state, container, [*kept, *done])


def save(state: Path, container: Container, entries: list[Entry]) -> None:
    """Replace the record; with nothing to remember there is no file."""
    path = _path(state, container)
    if not entries:
        path.unlink(missing_ok=True)
        return
    state.mkdir(mode=0o700, exist_ok=True)
    record = {"schema": 1, "runtime": container.runtime, "id": container.id, "entries": entries}
    durable.write(path, json.dumps(record, indent=1).encode(), 0o600)


def prune(
    state: Path, deleted: Callable[[str, str], bool], engine_of: Callable[[str], str]
) -> None:
    """Drop the records of containers that are `deleted` (runtime, full id): their files are gone.

    `engine_of` names the runtime of a full id, or is "": what was recorded while
    the engine was away gets its runtime now, which alone can say later that the
    container was deleted. A record that cannot be read stays: `load` says what to
    do about it.
    """
    for path in state.glob("certs-*.json"):
        try:
            record = json.loads(path.read_bytes())
            runtime, id_ = str(record["runtime"]), str(record["id"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if deleted(runtime, id_):
            path.unlink(missing_ok=True)
        elif (engine := engine_of(id_)) not in ("", runtime):
            durable.write(path, json.dumps({**record, "runtime": engine}, indent=1).encode(), 0o600)


def _path(state: Path, container: Container) -> Path:
    # Hashed: an id that only the kernel told us is a path that the container's maker chose.
    key = hashlib.sha256(container.id.encode()).hexdigest()
    return state / f"certs-{key[:32]}.json"
