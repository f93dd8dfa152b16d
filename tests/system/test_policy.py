"""The policy of a running daemon: checked, compared, put in force and refused, with no restart."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.system.host.docker import Docker
from tests.system.host.origin import EICAR, ORIGIN_V4, Origin
from tests.system.host.testhost import Cgroup, TestHost
from tests.system.product import Webguard, curl, running, wait_until
from webguard.cli.ask import ask
from webguard.errors import ConfigError

pytestmark = pytest.mark.system

FOLDER = "/etc/webguard"
SETTINGS = f"{FOLDER}/webguard.yaml"
URL = f"http://{ORIGIN_V4}"


@pytest.fixture(scope="module")
def box(host: TestHost) -> Cgroup:
    return host.cgroup("box")


@pytest.fixture(scope="module")
def webguard(
    host: TestHost, docker: Docker, webguard_installed: Path, box: Cgroup
) -> Iterator[Webguard]:
    parents = [box.below_root, docker.cgroup_parent.strip("/")]
    with running(host, webguard_installed, parents, {"web": {"workers": 2}}) as daemon:
        yield daemon


class Files:
    """The operator's files, and how they were."""

    def __init__(self, webguard: Webguard) -> None:
        self._host = webguard.host
        self._good = self._host.path(SETTINGS).read_text()
        self._written: list[Path] = []

    def write(self, name: str, text: str | bytes) -> None:
        path = self._host.path(f"{FOLDER}/{name}")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        self._written.append(path)

    def set(self, section: str, **keys: Any) -> None:
        """Change settings."""
        whole = yaml.safe_load(self._good)
        whole.setdefault(section, {}).update(keys)
        self._host.path(SETTINGS).write_text(yaml.safe_dump(whole))

    def restore(self) -> None:
        self._host.path(SETTINGS).write_text(self._good)
        for each in self._written:
            each.unlink(missing_ok=True)
        self._written.clear()


@pytest.fixture
def files(webguard: Webguard) -> Iterator[Files]:
    """To be changed at will; afterwards what they were is in force again."""
    files = Files(webguard)
    yield files
    files.restore()
    do(webguard, "reload")


def do(webguard: Webguard, what: str, **asked: str) -> dict[str, Any]:
    """What `webguard policy WHAT --json` prints, without the second that a program needs."""
    control = webguard.host.path("/run/webguard/control.sock")
    return ask(control, f"/v1/policy/{what}", {"config": "", **asked} if what != "show" else asked)


def code(box: Cgroup, path: str, *options: str) -> str:
    return curl(box, f"{URL}{path}", *options).err


def test_what_is_good_is_said_to_be_good(webguard: Webguard, files: Files) -> None:
    files.write("lists.d/ads.yaml", "name: ads\ntype: blocked\nentries: ['*.ads.example/*']\n")
    files.write("policy.d/shop.yaml", "groups:\n  - name: shops\n    match: {name: 'shop-*'}\n")
    done = webguard.command("policy", "check")
    assert done.out.startswith("good: 1 groups, 1 lists, ")
    answer = json.loads(webguard.command("policy", "check", "--json").out)
    assert (answer["groups"], answer["lists"]) == (["shops"], {"ads": 1})


BAD = [
    pytest.param("webguard.yaml", "web:\n  prots: [80]\n", 2, "prots", id="a typo"),
    pytest.param("webguard.yaml", "web:\n  ports: eighty\n", 2, "TCP ports", id="a wrong type"),
    pytest.param("webguard.yaml", "log: {}\nweb: {}\nweb: {}\n", 3, "web", id="a key twice"),
    pytest.param(
        "lists.d/x.yaml",
        "name: x\ntype: blocked\nentires: []\n",
        3,
        "entires",
        id="a typo in a list",
    ),
    pytest.param(
        "lists.d/x.yaml",
        "name: x\ntype: blocked\nfile: none.txt\n",
        3,
        "none.txt",
        id="a list whose entries are missing",
    ),
    pytest.param("lists.d/x.yaml", b"name: \xff\n", 1, "UTF-8", id="a list that is no text"),
    pytest.param(
        "lists.d/x.yaml",
        "name: x\ntype: blocked\nentries:\n  - 'good.example'\n  - 'http://'\n",
        5,
        "http://",
        id="a bad pattern",
    ),
    pytest.param(
        "lists.d/x.yaml", "name: x\ntype: hashes\nentries:\n  - 'abc'\n", 4, "MD5", id="a bad hash"
    ),
    pytest.param(
        "policy.d/x.yaml",
        "groups:\n  - name: a\n    web: {lists: [nobody]}\n",
        3,
        "nobody",
        id="a group with a list that is not there",
    ),
    pytest.param(
        "policy.d/x.yaml",
        "groups:\n  - name: a\n    match: {name: a}\n  - name: a\n    match: {name: b}\n",
        4,
        "already",
        id="a group twice",
    ),
    pytest.param(
        "rules.d/x.yar",
        "rule fine { condition: true }\nrule broken { condition: nothing }\n",
        2,
        "nothing",
        id="a rule that does not compile",
    ),
]


@pytest.mark.parametrize(("name", "text", "line", "said"), BAD)
def test_what_is_bad_is_named_and_the_old_policy_stays(
    webguard: Webguard,
    box: Cgroup,
    origin: Origin,
    files: Files,
    name: str,
    text: str | bytes,
    line: int,
    said: str,
) -> None:
    origin.serve("/fine", b"fine")
    origin.serve("/eicar", EICAR)
    generation = do(webguard, "show")["generation"]
    # Good, and would block: so it shows that nothing of what was read is in force.
    files.write("lists.d/a-good.yaml", "name: good\ntype: blocked\nentries: ['*/fine']\n")
    files.write(name, text)
    try:
        done = webguard.command("policy", "check", check=False)
        assert (done.code, done.out) == (2, "")
        named(done.err, f"{FOLDER}/{name}:{line}", said)
        for what in ("reload", "diff"):
            with pytest.raises(ConfigError) as refused:
                do(webguard, what)
            named(str(refused.value), f"{FOLDER}/{name}:{line}", said)
        shown = do(webguard, "show")
    finally:
        files.restore()
    assert shown["generation"] == generation
    assert (code(box, "/fine"), code(box, "/eicar")) == ("200", "403")


def named(error: str, where: str, said: str) -> None:
    (line,) = error.splitlines()
    assert where in line
    assert said in line.partition(where)[2]


def test_the_commands_say_what_they_do(webguard: Webguard, files: Files) -> None:
    files.write("lists.d/ads.yaml", "name: ads\ntype: blocked\nentries: ['*/ads/*']\n")
    diff = webguard.command("policy", "diff").out
    assert "list ads: +1 -0" in diff
    assert "list:ads: not used -> blocked, 1 entries" in diff
    assert " is in force" in webguard.command("policy", "reload").out
    assert webguard.command("policy", "diff").out == "nothing would change\n"
    assert "ads (blocked)" in webguard.command("policy", "show").out
    files.write("lists.d/ads.yaml", "nam: ads\n")
    for command in ("reload", "diff"):
        done = webguard.command("policy", command, check=False)
        assert (done.code, done.out) == (2, "")
        assert f"{FOLDER}/lists.d/ads.yaml:1" in done.err


def test_a_blocked_list_and_an_allowed_one_come_and_go(
    webguard: Webguard, box: Cgroup, origin: Origin, files: Files
) -> None:
    for path in ("/ads/1", "/ads/good", "/other"):
        origin.serve(path, b"content")
    files.write("lists.d/ads.yaml", "name: ads\ntype: blocked\nentries: ['*/ads/*']\n")
    do(webguard, "reload")
    assert [code(box, each) for each in ("/ads/1", "/ads/good", "/other")] == ["403", "403", "200"]
    assert [each.path for each in origin.requests()] == ["/other"]

    files.write("lists.d/good.yaml", "name: good\ntype: allowed\nentries: ['*/ads/good']\n")
    do(webguard, "reload")
    assert [code(box, each) for each in ("/ads/1", "/ads/good", "/other")] == ["403", "200", "200"]

    files.restore()
    do(webguard, "reload")
    assert code(box, "/ads/1") == "200"


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
def test_a_hash_list_blocks_one_content(
    webguard: Webguard, box: Cgroup, origin: Origin, files: Files, algorithm: str
) -> None:
    content = f"known by its {algorithm}".encode()
    origin.serve("/known", content)
    origin.serve("/unknown", content + b".")
    digest = hashlib.new(algorithm, content).hexdigest()
    files.write("lists.d/h.yaml", f"name: known\ntype: hashes\nentries: ['{digest} Test.Known']\n")
    do(webguard, "reload")
    assert (code(box, "/known"), code(box, "/unknown")) == ("403", "200")
    (event,) = webguard.wait_for(
        lambda found: [each for each in found if "Test.Known" in str(each.get("scan"))],
        kind="web.blocked",
    )[-1:]
    assert event["subject"] == f"{URL}/known"


def test_a_rule_of_the_operators_own_is_put_in_force(
    webguard: Webguard, box: Cgroup, origin: Origin, files: Files
) -> None:
    origin.serve("/marked", b"... this very text ...")
    assert code(box, "/marked") == "200"
    rule = 'rule mine { strings: $a = "this very text" condition: $a }'
    files.write("rules.d/mine.yar", rule)
    do(webguard, "reload")
    assert code(box, "/marked") == "403"


def test_the_group_of_containers_that_nobody_knows(
    webguard: Webguard, box: Cgroup, origin: Origin, files: Files
) -> None:
    origin.serve("/eicar", EICAR)
    files.write("policy.d/z.yaml", "groups:\n  - name: unknown\n    web: {enabled: false}\n")
    do(webguard, "reload")
    assert curl(box, f"{URL}/eicar").out.encode() == EICAR

    files.write("policy.d/z.yaml", "groups:\n  - name: unknown\n    web: {enabled: true}\n")
    do(webguard, "reload")
    assert code(box, "/eicar") == "403"


def test_a_group_is_for_the_containers_that_it_names(
    webguard: Webguard, docker: Docker, origin: Origin, files: Files
) -> None:
    origin.serve("/eicar", EICAR)
    origin.serve("/list", b"content")
    files.write("lists.d/l.yaml", "name: shop-list\ntype: blocked\nentries: ['*/list']\n")
    files.write(
        "policy.d/a.yaml",
        "groups:\n"
        "  - name: shops\n    match: {name: 'shop-*'}\n    web: {lists: [shop-list]}\n"
        "  - name: others\n    web: {enabled: false, lists: []}\n",
    )
    with (
        docker.container(docker.busybox, "sleep", "600", options=("--name", "shop-1")) as shop,
        docker.container(docker.busybox, "sleep", "600", options=("--name", "bank")) as bank,
    ):
        diff = do(webguard, "diff")
        changed = {
            each["name"]: {change["setting"]: change["after"] for change in each["changes"]}
            for each in diff["containers"]
        }
        assert changed["shop-1"]["group"] == "shops"
        assert (changed["bank"]["group"], changed["bank"]["web.enabled"]) == ("others", "false")
        assert [(each["name"], each["added"]) for each in diff["lists"]] == [("shop-list", 1)]
        assert "shop-1" in webguard.command("policy", "diff").out

        do(webguard, "reload")

        assert do(webguard, "diff") == {
            "containers": [],
            "lists": [],
            "settings": [],
            "rules_changed": False,
        }
        shown = do(webguard, "show", container="bank")
        assert [each["group"] for each in shown["containers"]] == ["others"]
        assert "bank" in webguard.command("policy", "show").out
        unknown = webguard.command("policy", "show", "nobody-of-this-name", check=False)
        assert (unknown.code, "nobody-of-this-name" in unknown.err) == (3, True)
        for full_id, path, delivered in (
            (shop, "/eicar", False),
            (shop, "/list", False),
            (bank, "/eicar", True),
            (bank, "/list", True),
        ):
            wget = docker.command("exec", full_id, "wget", "-qO-", f"{URL}{path}", check=False)
            assert (wget.code == 0) is delivered, (full_id, path, wget)


def test_other_ports_are_inspected_and_those_that_were_are_not(
    webguard: Webguard, box: Cgroup, origin: Origin, files: Files
) -> None:
    origin.serve("/eicar", EICAR)
    alternative = f"http://{ORIGIN_V4}:8080/eicar"
    files.set("web", ports=[80])
    diff = do(webguard, "diff")
    assert diff["settings"] == [
        {"setting": "web.ports", "before": [80, 443, 8080, 8443], "after": [80]}
    ]
    do(webguard, "reload")
    assert webguard.status()["web"]["ports"] == [80]
    assert curl(box, alternative).out.encode() == EICAR
    assert code(box, "/eicar") == "403"

    files.set("web", ports=[8080])
    do(webguard, "reload")
    assert curl(box, alternative).err == "403"
    assert curl(box, f"{URL}/eicar").out.encode() == EICAR
    assert webguard.status()["protected"]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        pytest.param("web", "workers", 3, id="workers"),
        pytest.param("web", "listen_port", 13129, id="the port"),
        pytest.param("runtimes", "docker", "/run/other.sock", id="the engine"),
        pytest.param("store", "keep_days", 7, id="the record"),
    ],
)
def test_what_needs_a_restart_is_refused_by_name(
    webguard: Webguard, files: Files, section: str, key: str, value: Any
) -> None:
    before = webguard.workers()
    files.set(section, **{key: value})
    with pytest.raises(ConfigError, match=rf"{section}.*\(.*(--take-over|start again)"):
        do(webguard, "reload")
    assert webguard.workers() == before


def test_a_reload_does_not_collect_descriptors(webguard: Webguard, files: Files) -> None:
    everyone = [webguard.pid, *webguard.workers()]

    def opened() -> list[int]:
        return [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in everyone]

    do(webguard, "reload")
    before = opened()
    for _ in range(4):
        do(webguard, "reload")
    # Fewer is no leak, and more for a moment is a probe's connection.
    wait_until(lambda: all(now <= then for now, then in zip(opened(), before, strict=True)))
