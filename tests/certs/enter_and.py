"""Enter a container as the writer does, then do what the writer never does.

Run by path as the writer is, with its path and the container as JSON: so that a
test can see what would happen to a late import, or to a mount that comes late.
"""

import importlib.util
import json
import os
import sys
from typing import Any


def late_import(writer: Any, target: Any) -> str:
    """Import what nobody has imported yet, from wherever the interpreter would look."""
    writer.enter(target)
    try:
        import wsgiref.util
    except ImportError:
        return "nothing to import from"
    return f"imported {wsgiref.util}"


def late_mount(writer: Any, target: Any) -> str:
    """Replace a file; between the last check and the rename, let the test mount over it."""
    ask, answer = os.dup(1), os.dup(0)  # entering closes the standard ones
    inside = writer.enter(target)
    found = inside.locate("/etc/ssl/certs/ca-certificates.crt")

    def check(_: Any) -> None:
        os.write(ask, b"mount now\n")
        os.read(answer, 1)

    sys.modules["certs.inside"].still = check  # type: ignore[attr-defined]
    try:
        inside.replace(found, b"replaced\n")
    except OSError as error:
        return error.strerror or "?"
    return "replaced"


request = json.loads(sys.argv[1])
spec = importlib.util.spec_from_file_location("writer", request["writer"])
assert spec is not None
assert spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules["writer"] = module
spec.loader.exec_module(module)
out = os.dup(1)
mode = {"import": late_import, "mount": late_mount}[request["mode"]]
os.write(out, mode(module, module.find(request)).encode())
os._exit(0)
