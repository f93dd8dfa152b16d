"""The daemon's settings: `/etc/webguard/webguard.yaml` in, a frozen `Config` out.

`deploy/webguard.yaml` is the manual: it holds every key with its default, and
a test compares it with these models. A description here is the remedy an
operator reads when the value is wrong, so it is written as an instruction.

Types are strict: nothing is guessed from a string, an unknown key is an error.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
)

from webguard.model import INSTANCE, Action
from webguard.policy import checked, yaml
from webguard.policy.checked import Section, section, sequence, unique
from webguard.policy.decide import Policy

_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

# What may follow one another between slashes of a cgroup parent. It is written
# into an nft ruleset, so nothing in it may be special there.
_CGROUP_PART = re.compile(r"[A-Za-z0-9_.:@-]+")


def _bytes(value: object) -> object:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"([0-9]{1,9})(KiB|MiB|GiB)", value)
    if not found:
        raise ValueError("this is not a size")
    return int(found[1]) * _UNITS[found[2]]


def _absolute(value: str) -> str:
    if not value.startswith("/") or not value.isprintable():
        raise ValueError("this is not an absolute path")
    return value


def _socket(value: str) -> str:
    # sockaddr_un holds 108 bytes, the last of them a NUL.
    if len(os.fsencode(value)) > 107:
        raise ValueError("the path of a socket has at most 107 bytes")
    return value


def _cgroup(value: str) -> str:
    parts = value.split("/")
    if any(part in (".", "..") or not _CGROUP_PART.fullmatch(part) for part in parts):
        raise ValueError("this is not the name of a cgroup below the root")
    return value


def _interface(value: str) -> str:
    # What nft may see of it, and what the kernel allows; never "*" alone, which spares all.
    if not re.fullmatch(r"[A-Za-z0-9_](?:[A-Za-z0-9_.@-]{0,14}|[A-Za-z0-9_.@-]{0,13}\*)", value):
        raise ValueError("this is not the name of an interface, with or without * at its end")
    return value


type Port = Annotated[int, Field(ge=1, le=65535)]
type AbsolutePath = Annotated[str, AfterValidator(_absolute)]
type CgroupParent = Annotated[str, Field(max_length=255), AfterValidator(_cgroup)]
type Level = Literal["debug", "info", "warning", "error"]


class Web(Section):
    """What is inspected, and what happens when that is not possible."""

    enabled: bool = Field(default=True, description="write true or false")
    ports: Annotated[
        tuple[Port, ...],
        BeforeValidator(sequence),
        Field(min_length=1, max_length=64),
        AfterValidator(unique),
    ] = Field(
        default=(80, 443, 8080, 8443),
        description="write 1 to 64 different TCP ports from 1 to 65535 in brackets",
    )
    listen_port: Port = Field(
        default=13128, description="write one port from 1 to 65535 that is not among web.ports"
    )
    on_failure: Literal["open", "closed"] = Field(
        default="open", description="write open or closed"
    )
    max_body: Annotated[int, BeforeValidator(_bytes), Field(ge=1024, le=256 * 1024**2)] = Field(
        default=16 * 1024**2,
        description="write a number of bytes, or a size like 16MiB, from 1KiB to 256MiB",
    )
    unscanned: Literal["allow", "block"] = Field(
        default="allow", description="write allow or block"
    )

    workers: int = Field(
        default=2, ge=1, le=64, description="write a number of processes from 1 to 64"
    )
    drain: int = Field(
        default=10, ge=0, le=600, description="write a number of seconds from 0 to 600"
    )
    origin_timeout: int = Field(
        default=120, ge=1, le=3600, description="write a number of seconds from 1 to 3600"
    )

    @field_validator("listen_port")
    @classmethod
    def _not_redirected(cls, value: int, info: ValidationInfo) -> int:
        # Redirected to itself, the proxy's own port would be a loop.
        if value in info.data.get("ports", ()):
            raise ValueError("this port is among web.ports")
        return value


class Tls(Section):
    """Whom we trust upstream, besides the host's own bundle."""

    extra_ca: Annotated[
        tuple[AbsolutePath, ...],
        BeforeValidator(sequence),
        Field(max_length=64),
        AfterValidator(unique),
    ] = Field(
        default=(),
        description="write a list of absolute paths of PEM files, or [] for none",
    )


class Scan(Section):
    """The processes that open what is packed in bodies."""

    workers: int = Field(
        default=1, ge=1, le=16, description="write a number of processes from 1 to 16"
    )


class Runtimes(Section):
    """Where containers are found."""

    podman: Annotated[AbsolutePath, AfterValidator(_socket)] = Field(
        default="/run/podman/podman.sock",
        description="write the absolute path of the engine's socket",
    )
    docker: Annotated[AbsolutePath, AfterValidator(_socket)] = Field(
        default="/var/run/docker.sock",
        description="write the absolute path of the engine's socket",
    )
    cgroup_parents: Annotated[
        tuple[CgroupParent, ...],
        BeforeValidator(sequence),
        Field(min_length=1, max_length=32),
        AfterValidator(unique),
    ] = Field(
        default=("docker", "kubepods", "kubepods.slice", "libpod_parent"),
        description="write 1 to 32 different names relative to the cgroup root,"
        " of letters, digits and _ . : @ - without .. and without a leading slash",
    )


class Record(Section):
    """How much of what happened is kept."""

    keep_days: int = Field(
        default=30, ge=1, le=3650, description="write a number of days from 1 to 3650"
    )
    keep_bytes: Annotated[int, BeforeValidator(_bytes), Field(ge=16 * 1024**2, le=1024**4)] = Field(
        default=512 * 1024**2,
        description="write a number of bytes, or a size like 512MiB, from 16MiB to 1024GiB",
    )


class Isolation(Section):
    """What network isolation does."""

    host_network: Literal["leave", "cut", "inspect"] = Field(
        default="leave", description="write leave, cut or inspect"
    )
    spare: Annotated[
        tuple[Annotated[str, AfterValidator(_interface)], ...],
        BeforeValidator(sequence),
        Field(max_length=64),
        AfterValidator(unique),
    ] = Field(
        default=("virbr*", "vnet*"),
        description="write a list of names of interfaces, each perhaps with * at its end",
    )


class Log(Section):
    """What the daemon says about itself."""

    level: Level = Field(default="info", description="write debug, info, warning or error")


class Config(Section):
    """All settings. `Config()` is the defaults."""

    instance: str = Field(
        default="webguard",
        pattern=INSTANCE,
        description="write 1 to 16 of a-z, 0-9 and _, the first of them a letter",
    )
    web: Annotated[Web, BeforeValidator(section)] = Field(
        default=Web(), description="write the keys of web indented below it"
    )
    tls: Annotated[Tls, BeforeValidator(section)] = Field(
        default=Tls(), description="write the keys of tls indented below it"
    )
    scan: Annotated[Scan, BeforeValidator(section)] = Field(
        default=Scan(), description="write the keys of scan indented below it"
    )
    runtimes: Annotated[Runtimes, BeforeValidator(section)] = Field(
        default=Runtimes(), description="write the keys of runtimes indented below it"
    )
    store: Annotated[Record, BeforeValidator(section)] = Field(
        default=Record(), description="write the keys of store indented below it"
    )
    isolation: Annotated[Isolation, BeforeValidator(section)] = Field(
        default=Isolation(), description="write the keys of isolation indented below it"
    )
    log: Annotated[Log, BeforeValidator(section)] = Field(
        default=Log(), description="write the keys of log indented below it"
    )

    def policy(self, generation: int) -> Policy:
        """Return the part that decides, as generation number `generation`."""
        return Policy(
            generation=generation,
            enabled=self.web.enabled,
            unscanned=Action(self.web.unscanned),
            on_failure=self.web.on_failure,
        )


def load(path: Path) -> Config:
    """Read the settings of `path`; a file that does not exist means the defaults.

    Anything else that is wrong raises `ConfigError`.
    """
    try:
        content = checked.read(path, yaml.MAX_BYTES)
    except FileNotFoundError:
        return Config()
    return parse(content, str(path))


def parse(content: bytes, name: str) -> Config:
    """Return the settings in the bytes of the file called `name`, or raise `ConfigError`."""
    return checked.parse(Config, content, name)[0]
