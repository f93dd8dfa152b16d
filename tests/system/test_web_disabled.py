"""Groups with `web.enabled: false`: their connections are passed on as they come, and told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from tests.system.containers import box_of
from tests.system.host.docker import Docker
from tests.system.host.origin import EICAR, GOOD_V4, GOOD_V6, ORIGIN_V4, Origin
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, running, wait_until
from webguard.cli.ask import ask

pytestmark = pytest.mark.system

FOLDER = "/etc/webguard/policy.d"
OURS = "/etc/ssl/certs/ESET-SSL-Filter-CA.pem"
BOTH = pytest.mark.parametrize("name", [GOOD_V4, GOOD_V6], ids=["IPv4", "IPv6"])


@pytest.fixture(scope="module")
def webguard(host: TestHost, docker: Docker, webguard_installed: Path) -> Iterator[Webguard]:
    with running(host, webguard_installed, [docker.cgroup_parent.strip("/")]) as daemon:
        yield daemon


@pytest.fixture
def bank(webguard: Webguard, docker: Docker) -> Iterator[Cgroup]:
    """A container of a group for which web protection is off."""
    with docker.container(docker.busybox, "sleep", "600", options=("--name", "bank")) as full_id:
        put_in_force(webguard, enabled=False)
        yield box_of(webguard.host, docker, full_id)
        webguard.host.path(f"{FOLDER}/bank.yaml").unlink()
        reload(webguard)


@pytest.fixture
def shop(webguard: Webguard, docker: Docker) -> Iterator[Cgroup]:
    """A container like any other."""
    with docker.container(docker.busybox, "sleep", "600", options=("--name", "shop")) as full_id:
        yield box_of(webguard.host, docker, full_id)


def put_in_force(webguard: Webguard, *, enabled: bool) -> None:
    path = webguard.host.path(f"{FOLDER}/bank.yaml")
    path.parent.mkdir(exist_ok=True)
    web = f"web: {{enabled: {str(enabled).lower()}}}"
    path.write_text(f"groups:\n  - name: banks\n    match: {{name: bank}}\n    {web}\n")
    reload(webguard)


def reload(webguard: Webguard) -> None:
    control = webguard.host.path("/run/webguard/control.sock")
    ask(control, "/v1/policy/reload", {"config": ""})


@contextmanager
def switched_off(webguard: Webguard) -> Iterator[None]:
    """Web inspection is off for everybody while the block runs."""
    path = webguard.host.path("/etc/webguard/webguard.yaml")
    before = path.read_text()
    settings = yaml.safe_load(before)
    settings["web"]["enabled"] = False
    path.write_text(yaml.safe_dump(settings))
    reload(webguard)
    try:
        yield
    finally:
        path.write_text(before)
        reload(webguard)


def issuer(box: Cgroup, name: str) -> str:
    """Who signed the certificate that a client in the container is shown."""
    words = ["openssl", "s_client", "-connect", f"{name}:443", "-servername", name]
    said = box.run(words, check=False)
    pem = "-----BEGIN" + said.out.partition("-----BEGIN")[2]
    return x509.load_pem_x509_certificate(pem.encode()).issuer.rfc4514_string()


@BOTH
def test_its_containers_see_the_servers_own_certificate_and_others_see_ours(
    webguard: Webguard, bank: Cgroup, shop: Cgroup, origin: Origin, name: str
) -> None:
    assert issuer(bank, name) == "CN=Test Origin CA"
    assert issuer(shop, name).startswith("CN=Webguard SSL Filter CA")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_they_ask_for_arrives_whatever_it_is_and_the_record_says_that_it_was_not_scanned(
    webguard: Webguard, bank: Cgroup, shop: Cgroup, origin: Origin, scheme: str
) -> None:
    origin.serve("/eicar", EICAR)
    url, before = f"{scheme}://{GOOD_V4}/eicar", len(webguard.events())

    untouched = curl(bank, url, "--cacert", str(webguard.host.origin.ca_file))
    inspected = curl(shop, url, "--cacert", OURS)

    assert (untouched.out.encode(), untouched.err) == (EICAR, "200")
    assert inspected.err == "403"
    webguard.wait_for(lambda _: [e for e in webguard.events()[before:] if "http" in e])
    (event,) = [e for e in webguard.events()[before:] if in_container(e, "bank")]
    assert (event["kind"], event["severity"]) == ("web.unscanned", "informational")
    assert event["subject"] == f"{ORIGIN_V4}:{443 if scheme == 'https' else 80}"
    assert event["outcome"] == "tunnelled"
    verdict = {key: event["verdict"][key] for key in ("action", "rule", "group")}
    assert verdict == {"action": "bypass", "rule": "web.enabled", "group": "banks"}
    line = webguard.command("events", "--format", "eset13", "--container", "bank", "-n", "1").out
    assert ",Information,Web access protection," in line
    assert ",Not scanned," in line


def in_container(event: dict[str, dict[str, str]], name: str) -> bool:
    return event.get("container", {}).get("name") == name


def test_nobody_is_told_that_they_are_inspected(
    webguard: Webguard, bank: Cgroup, shop: Cgroup
) -> None:
    said = json.loads(webguard.command("containers", "--json").out)["containers"]
    standing = {each["name"]: (each["inspected"], each["why_not"]) for each in said}
    assert standing["shop"] == (True, "")
    assert standing["bank"] == (False, "web.enabled is false for its group, banks")
    status = webguard.status()
    assert (status["protected"], status["web"]["enabled"]) == (True, True)
    assert "web.enabled is false for: banks" in status["not_covered"]


def test_a_host_on_which_it_is_off_for_everybody_is_not_protected(
    webguard: Webguard, shop: Cgroup, origin: Origin
) -> None:
    origin.serve("/eicar", EICAR)
    nothing = "web.enabled is false: nothing is inspected"
    with switched_off(webguard):
        said = webguard.command("status", "--json", check=False)
        status = json.loads(said.out)
        assert (said.code, status["protected"], status["missing"]) == (1, False, [nothing])
        assert status["web"]["enabled"] is False
        assert "web.enabled is false for: default" in status["not_covered"]
        (standing,) = [each for each in status["containers"] if each["name"] == "shop"]
        assert standing["why_not"] == "web.enabled is false for its group, default"
        assert curl(shop, f"http://{ORIGIN_V4}/eicar").err == "200"
        webguard.wait_for(bool, kind="protection.lost", outcome=nothing)
    assert webguard.status()["protected"]
    assert curl(shop, f"http://{ORIGIN_V4}/eicar").err == "403"


def test_an_unread_connection_ends_when_it_is_to_be_inspected(
    webguard: Webguard, bank: Cgroup, docker: Docker, origin: Origin
) -> None:
    script = f"sleep 600 | (nc {ORIGIN_V4} 80; touch /tmp/ended)"
    docker.command("exec", "--detach", "bank", "sh", "-c", script)
    wait_until(lambda: origin.connections() != [])
    ended = ("exec", "bank", "test", "-e", "/tmp/ended")
    reload(webguard)
    assert docker.command(*ended, check=False).code == 1

    put_in_force(webguard, enabled=True)

    wait_until(lambda: docker.command(*ended, check=False).code == 0)
    origin.serve("/eicar", EICAR)
    assert curl(bank, f"http://{ORIGIN_V4}/eicar").err == "403"
