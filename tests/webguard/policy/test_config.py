"""The settings: defaults, the documented file, and what an operator gets wrong."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from webguard.errors import ConfigError
from webguard.model import Action
from webguard.policy import yaml
from webguard.policy.config import Config, load, parse
from webguard.policy.decide import Policy

MANUAL = Path(__file__).parents[3] / "deploy" / "webguard.yaml"


def keys_of_models(model: type[BaseModel], above: str = "") -> set[str]:
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys |= keys_of_models(inner, f"{above}{name}.")
        else:
            keys.add(above + name)
    return keys


def keys_of_file(value: yaml.Value, above: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {above}
    return {
        found
        for key, inner in value.items()
        for found in keys_of_file(inner, f"{above}.{key}" if above else key)
    }


def test_the_manual_holds_every_key_and_no_other() -> None:
    assert keys_of_file(yaml.parse(MANUAL.read_bytes(), "f").value) == keys_of_models(Config)


def test_the_manual_equals_the_defaults() -> None:
    assert load(MANUAL) == Config()


def test_the_manual_explains_every_key() -> None:
    lines = MANUAL.read_text().splitlines()
    sections = set(Config.model_fields) - {"instance"}

    for number, line in enumerate(lines):
        name, colon, _ = line.strip().partition(":")
        if colon and not name.startswith("#") and name not in sections:
            assert lines[number - 1].strip().startswith("#"), line


def test_every_key_has_a_remedy() -> None:
    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            assert (field.description or "").startswith("write "), name
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                check(inner)

    check(Config)


def test_a_missing_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path / "none.yaml") == Config()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"# nothing\n", id="comments"),
        pytest.param(b"web:\n  # ports: [1]\nlog:\n", id="empty sections"),
    ],
)
def test_a_file_that_says_nothing_means_the_defaults(content: bytes) -> None:
    assert parse(content, "f") == Config()


def test_every_key_is_read() -> None:
    config = parse(
        b"""
instance: shop_2
web:
  ports: [80, 3128]
  listen_port: 1
  on_failure: closed
  max_body: 4096
  unscanned: block
tls:
  extra_ca: [/etc/ssl/own.pem]
runtimes:
  docker: /run/other.sock
  cgroup_parents: [machine.slice/a, b]
log:
  level: debug
""",
        "f",
    )

    assert config.instance == "shop_2"
    assert config.web.ports == (80, 3128)
    assert config.web.listen_port == 1
    assert config.web.max_body == 4096
    assert config.tls.extra_ca == ("/etc/ssl/own.pem",)
    assert config.runtimes.docker == "/run/other.sock"
    assert config.runtimes.cgroup_parents == ("machine.slice/a", "b")
    assert config.log.level == "debug"
    assert config.policy(7) == Policy(generation=7, unscanned=Action.BLOCK, on_failure="closed")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().web.on_failure = "closed"


@pytest.mark.parametrize(
    ("size", "count"),
    [
        pytest.param("1024", 1024, id="bytes, the least"),
        pytest.param("1KiB", 1024, id="KiB"),
        pytest.param("256MiB", 256 * 1024**2, id="MiB, the most"),
    ],
)
def test_sizes_are_bytes_or_have_a_unit(size: str, count: int) -> None:
    assert parse(f"web: {{max_body: {size}}}".encode(), "f").web.max_body == count


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        pytest.param("wbe: {}", "f:1", "unknown key 'wbe' (did you mean web?)", id="typo"),
        pytest.param(
            "web:\n  prots: [1]", "f:2", "unknown key 'web.prots' (did you mean ports?)", id="inner"
        ),
        pytest.param("log:\n  zzz: 1", "f:2", "(the keys here are level)", id="nothing near"),
        pytest.param("<<: {}", "f:1", "unknown key '<<'", id="merge key"),
        pytest.param("web: 5", "f:1", "web: this is not a section", id="number for a section"),
        pytest.param("web: [1]", "f:1", "web: this is not a section", id="list for a section"),
        pytest.param("- a", "f:1", "must hold keys", id="list for the file"),
        pytest.param("just words", "f:1", "must hold keys", id="words for the file"),
        pytest.param("false", "f:1", "must hold keys", id="false for the file"),
        pytest.param("\nweb: {on_failure: on}", "f:2", "write open or closed", id="on is a word"),
        pytest.param("web: {on_failure: true}", "f:1", "web.on_failure", id="bool"),
        pytest.param("web: {unscanned: Allow}", "f:1", "write allow or block", id="capital"),
        pytest.param("web: {unscanned: }", "f:1", "write allow or block", id="null for a value"),
        pytest.param("web:\n  ports:\n  - 80\n  - x", "f:4", "web.ports.1", id="word for a port"),
        pytest.param("web: {ports: ['80']}", "f:1", "web.ports.0", id="port in quotes"),
        pytest.param("web: {ports: [80.0]}", "f:1", "web.ports.0", id="float for a port"),
        pytest.param("web: {ports: [true]}", "f:1", "web.ports.0", id="bool for a port"),
        pytest.param("web: {ports: 80}", "f:1", "in brackets", id="number for a list"),
        pytest.param("web: {ports: {80: 1}}", "f:1", "a key must be a word", id="map for a list"),
        pytest.param("web: {ports: []}", "f:1", "web.ports", id="no port"),
        pytest.param("web: {ports: [0]}", "f:1", "web.ports.0", id="port 0"),
        pytest.param("web: {ports: [65536]}", "f:1", "web.ports.0", id="port 65536"),
        pytest.param("web: {ports: [80, 80]}", "f:1", "80 is here twice", id="same port twice"),
        pytest.param(f"web: {{ports: {list(range(1, 66))}}}", "f:1", "web.ports", id="65 ports"),
        pytest.param("web: {listen_port: 443}", "f:1", "among web.ports", id="loop"),
        pytest.param("web: {max_body: 1023}", "f:1", "from 1KiB to 256MiB", id="too small"),
        pytest.param("web: {max_body: 257MiB}", "f:1", "from 1KiB to 256MiB", id="too large"),
        pytest.param("web: {max_body: 16MB}", "f:1", "not a size", id="other unit"),
        pytest.param("web: {max_body: -1}", "f:1", "from 1KiB", id="negative"),
        pytest.param("web: {max_body: 1.5MiB}", "f:1", "not a size", id="fraction"),
        pytest.param("web: {max_body: true}", "f:1", "web.max_body", id="bool for a size"),
        pytest.param("tls: {extra_ca: [ca.pem]}", "f:1", "absolute path", id="relative path"),
        pytest.param('tls: {extra_ca: ["/a\\0b"]}', "f:1", "absolute path", id="NUL in a path"),
        pytest.param("tls: {extra_ca: /a}", "f:1", "or [] for none", id="path for a list"),
        pytest.param("runtimes: {docker: }", "f:1", "runtimes.docker", id="null for a path"),
        pytest.param(f"runtimes: {{docker: /{'x' * 107}}}", "f:1", "107 bytes", id="long socket"),
        pytest.param("runtimes: {cgroup_parents: [/docker]}", "f:1", "leading", id="slash"),
        pytest.param("runtimes: {cgroup_parents: [a/../b]}", "f:1", "without ..", id="dots"),
        pytest.param("runtimes: {cgroup_parents: ['a\"; flush']}", "f:1", "letters", id="quote"),
        pytest.param("runtimes: {cgroup_parents: ['']}", "f:1", "letters", id="empty name"),
        pytest.param("runtimes: {cgroup_parents: [a//b]}", "f:1", "letters", id="empty part"),
        pytest.param("runtimes: {cgroup_parents: []}", "f:1", "1 to 32", id="no parent"),
        pytest.param("instance: Web", "f:1", "a-z", id="capital in the name"),
        pytest.param('instance: "a\\n"', "f:1", "a-z", id="newline in the name"),
        pytest.param("instance: a12345678901234567", "f:1", "1 to 16", id="long name"),
        pytest.param("instance: 5", "f:1", "instance", id="number for a name"),
        pytest.param("log: {level: loud}", "f:1", "write debug, info", id="level"),
        pytest.param("x: 1\nweb: {y: 1}\n", "f:1", "unknown key 'x'", id="first of two"),
        pytest.param("web: {y: 1}\nx: 1\n", "f:1", "unknown key 'web.y'", id="first in the file"),
    ],
)
def test_a_wrong_setting_is_named_with_its_line_and_a_remedy(
    text: str, where: str, problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text.encode(), "f")

    assert caught.value.where == where
    assert problem in caught.value.problem
    assert caught.value.problem.endswith(")")


def test_a_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "webguard.yaml"
    path.write_text("a: 1\n")

    with pytest.raises(ConfigError) as caught:
        load(path)

    assert caught.value.where == f"{path}:1"


def test_a_folder_in_the_files_place_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="regular file"):
        load(tmp_path)


def test_a_fifo_in_the_files_place_does_not_hold_us_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")

    with pytest.raises(ConfigError, match="regular file"):
        load(tmp_path / "f")


def test_a_file_that_cannot_be_read_is_an_error_and_not_the_defaults(tmp_path: Path) -> None:
    # Root may read everything; a path through a file is refused to root as well.
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match="cannot read it"):
        load(tmp_path / "file" / "webguard.yaml")


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(ConfigError, match="larger than"):
        load(tmp_path / "f")
