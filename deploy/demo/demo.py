"""The demonstration: a container before and after it trusts us, and containers cut off.

It runs on the test host (tests/system/host): network, mounts and Docker engine
are its own and go with it, so it shows the real thing on any machine. What is
printed as a container's or as webguard's is what that printed; containers that
others run on the machine are left out.
"""

import json
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.system.conftest import CHECKOUT, placed_dependencies
from tests.system.host.docker import Docker
from tests.system.host.origin import EICAR, GOOD
from tests.system.host.testhost import TestHost, open_host
from tests.system.product import Webguard, running

_PROGRAM = Path("/opt/webguard/venv/bin/webguard")
_CURL = "/usr/bin/curl"
_SLEEP = ("/usr/bin/sleep", "600")
_SHOP_WINDOW = "echo 7 in stock > /tmp/index.html; exec /bin/busybox httpd -f -p 80 -h /tmp"
_DB = "10.214.8.2"
_SHORT_ID = re.compile(r"\s*([0-9a-f]{12})\b")


def say(text: str = "") -> None:
    """Print at once, so that a person can follow."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Stage:
    """What the play is played with: the program, and three containers by name."""

    webguard: Webguard
    docker: Docker
    containers: dict[str, str]

    def order(self, *words: str) -> None:
        """Have an operator say it, and print the answer."""
        say(f"\n$ webguard {' '.join(words)}")
        out = self.webguard.command(*words, check=False).out
        for line in out.rstrip().splitlines():
            found = _SHORT_ID.match(line)
            if not found or any(full.startswith(found[1]) for full in self.containers.values()):
                say(line)

    def ask(self, who: str, url: str, *options: str, wants: str) -> None:
        """Fetch a page in a container, and print what it printed; fail unless it is right."""
        words = ("curl", *options, url)
        limit = () if "-m" in options else ("-m", "15")
        done = self.docker.command(
            "exec", who, f"/usr/bin/{words[0]}", "-sS", *limit, *words[1:], check=False
        )
        said = (done.out + done.err).strip().split("\n\n")[0]
        say(f"{who}$ {' '.join(words)}\n  {said}")
        if wants not in said:
            raise SystemExit(f"demo: expected {wants!r}")


def main() -> None:
    """Set the stage, play, and take it down again."""
    began = time.monotonic()
    say("webguard demo: making a host of its own (network, Docker engine, web server) ...")
    with (
        open_host(placed_dependencies()) as host,
        ThreadPoolExecutor() as side_by_side,
        ExitStack() as stack,
    ):
        placing = side_by_side.submit(host.place_product, CHECKOUT)
        docker = host.docker
        containers = _containers(host, docker, stack)
        host.origin.serve("/clean", b"a clean page\n")
        host.origin.serve("/eicar", EICAR)
        placing.result()
        say(f"starting webguard; it protects the containers of {docker.cgroup_parent}")
        parents = [docker.cgroup_parent.lstrip("/")]
        webguard = stack.enter_context(running(host, _PROGRAM, parents))
        stage = Stage(webguard, docker, containers)
        _inspection(stage)
        _isolation(stage)
        _events(stage)
    say("\nAll gone: containers, engine, network and webguard; nothing of it is left here.")
    say(f"That took {time.monotonic() - began:.0f} seconds.")


def _inspection(stage: Stage) -> None:
    stage.order("status")
    say("\n--- HTTP, from inside the container shop, which uses the host's network")
    stage.ask("shop", f"http://{GOOD}/clean", wants="a clean page")
    stage.ask("shop", f"http://{GOOD}/eicar", wants="403")
    say("\n--- HTTPS, before the container trusts the inspection CA")
    stage.ask("shop", f"https://{GOOD}/clean", wants="certificate")
    stage.order("cert", "install", "shop")
    say("\n--- HTTPS, after")
    stage.ask("shop", f"https://{GOOD}/clean", wants="a clean page")
    stage.ask("shop", f"https://{GOOD}/eicar", wants="403")
    stage.order("cert", "status", "shop")


def _isolation(stage: Stage) -> None:
    say("\n--- Two containers on a bridge: web asks db")
    stage.ask("web", "http://db/", wants="7 in stock")
    stage.order("isolation", "on", "--reason", "incident-4711")
    stage.ask("web", "http://db/", "-m", "2", wants="timed out")
    say("\n--- shop is left alone, and not inspected meanwhile, as the table says")
    only_status = ("-o", "/dev/null", "-w", "%{http_code}")
    stage.ask("shop", f"http://{GOOD}/eicar", *only_status, wants="200")
    stage.order("isolation", "off")
    stage.ask("web", "http://db/", wants="7 in stock")
    stage.ask("shop", f"http://{GOOD}/eicar", *only_status, wants="403")


def _events(stage: Stage) -> None:
    say("\n$ webguard events      (in short; each is a JSON object a line)")
    for line in stage.webguard.command("events").out.splitlines():
        event = json.loads(line)
        of = event.get("container", {"id": "", "name": "-"})
        if of["id"] in ("", stage.containers["shop"]):
            kind, subject = event["kind"], event.get("subject", "")
            say(f"{kind:20} {of['name']:5} {subject:24} {event.get('outcome', '')}"[:118].rstrip())
    stage.order("events", "--format", "eset13", "--kind", "web.blocked", "-n", "1")
    stage.order("cert", "remove", "shop")


def _containers(host: TestHost, docker: Docker, stack: ExitStack) -> dict[str, str]:
    """Start them, all of one image; return their ids by name."""
    image = _image(host, docker)
    docker.command("network", "create", "--subnet", "10.214.8.0/24", "backend")
    wanted = {
        "shop": ("host", (), _SLEEP),
        "db": ("backend", ("--ip", _DB), ("/bin/busybox", "sh", "-c", _SHOP_WINDOW)),
        "web": ("backend", ("--add-host", f"db:{_DB}"), _SLEEP),
    }
    return {
        name: stack.enter_context(
            docker.container(image, *argv, network=network, options=("--name", name, *options))
        )
        for name, (network, options, argv) in wanted.items()
    }


def _image(host: TestHost, docker: Docker) -> str:
    """Make a small image with a real client from this machine's own files."""
    archive = host.folder / "demo.tar"
    programs = (_CURL, _SLEEP[0], "/bin/busybox")
    libraries = {each for program in programs for each in _libraries(program)}
    resolvers = map(str, Path("/lib").glob("*/libnss_files.so.2"))
    data = ("/etc/ssl/certs/ca-certificates.crt", "/etc/os-release", *resolvers)
    with tarfile.open(archive, "w") as tar:
        for path in (*programs, *sorted(libraries), *data):
            if Path(path).exists():
                tar.add(Path(path).resolve(), arcname=path.lstrip("/"))
        for folder in ("usr/local/share/ca-certificates", "tmp"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    docker.command("import", archive, "webguard-demo:1", timeout=120)
    return "webguard-demo:1"


def _libraries(program: str) -> Iterator[str]:
    # Of a static program there are none, and ldd says so by failing.
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        for word in line.split():
            if word.startswith("/"):
                yield word


if __name__ == "__main__":
    main()
