"""`webguard cert` on real containers with real clients: before, after, and after it was undone."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.system.containers import box_of
from tests.system.host.docker import Docker
from tests.system.host.origin import GOOD, Origin
from tests.system.host.testhost import Done, TestHost
from tests.system.product import Webguard, curl, running, wait_until

pytestmark = pytest.mark.system

BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
URL = f"https://{GOOD}/clean"
# What it is, and its exit code when it does not trust the server's certificate.
_SSL = (
    "import ssl, urllib.request as u;"
    f"print(u.urlopen('{URL}', context=ssl.create_default_context()).read().decode(), end='')"
)
_REQUESTS = f"import requests; print(requests.get('{URL}', timeout=20).text, end='')"
CLIENTS = {
    "curl": (["curl", "-sS", "-m", "20", URL], 60),
    "wget": (["wget", "-qO-", "-T", "20", "-t", "1", URL], 5),
    "Python ssl": (["python3", "-c", _SSL], 1),
    "Python requests": (["python3", "-c", _REQUESTS], 1),
}
# Every file and link of the trust stores, with its content, mode and owner.
PICTURE = (
    "find /etc/ssl /usr/local/share/ca-certificates -printf '%p %y %m %U:%G %l\\n' | sort; "
    "find /etc/ssl /usr/local/share/ca-certificates -type f -exec sha256sum {} + | sort"
)


@pytest.fixture(scope="module")
def webguard(host: TestHost, docker: Docker, webguard_installed: Path) -> Iterator[Webguard]:
    with running(host, webguard_installed, [docker.cgroup_parent.strip("/")]) as daemon:
        yield daemon


@pytest.fixture(autouse=True)
def clean(origin: Origin) -> None:
    origin.serve("/clean", b"clean")


@dataclass(frozen=True)
class Answer:
    """What `webguard cert DEED --json` said."""

    done: Done
    results: list[dict[str, Any]]

    @property
    def code(self) -> int:
        return self.done.code

    @property
    def level(self) -> str:
        return str(self.results[0]["level"])

    @property
    def stores(self) -> dict[str, str]:
        """Path to outcome."""
        return {each["path"]: each["outcome"] for each in self.results[0]["stores"]}

    @property
    def said(self) -> str:
        """All for a person."""
        return self.done.err + " ".join(
            each["reason"] + each["remedy"] for one in self.results for each in one["stores"]
        )


def cert(webguard: Webguard, deed: str, *names: str) -> Answer:
    """Ask the daemon; never a traceback, whatever it answers."""
    done = webguard.command("cert", deed, "--json", *names, check=False)
    assert "Traceback" not in done.err
    return Answer(done, json.loads(done.out)["results"])


def inside(docker: Docker, full_id: str, *argv: str, check: bool = True) -> Done:
    return docker.command("exec", full_id, *argv, check=check)


def picture(docker: Docker, full_id: str) -> str:
    return inside(docker, full_id, "sh", "-c", PICTURE).out


@pytest.fixture
def shop(docker: Docker) -> Iterator[str]:
    with docker.container(docker.debian, "sleep", "600", options=("--name", "shop")) as full_id:
        yield full_id


def test_every_client_fails_before_works_after_and_fails_when_it_is_undone(
    webguard: Webguard, docker: Docker, shop: str
) -> None:
    def ask(argv: list[str]) -> tuple[int, str]:
        done = inside(docker, shop, *argv, check=False)
        return done.code, done.out

    before = picture(docker, shop)
    assert {name: ask(argv) for name, (argv, _) in CLIENTS.items()} == {
        name: (refused, "") for name, (_, refused) in CLIENTS.items()
    }
    (event, *_) = webguard.wait_for(
        lambda seen: any(each["container"]["id"] == shop for each in seen), kind="tls.ca_missing"
    )
    assert event["remedy"] == "webguard cert install shop"

    assert cert(webguard, "install", "shop").level == "installed"
    assert {name: ask(argv) for name, (argv, _) in CLIENTS.items()} == dict.fromkeys(
        CLIENTS, (0, "clean")
    )

    removed = cert(webguard, "remove", "shop")
    assert (removed.code, set(removed.stores.values())) == (0, {"removed"})
    assert {name: ask(argv) for name, (argv, _) in CLIENTS.items()} == {
        name: (refused, "") for name, (_, refused) in CLIENTS.items()
    }
    assert picture(docker, shop) == before


def test_status_says_trusted_after_a_handshake_and_not_before(
    webguard: Webguard, docker: Docker, shop: str
) -> None:
    argv, refused = CLIENTS["curl"]
    assert inside(docker, shop, *argv, check=False).code == refused
    before = cert(webguard, "status", shop)
    assert (before.code, before.level) == (0, "not installed")
    assert set(before.stores.values()) == {"not present"}

    cert(webguard, "install", shop)
    installed = cert(webguard, "status", shop)
    assert (installed.level, installed.results[0]["restart_needed"]) == ("installed", True)
    assert set(installed.stores.values()) == {"installed"}

    inside(docker, shop, *argv)
    wait_until(lambda: cert(webguard, "status", shop).level == "trusted")
    again = cert(webguard, "install", shop)
    assert (again.code, again.level) == (0, "trusted")
    assert set(again.stores.values()) == {"already installed"}

    cert(webguard, "remove", shop)
    assert cert(webguard, "status", shop).level == "not installed"


def test_what_ran_before_must_be_restarted_and_a_restart_keeps_the_certificate(
    webguard: Webguard, docker: Docker, shop: str
) -> None:
    first = cert(webguard, "install", shop)
    assert (first.code, first.level) == (6, "installed")
    assert "restart" in first.done.err
    once = picture(docker, shop)

    # Still the same first process, which may have read its store before.
    second = cert(webguard, "install", shop)
    assert (second.code, set(second.stores.values())) == (6, {"already installed"})
    assert picture(docker, shop) == once

    docker.command("restart", "--time", "0", shop)
    assert cert(webguard, "status", shop).level == "installed"
    third = cert(webguard, "install", shop)
    assert (third.code, set(third.stores.values())) == (0, {"already installed"})
    assert picture(docker, shop) == once
    assert inside(docker, shop, *CLIENTS["curl"][0]).out == "clean"


def test_a_bare_container_gets_the_hosts_roots_and_ours_and_loses_them_again(
    webguard: Webguard, host: TestHost, docker: Docker
) -> None:
    with docker.container(docker.bare, "sleep", "600") as full_id:
        pid = docker.command("inspect", "--format", "{{.State.Pid}}", full_id).out.strip()
        made = Path(f"/proc/{pid}/root{BUNDLE}")
        assert not made.parent.exists()
        assert cert(webguard, "status", full_id).level == "not installed"

        done = cert(webguard, "install", full_id)

        assert (done.level, done.stores) == ("installed", {BUNDLE: "installed"})
        content = made.read_bytes()
        ours = host.path("/etc/ssl/certs/ESET-SSL-Filter-CA.pem").read_bytes()
        roots = host.path(BUNDLE).read_bytes()
        assert roots.strip() in content
        assert ours.strip() in content
        # Nothing in there speaks TLS: so a client in its cgroup reads the bundle that it has.
        copy = host.folder / "bundle"
        copy.write_bytes(content)
        box = box_of(host, docker, full_id)
        assert curl(box, URL, "--cacert", BUNDLE).code == 60
        assert curl(box, URL, "--cacert", str(copy)).out == "clean"

        assert cert(webguard, "remove", full_id).code == 0
        assert not made.parent.exists()


def test_a_read_only_container_is_refused_with_a_remedy(webguard: Webguard, docker: Docker) -> None:
    with docker.container(docker.debian, "sleep", "600", options=("--read-only",)) as full_id:
        before = picture(docker, full_id)

        done = cert(webguard, "install", full_id)

        assert (done.code, done.level) == (1, "not installed")
        assert done.stores[BUNDLE] == "read-only"
        assert "start the container without a read-only root" in done.said
        assert picture(docker, full_id) == before
        argv, refused = CLIENTS["curl"]
        assert inside(docker, full_id, *argv, check=False).code == refused


def test_a_mounted_bundle_is_refused_and_stays_mounted(
    webguard: Webguard, host: TestHost, docker: Docker
) -> None:
    bundle = host.folder / "customers.crt"
    bundle.write_bytes(host.path(BUNDLE).read_bytes())
    content = bundle.read_bytes()
    mount = ("--volume", f"{bundle}:{BUNDLE}:ro")
    with docker.container(docker.debian, "sleep", "600", options=mount) as full_id:
        done = cert(webguard, "install", full_id)

        assert done.code == 1
        assert done.stores[BUNDLE] == "mounted"
        assert "add the host's copy of the CA certificate" in done.said
        assert f" {BUNDLE} " in inside(docker, full_id, "cat", "/proc/self/mountinfo").out
        assert inside(docker, full_id, "cat", BUNDLE).out.encode() == content
        assert bundle.read_bytes() == content
        cert(webguard, "remove", full_id)
        assert bundle.read_bytes() == content


@pytest.mark.parametrize("climb", ["", "/proc/1/root", "/../../../../.."], ids=["", "proc", ".."])
def test_a_store_that_is_a_link_to_the_host_leads_nowhere(
    webguard: Webguard, host: TestHost, docker: Docker, climb: str
) -> None:
    victim = host.folder / "victim"
    victim.mkdir(exist_ok=True)
    (victim / "ca-certificates.crt").write_bytes(host.path(BUNDLE).read_bytes())
    before = {each.name: each.read_bytes() for each in victim.iterdir()}
    script = f"rm -r /etc/ssl/certs; ln -s {climb}{victim} /etc/ssl/certs; exec sleep 600"
    with docker.container(docker.debian, "sh", "-c", script) as full_id:
        wait_until(
            lambda: inside(docker, full_id, "test", "-L", "/etc/ssl/certs", check=False).code == 0
        )

        done = cert(webguard, "install", full_id)
        cert(webguard, "remove", full_id)

    assert done.code == 1
    assert done.stores[BUNDLE] == "refused"
    assert {each.name: each.read_bytes() for each in victim.iterdir()} == before


def test_a_container_that_cannot_be_meant_is_named_and_the_others_are_served(
    webguard: Webguard, docker: Docker, shop: str
) -> None:
    unknown = cert(webguard, "install", "no-such-one")
    assert unknown.code == 3
    assert "webguard containers" in unknown.done.err

    with docker.container(docker.busybox, "sleep", "600", options=("--name", shop[:12])):
        ambiguous = cert(webguard, "install", shop[:12])
        assert ambiguous.code == 3
        assert "give the full id" in ambiguous.done.err
        assert cert(webguard, "status", shop).level == "not installed"

    partly = cert(webguard, "install", "no-such-one", shop)
    assert partly.code == 4
    assert "1 of 2 not done" in partly.done.err
    assert cert(webguard, "status", shop).level == "installed"


def test_a_container_that_does_not_run_is_refused_with_a_remedy_and_one_that_is_gone_is_unknown(
    webguard: Webguard, docker: Docker, shop: str
) -> None:
    docker.command("stop", "--time", "0", shop)
    stopped = cert(webguard, "install", "shop")
    assert stopped.code == 1
    assert f"docker start {shop[:12]}" in stopped.done.err

    docker.command("rm", shop)
    gone = cert(webguard, "install", "shop")
    assert (gone.code, "there is no container" in gone.done.err) == (3, True)


def test_the_record_of_a_deleted_container_is_dropped(
    webguard: Webguard, docker: Docker, shop: str
) -> None:
    """Else `webguard purge` would refuse for ever, for a container that nobody can relieve."""

    def recorded() -> bool:
        cert(webguard, "status", "no-such-one")
        records = webguard.host.path("/var/lib/webguard/state")
        return any(shop in each.read_text() for each in records.iterdir())

    cert(webguard, "install", shop)
    docker.command("stop", "--time", "0", shop)
    assert recorded()

    docker.command("rm", shop)
    assert not recorded()
