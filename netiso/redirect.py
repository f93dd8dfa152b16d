"""Write the nft text of web interception. Pure text: values in, text out.

Two tables. The *web* table sends containers' web connections to the proxy's
port; it belongs to the daemon's socket and goes with it. The *closed* table,
for `on_failure: closed`, stays when the daemon dies and keeps the containers'
web ports shut. `netiso.apply` loads both and fills the sets.

The rules never change once they are loaded: what changes are elements of sets,
which `netiso.apply` sends by itself. So verification compares rules with what
was loaded, byte for byte, and a change costs one small transaction, while
libnftables reads all tables of the host before each of its own. The set `live`
is the switch of the container redirect.

Each command stands alone (`add`, `flush`, `add rule`), because `add table` on
a table that has the persist flag is refused, and because loading the text
twice must not empty the sets.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

# What nft's parser may see of an instance's name. Table names go up to 63
# bytes in the kernel's oldest form, and ours carry a suffix and a number.
_INSTANCE = re.compile(r"[a-z][a-z0-9_]{0,30}")
_HIGHEST_PORT = 65535
_DEEPEST_LEVEL = 255  # the kernel's limit of `socket cgroupv2 level`
# nft numbers generations for us to read; the bound keeps the name short.
_LAST_GENERATION = 10**9

# The one loopback address that is not left alone: self-test connections go there, so that
# they need no network. Nobody else has a reason to; who tries is inspected.
PROBE_ADDRESS = "127.87.71.1"

LIVE = "live"  # nf_proto: for which families the container redirect is on
SELFTEST = "selftest"  # cgroup ids whose connections take the self-test's own rule

# Docker and kube-proxy map destinations at -100, and the first mapping wins: at
# -95 a connection to a published port would go to the container unseen.
NAT_PRIORITY = -105
# Before any NAT, so it sees the port that the program asked for; after
# conntrack (-200), so it can tell replies.
_REFUSE_PRIORITY = -110
# After every NAT: redirected packets have loopback addresses by then.
_CLOSED_PRIORITY = 0
_GUARD_PRIORITY = -5


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """One generation of interception. Raises `ValueError` on what nft must not see."""

    instance: str
    generation: int
    proxy_port: int
    ports: tuple[int, ...]
    levels: int = 8  # the deepest cgroup level that is matched
    closed: bool = False

    def __post_init__(self) -> None:
        check_instance(self.instance)
        if not 0 <= self.generation <= _LAST_GENERATION:
            raise ValueError(f"generation {self.generation} is not within 0..{_LAST_GENERATION}")
        if not self.ports:
            raise ValueError("no ports to intercept")
        for port in (self.proxy_port, *self.ports):
            if not 1 <= port <= _HIGHEST_PORT:
                raise ValueError(f"port {port} is not within 1..{_HIGHEST_PORT}")
        if self.proxy_port in self.ports:
            # The closed table tells a redirected packet by its port.
            raise ValueError(f"port {self.proxy_port} is the proxy's own and cannot be intercepted")
        if not 1 <= self.levels <= _DEEPEST_LEVEL:
            raise ValueError(f"level {self.levels} is not within 1..{_DEEPEST_LEVEL}")

    @property
    def web_table(self) -> str:
        """The name of the table that redirects (family inet)."""
        return f"{self.instance}_web_{self.generation}"

    @property
    def closed_table(self) -> str:
        """The name of the table that keeps ports shut (family inet)."""
        return f"{self.instance}_closed_{self.generation}"


def check_instance(instance: str) -> None:
    """Raise `ValueError` unless `instance` is a name that is safe in nft text."""
    if not _INSTANCE.fullmatch(instance):
        raise ValueError(f"instance {instance!r} does not match {_INSTANCE.pattern}")


def generation_of(instance: str, table: str) -> int | None:
    """Return which generation of `instance` a table belongs to, None if it is not its table."""
    match = re.fullmatch(rf"{re.escape(instance)}_(?:web|closed|iso)_([0-9]{{1,10}})", table)
    return int(match[1]) if match else None


def cgroup_set(level: int) -> str:
    """Return the name of the set that holds the cgroup ids of a level."""
    return f"cg{level}"


def render_web(redirect: Redirect) -> str:
    """Return the web table: guard, self-test and the container redirect, switched off."""
    table = f"inet {redirect.web_table}"
    ports = _ports(redirect.ports)
    # `redirect` sends to 127.0.0.1 and ::1 here, where the listeners are.
    chains = {
        "redirected": [f"meta l4proto tcp counter redirect to :{redirect.proxy_port}"],
        "containers": _each_level(redirect.levels, "redirected"),
        "probe": [
            f"socket cgroupv2 level 1 @{SELFTEST} meta l4proto tcp counter "
            f"redirect to :{redirect.proxy_port}"
        ],
        # The port comes first: it is cheaper than the socket's cgroup.
        "output": [
            f"ip daddr 127.0.0.0/8 ip daddr != {PROBE_ADDRESS} return",
            "ip6 daddr ::1 return",
            f"tcp dport {ports} meta nfproto @{LIVE} jump containers",
            f"tcp dport {ports} jump probe",
        ],
        "refused": _REFUSED,
        "bypass": _each_level(redirect.levels, "refused"),
        # What would pass the redirect: QUIC, for which the refusal makes a
        # client fall back to TCP at once; and packets somebody marked notrack,
        # for which there is no NAT.
        "refuse": [
            *_NOT_LOOPBACK,
            "ct direction reply return",
            f"udp dport {ports} meta nfproto @{LIVE} jump bypass",
            f"ct state untracked tcp dport {ports} meta nfproto @{LIVE} jump bypass",
        ],
        # The proxy's port is for redirected connections only: to any other it
        # would be an open proxy. Asked this way round because a packet without
        # conntrack entry has no status at all, and must not slip through.
        "guard": [
            f"tcp dport {redirect.proxy_port} ct status dnat accept",
            f"tcp dport {redirect.proxy_port} counter reject with tcp reset",
        ],
    }
    hooks = {
        "output": f"type nat hook output priority {NAT_PRIORITY}",
        "refuse": f"type filter hook output priority {_REFUSE_PRIORITY}",
        "guard": f"type filter hook input priority {_GUARD_PRIORITY}",
    }
    sets = {**_level_sets(redirect.levels), SELFTEST: "cgroupsv2", LIVE: "nf_proto"}
    return _text([f"add table {table} {{ flags owner; }}"], table, sets, chains, hooks)


def render_closed(redirect: Redirect) -> str:
    """Return the closed table's contents; nft has no syntax for its flags, so the table is there.

    It refuses by the port that was asked for, not by the one that NAT left:
    with the daemon dead Docker's mapping of a published port wins, and the
    packet's own port says nothing any more.
    """
    ports = _ports(redirect.ports)
    chains = {
        "refused": _REFUSED,
        "containers": _each_level(redirect.levels, "refused"),
        "output": [
            # Redirected packets are to loopback by now, and end here.
            *_NOT_LOOPBACK,
            "ct direction reply return",
            f"meta l4proto {{ tcp, udp }} ct original proto-dst {ports} jump containers",
            f"ct state untracked tcp dport {ports} jump containers",
            f"ct state untracked udp dport {ports} jump containers",
        ],
    }
    hooks = {"output": f"type filter hook output priority {_CLOSED_PRIORITY}"}
    table = f"inet {redirect.closed_table}"
    return _text([], table, _level_sets(redirect.levels), chains, hooks)


# A service of the host itself on loopback is not the containers' way out.
_NOT_LOOPBACK = ["ip daddr 127.0.0.0/8 return", "ip6 daddr ::1 return"]
_REFUSED = [
    "meta l4proto tcp counter reject with tcp reset",
    "counter reject with icmpx type port-unreachable",
]


def _each_level(levels: int, target: str) -> list[str]:
    """One rule a level: the expression takes no list, and knows no "any ancestor"."""
    return [
        f"socket cgroupv2 level {level} @{cgroup_set(level)} goto {target}"
        for level in range(1, levels + 1)
    ]


def _level_sets(levels: int) -> dict[str, str]:
    return {cgroup_set(level): "cgroupsv2" for level in range(1, levels + 1)}


def _ports(ports: Iterable[int]) -> str:
    return "{ " + ", ".join(str(port) for port in sorted(set(ports))) + " }"


def _text(
    opening: list[str],
    table: str,
    sets: dict[str, str],
    chains: dict[str, list[str]],
    hooks: dict[str, str],
) -> str:
    lines = list(opening)
    lines += [f"add set {table} {name} {{ type {kind}; }}" for name, kind in sets.items()]
    for name in chains:
        hook = f" {{ {hooks[name]}; policy accept; }}" if name in hooks else ""
        lines.append(f"add chain {table} {name}{hook}")
    lines += [f"flush chain {table} {name}" for name in chains]
    lines += [f"add rule {table} {name} {rule}" for name, rules in chains.items() for rule in rules]
    return "\n".join(lines) + "\n"
