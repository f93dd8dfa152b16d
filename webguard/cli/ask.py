"""Ask the daemon over its control socket."""

import contextlib
import http
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, override

from webguard.errors import (
    ConfigError,
    NotFoundError,
    PermissionDeniedError,
    RefusedError,
    UnreachableError,
    WebguardError,
)

# A certificate operation may take 20 seconds a container, for as many as there are.
_TIMEOUT = 600.0
_LARGEST = 64 * 1024 * 1024

_BY_CODE: dict[int, type[WebguardError]] = {
    3: NotFoundError,
    77: PermissionDeniedError,
}


class _Unix(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, patience: float | None) -> None:
        super().__init__("webguard", timeout=patience)
        self._path = path
        self._patience = patience

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._patience)
        self.sock.connect(str(self._path))


def ask(control: Path, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the daemon's answer, or raise the error it named.

    `UnreachableError` when there is no daemon, `PermissionDeniedError` when this
    user may not talk to it.
    """
    with _asked(control, path, body) as response:
        answer: dict[str, Any] = json.loads(response.read(_LARGEST))
    return answer


def lines(control: Path, path: str) -> Iterator[str]:
    """Yield the lines of an answer as they come. Raises as `ask` does."""
    with _asked(control, path, None, patience=None) as response:
        for each in response:
            yield each.decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _asked(
    control: Path, path: str, body: dict[str, Any] | None, *, patience: float | None = _TIMEOUT
) -> Iterator[http.client.HTTPResponse]:
    connection = _Unix(control, patience)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            refused = json.loads(response.read(_LARGEST))
            raise _error(int(refused["exit_code"]), str(refused["error"]))
        with response:
            yield response
    except PermissionError as error:
        raise PermissionDeniedError(
            f"{control}: permission denied (be root, or a member of the group webguard)"
        ) from error
    except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
        raise UnreachableError(
            f"the daemon does not answer at {control}: {error} (start it: webguard run)"
        ) from error
    finally:
        connection.close()


def _error(code: int, message: str) -> WebguardError:
    if code == ConfigError.exit_code:
        where, _, problem = message.partition(": ")
        return ConfigError(where, problem)
    found = _BY_CODE.get(code, RefusedError)
    return found(message)
