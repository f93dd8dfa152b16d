"""An addon for stock mitmproxy that scans as Webguard does, so that both do the same work.

It scans the body as transferred and, if that was encoded, decoded, with the compiled
rules in the file that BENCH_RULES names. It keeps no record and knows no containers.
"""

import io
import os
from pathlib import Path

import yara_x
from mitmproxy import http


class Scan:
    """Answer 403 in the place of what a rule matched."""

    def __init__(self) -> None:
        compiled = Path(os.environ["BENCH_RULES"]).read_bytes()
        rules = yara_x.Rules.deserialize_from(io.BytesIO(compiled))
        self._scanner = yara_x.Scanner(rules)

    def response(self, flow: http.HTTPFlow) -> None:
        if flow.response is None:
            return
        raw, decoded = flow.response.raw_content, flow.response.content
        bodies = [raw] if raw is decoded or raw == decoded else [raw, decoded]
        if any(body and self._scanner.scan(body).matching_rules for body in bodies):
            flow.response = http.Response.make(403, b"matched\n")


addons = [Scan()]
