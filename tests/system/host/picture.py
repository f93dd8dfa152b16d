"""A comparable picture of the test host: run by path inside it, and read back outside.

    picture.py V2_ROOT NAME         prints one JSON object

Each part is a list of lines, so that a difference can be read. What changes by
itself (counters, the number of tracked connections, dockerd's own scratch files)
is left out.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

_LISTEN, _UNCONNECTED = "0A", "07"  # include/net/tcp_states.h
_UNIX_LISTEN = 0x10000  # __SO_ACCEPTCON
_CHANGES_BY_ITSELF = ("nf_conntrack_count", "/route/flush", "nf_conntrack_buckets")
_SCRATCH = ("/run/docker", "/run/containerd", "/run/.test-host")
# A cgroup below one of a test host.
_OTHERS = re.compile(r'"(unified/)?wgt-')


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the test host looked like at one moment."""

    tables: frozenset[str]
    links: frozenset[str]
    cgroups: frozenset[str]
    mounts: frozenset[str]
    sockets: frozenset[str]
    processes: frozenset[str]
    sysctls: frozenset[str]
    run: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """From what the script prints."""
        parts = json.loads(text)
        return cls(**{part.name: frozenset(parts[part.name]) for part in fields(cls)})

    def __sub__(self, before: "Snapshot") -> list[str]:
        """What is different from `before`, one line each: + is new, - is gone."""
        lines = []
        for part in fields(self):
            now, then = getattr(self, part.name), getattr(before, part.name)
            lines += [f"+ {part.name}: {line}" for line in sorted(now - then)]
            lines += [f"- {part.name}: {line}" for line in sorted(then - now)]
        return lines


def _tables(name: str) -> Iterator[str]:
    """Whole rules, without counters. nft asks the kernel: an owned table is listed too.

    The machine has one cgroup tree, so a set of cgroups has those of other suites too,
    which come and go: they are left out.
    """
    table = chain = ""
    # -s leaves out what counts.
    listed = _output("nft", "-s", "list", "ruleset")
    # One element a line, whatever nft makes of it.
    listed = re.sub(r"elements = \{(.*?)\}", lambda found: found[1], listed, flags=re.DOTALL)
    for line in re.sub(r'("|\d),\s', r"\1\n\t\t", listed).splitlines():
        if _OTHERS.search(line) and name not in line:
            continue
        if line.startswith("table"):
            table, chain = line.strip(" {"), ""
            yield table
        elif line.startswith("\t") and not line.startswith("\t\t"):
            chain = line.strip(" \t{}")
        if line.strip(" \t{}"):
            yield f"{table}: {chain}: {line.strip()}"


def _links() -> Iterator[str]:
    """Links, addresses, routes; without what the kernel adds some time after a carrier comes."""
    for link in json.loads(_output("ip", "-json", "address")):
        flags = sorted(set(link["flags"]) - {"LOWER_UP", "NO-CARRIER"})
        yield f"{link['ifname']} {' '.join(flags)} {link['mtu']}"
        for address in link["addr_info"]:
            if address["scope"] != "link":
                yield f"{link['ifname']} {address['local']}/{address['prefixlen']}"
    for family in ("-4", "-6"):
        yield from _output("ip", family, "rule").splitlines()
        for route in _output("ip", family, "route", "show", "table", "all").splitlines():
            if "fe80:" not in route and not route.startswith("multicast ff00:"):
                yield route.replace(" linkdown", "").strip()


def _cgroups(root: str, name: str) -> Iterator[str]:
    """Ours, and any that the product may have made; other suites' and daemons' are theirs."""
    for parent, children, _ in os.walk(root):
        if parent == root:
            children[:] = [
                each
                for each in children
                if each.startswith((name, "webguard"))
                and not each.startswith("webguard-test")
                and not _elsewhere(each.rpartition("-")[2])
            ]
        yield parent


def _elsewhere(pid: str) -> bool:
    """Whether this is a living process of another test host, which has such a cgroup too."""
    if not pid.isdigit():
        return False
    try:
        return Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    except OSError:
        return False


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        yield " ".join([*before.split()[3:6], *after.split()[:2]])


def _sockets() -> Iterator[str]:
    for kind in ("tcp", "tcp6", "udp", "udp6", "udplite", "raw", "raw6"):
        table = Path("/proc/self/net", kind)
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, state = line.split()[:4]
            if state == (_LISTEN if kind.startswith("tcp") else _UNCONNECTED):
                yield f"{kind} {local}"
    for line in Path("/proc/self/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if int(words[3], 16) & _UNIX_LISTEN:
            yield f"unix {' '.join(words[7:])}"


def _processes() -> Iterator[str]:
    """Whoever uses the host's network or mounts, except ourselves."""
    own = {kind: Path(f"/proc/self/ns/{kind}").stat().st_ino for kind in ("net", "mnt")}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            here = any((entry / "ns" / k).stat().st_ino == n for k, n in own.items())
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # ended meanwhile
            continue
        # A zombie, and a kernel thread, has no command line.
        if here and command and int(entry.name) != os.getpid():
            yield f"{entry.name} {command.strip()}"


def _sysctls() -> Iterator[str]:
    for path in Path("/proc/sys/net").rglob("*"):
        if path.is_file() and not any(each in str(path) for each in _CHANGES_BY_ITSELF):
            try:
                yield f"{path}={path.read_text().strip()}"
            except OSError:  # write-only, or of another namespace
                continue


def _run() -> Iterator[str]:
    for parent, folders, files in os.walk("/run"):
        folders[:] = [each for each in folders if f"{parent}/{each}" not in _SCRATCH]
        yield from (f"{parent}/{each}" for each in (*folders, *files))


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout


def main(root: str, name: str) -> None:
    """Print the picture."""
    picture = {
        "processes": _processes(),
        "tables": _tables(name),
        "links": _links(),
        "cgroups": _cgroups(root, name),
        "mounts": _mounts(),
        "sockets": _sockets(),
        "sysctls": _sysctls(),
        "run": _run(),
    }
    sys.stdout.write(json.dumps({part: sorted(set(lines)) for part, lines in picture.items()}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
