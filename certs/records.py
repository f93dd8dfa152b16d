"""Remember what we changed in a container, so that it can be undone to the byte.

One JSON file for each container (runtime and full id: a restart keeps the
container's files, a new container has others). Written durably before the
install is reported. Without a record removal still works, by fingerprint.
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


def prune(state: Path, deleted: Callable[[str, str], bool]) -> None:
    """Drop the records of containers that are `deleted` (runtime, full id): their files are gone.

    A record that cannot be read stays: `load` says what to do about it.
    """
    for path in state.glob("certs-*.json"):
        try:
            record = json.loads(path.read_bytes())
            gone = deleted(str(record["runtime"]), str(record["id"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if gone:
            path.unlink(missing_ok=True)


def _path(state: Path, container: Container) -> Path:
    # Hashed: an id that only the kernel told us is a path that the container's maker chose.
    key = hashlib.sha256(f"{container.runtime}\0{container.id}".encode()).hexdigest()
    return state / f"certs-{key[:32]}.json"
