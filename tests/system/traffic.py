"""A client that asks again and again: a script, run by path with `-I`.

    traffic.py STOP LEAST CA URL...

Every URL has a thread of its own; every second thread keeps its connection. A
number is put behind each URL, so that one request can be told from another in
the origin's log and in the record. Ends when the file STOP is there and LEAST
requests were made; prints one JSON object a request.
"""

import hashlib
import http.client
import itertools
import json
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_PAUSE = 0.1
_numbers = itertools.count(1)


class Asker:
    """One thread's client."""

    def __init__(self, url: str, ca: str, *, keep: bool) -> None:
        self._url = urlsplit(url)
        self._keep = keep
        self._context = ssl.create_default_context(cafile=ca)
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, number: int) -> dict[str, Any]:
        """Make one request; whatever goes wrong is part of the answer."""
        told: dict[str, Any] = {"number": number, "path": self._url.path, "keep": self._keep}
        began = time.time()
        try:
            connection = self._connection or self._connect()
            told["port"] = connection.sock.getsockname()[1]
            headers = {} if self._keep else {"Connection": "close"}
            connection.request("GET", f"{self._url.path}?{number}", headers=headers)
            response = connection.getresponse()
            told["status"] = response.status
            told["sha256"] = hashlib.sha256(response.read()).hexdigest()
            # http.client closes it when the server says that this was the last one.
            self._connection = connection if self._keep and connection.sock else None
        except (OSError, http.client.HTTPException) as error:
            self._connection = None
            told["failed"] = f"{error!r} after {time.time() - began:.2f} s, at {began:.2f}"
        return told

    def _connect(self) -> http.client.HTTPConnection:
        host = self._url.hostname or ""
        secure = self._url.scheme == "https"
        connection = (
            http.client.HTTPSConnection(host, 443, timeout=30, context=self._context)
            if secure
            else http.client.HTTPConnection(host, 80, timeout=30)
        )
        connection.connect()
        return connection


def main(stop: Path, least: int, ca: str, urls: list[str]) -> None:
    """Ask until told to stop, and print what came."""
    done: list[dict[str, Any]] = []

    def go(asker: Asker) -> None:
        while len(done) < least or not stop.exists():
            done.append(asker.ask(next(_numbers)))
            time.sleep(_PAUSE)

    askers = [Asker(url, ca, keep=index % 2 == 1) for index, url in enumerate(urls)]
    threads = [threading.Thread(target=go, args=(each,)) for each in askers]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for told in done:
        sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:])
