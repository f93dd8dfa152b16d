"""Containers that talk to each other over bridges, and who reaches whom."""

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.system.host.docker import Docker
from tests.system.host.origin import ORIGIN_V4
from tests.system.product import wait_until

ECHO = ("nc", "-ll", "-p", "7", "-e", "/bin/cat")
USER_BRIDGE = ("--ipv6", "--subnet", "10.214.7.0/24", "--subnet", "fd00:7768::/64")
BRIDGED = ("one", "two", "three", "four")


@dataclass(frozen=True, slots=True, kw_only=True)
class Yard:
    """Containers by name: two on Docker's bridge, two on a user's, one in the host's network."""

    docker: Docker
    ids: Mapping[str, str]
    v4: Mapping[str, str]
    v6: Mapping[str, str]

    def reaches(self, source: str, address: str, port: int = 7) -> bool:
        """Whether a container is answered now: by another one's echo (7), by the origin (80)."""
        # The proxy takes the end of what a client says for the end of the client.
        said = "echo hello" if port == 7 else r"printf 'GET /hello HTTP/1.0\r\n\r\n'; sleep 3"
        script = f"({said}) | nc -w 1 {address} {port}"
        return "hello" in self.docker.command("exec", source, "sh", "-c", script, check=False).out

    def rows(self) -> dict[str, tuple[str, str, int]]:
        """Who reaches whom when nothing is cut."""
        return {
            "within Docker's bridge": ("one", self.v4["two"], 7),
            "within a user's bridge": ("three", self.v4["four"], 7),
            "within a user's bridge, IPv6": ("three", self.v6["four"], 7),
            "Docker's bridge to the outside": ("one", ORIGIN_V4, 80),
            "a user's bridge to the outside": ("three", ORIGIN_V4, 80),
            "the host's network to Docker's bridge": ("shop", self.v4["one"], 7),
            "the host's network to a user's bridge, IPv6": ("shop", self.v6["three"], 7),
            "the host's network to the outside": ("shop", ORIGIN_V4, 80),
        }

    def reached(self) -> set[str]:
        """Which of the rows hold at this moment."""
        rows = self.rows()
        with ThreadPoolExecutor(len(rows)) as side_by_side:
            found = side_by_side.map(lambda row: self.reaches(*row), rows.values())
            return {name for name, reached in zip(rows, found, strict=True) if reached}

    def wait_for(self, *rows: str) -> None:
        """Return once these hold: a busy machine may need more than one attempt."""
        wait_until(lambda: self.reached() >= {*rows}, timeout=60)


def inspected(docker: Docker, name: str, key: str) -> str:
    networks = docker.command("inspect", "--format", "{{json .NetworkSettings.Networks}}", name).out
    (network,) = json.loads(networks).values()
    return str(network[key])


@contextmanager
def containers_and_bridges(docker: Docker) -> Iterator[Yard]:
    """The containers and the user's bridge, removed at the end."""
    with ExitStack() as stack:
        docker.command("network", "create", *USER_BRIDGE, "yard")
        stack.callback(docker.command, "network", "rm", "yard")
        networks = dict(zip(BRIDGED, ("bridge", "bridge", "yard", "yard"), strict=True))
        ids = {
            name: stack.enter_context(
                docker.container(docker.busybox, *argv, network=network, options=("--name", name))
            )
            for name, network, argv in (
                *((name, network, ECHO) for name, network in networks.items()),
                ("shop", "host", ("sleep", "600")),
            )
        }
        yield Yard(
            docker=docker,
            ids=ids,
            v4={name: inspected(docker, name, "IPAddress") for name in BRIDGED},
            v6={
                name: inspected(docker, name, "GlobalIPv6Address")
                for name in BRIDGED
                if networks[name] == "yard"
            },
        )
