"""The demonstration: one container, before and after it trusts the inspection CA.

It runs on the test host (tests/system/host): network, mounts and Docker engine
are its own and go with it, so it shows the real thing on any machine. What is
printed as the container's is what the container printed.
"""

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.system.conftest import CHECKOUT, placed_dependencies
from tests.system.host.docker import Docker
from tests.system.host.origin import EICAR, GOOD
from tests.system.host.testhost import TestHost, open_host
from tests.system.product import Webguard, running

_PROGRAM = Path("/opt/webguard/venv/bin/webguard")
_CURL = "/usr/bin/curl"
_BUNDLE = "etc/ssl/certs/ca-certificates.crt"


def say(text: str = "") -> None:
    """Print at once, so that a person can follow."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Set the stage, play, and take it down again."""
    say("webguard demo: making a host of its own (network, Docker engine, web server) ...")
    with open_host(placed_dependencies()) as host:
        host.place_product(CHECKOUT)
        docker = host.docker
        image = _image(host, docker)
        host.origin.serve("/clean", b"a clean page\n")
        host.origin.serve("/eicar", EICAR)
        say(f"starting webguard; it protects the containers of {docker.cgroup_parent}")
        parent = docker.cgroup_parent.lstrip("/")
        with (
            docker.container(
                image, "/usr/bin/sleep", "600", options=("--name", "shop")
            ) as container,
            running(host, _PROGRAM, [parent]) as webguard,
        ):
            _play(webguard, docker, container)
    say("\nAll gone: containers, engine, network and webguard; nothing of it is left here.")


def _play(webguard: Webguard, docker: Docker, container: str) -> None:
    say("\n$ webguard status")
    say(webguard.command("status", check=False).out.rstrip())
    say("\n--- HTTP, from inside the container")
    _ask(docker, "http", "clean", wants="a clean page")
    _ask(docker, "http", "eicar", wants="403")
    say("\n--- HTTPS, before the container trusts the inspection CA")
    _ask(docker, "https", "clean", wants="certificate")
    _ask(docker, "https", "eicar", wants="certificate")
    say("\n$ webguard cert install shop")
    say(webguard.command("cert", "install", "shop", check=False).out.rstrip())
    say("\n--- HTTP and HTTPS, after")
    _ask(docker, "http", "clean", wants="a clean page")
    _ask(docker, "http", "eicar", wants="403")
    _ask(docker, "https", "clean", wants="a clean page")
    _ask(docker, "https", "eicar", wants="403")
    say("\n$ webguard cert status shop")
    say(webguard.command("cert", "status", "shop", check=False).out.rstrip())
    say("\n--- Events (one JSON object a line; these are the ones of this container)")
    for event in webguard.events():
        if event.get("container", {}).get("id") == container:
            say(_short(event))
    say("\n$ webguard cert remove shop")
    say(webguard.command("cert", "remove", "shop", check=False).out.rstrip())


def _ask(docker: Docker, scheme: str, page: str, *, wants: str) -> None:
    """Fetch a page in the container and print what it printed; fail unless it is right."""
    url = f"{scheme}://{GOOD}/{page}"
    done = docker.command("exec", "shop", _CURL, "-sS", "-m", "15", url, check=False)
    said = (done.out + done.err).strip()
    say(f"shop$ curl {url}\n  {said}")
    if wants not in said:
        raise SystemExit(f"demo: expected {wants!r}")


def _short(event: dict[str, object]) -> str:
    """Return the event without what would fill the screen."""
    container = event["container"]
    assert isinstance(container, dict)
    kept: dict[str, object] = {
        key: event[key] for key in ("kind", "subject", "outcome", "remedy") if key in event
    }
    verdict = event.get("verdict")
    if isinstance(verdict, dict):
        kept["reason"] = verdict["reason"]
    return json.dumps({"id": event["id"], "container": container["name"], **kept})


def _image(host: TestHost, docker: Docker) -> str:
    """Make a small image with a real client from this machine's own files."""
    archive = host.folder / "demo.tar"
    with tarfile.open(archive, "w") as tar:
        for path in (_CURL, "/usr/bin/sleep", "/etc/ssl/certs/ca-certificates.crt"):
            _add(tar, Path(path))
        for path in sorted({*_libraries(_CURL), *_libraries("/usr/bin/sleep")}):
            _add(tar, Path(path))
        for path in ("/etc/os-release", *map(str, Path("/lib").glob("*/libnss_files.so.2"))):
            if Path(path).exists():
                _add(tar, Path(path))
        for folder in ("usr/local/share/ca-certificates", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    docker.command("import", archive, "webguard-demo:1", timeout=120)
    return "webguard-demo:1"


def _add(tar: tarfile.TarFile, path: Path) -> None:
    tar.add(path.resolve(), arcname=str(path).lstrip("/"))


def _libraries(program: str) -> Iterator[str]:
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    for line in listed.splitlines():
        for word in line.split():
            if word.startswith("/"):
                yield word


if __name__ == "__main__":
    main()
