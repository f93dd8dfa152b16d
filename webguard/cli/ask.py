"""Ask the daemon over its control socket."""

import http.client
import json
import socket
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

    def __init__(self, path: Path) -> None:
        super().__init__("webguard", timeout=_TIMEOUT)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(str(self._path))


def ask(control: Path, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the daemon's answer, or raise the error it named.

    `UnreachableError` when there is no daemon, `PermissionDeniedError` when this
    user may not talk to it.
    """
    connection = _Unix(control)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read(_LARGEST))
    except PermissionError as error:
        raise PermissionDeniedError(
            f"{control}: permission denied (be root, or a member of the group webguard)"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(
            f"the daemon does not answer at {control}: {error} (start it: webguard run)"
        ) from error
    finally:
        connection.close()
    if "exit_code" in answer and "error" in answer:
        raise _error(int(answer["exit_code"]), str(answer["error"]))
    return answer


def _error(code: int, message: str) -> WebguardError:
    if code == ConfigError.exit_code:
        return ConfigError("request", message)
    found = _BY_CODE.get(code, RefusedError)
    return found(message)
