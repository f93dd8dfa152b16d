"""Write the nft text of isolation, and say which interfaces are the containers'. Pure.

Isolation cuts containers off in the host's own network namespace. Two tables
of one name: the *inet* one drops what is routed from or to a container's
interface and what the host itself exchanges with it; the *bridge* one drops
what never leaves a bridge, which the other sees only for IPv4 and only where
br_netfilter is on.

Base chains are at -300 and drop without asking conntrack: an established
connection is cut at once, and no accept of another program's chain, before us
or after, saves a packet that one base chain drops.

As in `netiso.redirect` the rules never change once they are loaded, and a set,
`on`, is the switch: `netiso.apply` loads the tables switched off and then
throws it in one transaction with the redirect's own, so that there is no
moment with both or neither.

Interfaces are matched by name, because bridges vanish and come back under
another index. Names come from facts (`sort_interfaces`), as elements. Patterns
cover what appears before we have heard of it; they are rules, because nft
takes wildcards in sets only from 1.0.3.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from netiso.redirect import cgroup_set
from webguard.model import Network

ON = "on"  # the switch: nf_proto, or iface_type in family bridge
CUT = "cut"  # names of the containers' interfaces
SPARED = "spared"  # names of interfaces that no pattern may cut

# Before conntrack and before every distribution's, firewall's and runtime's chains.
PRIORITY = -300

CONTAINER_PATTERNS = (
    "docker0",
    "docker_gwbridge",
    "br-*",
    "veth*",
    "cni*",
    "cali*",
    "flannel*",
    "podman*",
    "lxc*",
    "vxlan*",
    "cilium_*",
)
VM_PATTERNS = ("virbr*", "vnet*")

# A name as far as nft's parser may see it; 15 bytes are the kernel's limit.
# Not "*" alone, which would spare everything.
_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}|[A-Za-z0-9_][A-Za-z0-9_.@-]{0,13}\*")

# Kinds of link that have a container at their other end.
_CONTAINER_KINDS = frozenset({"veth", "netkit"})
# Kinds that lead out of the host ("" is hardware, and what hypervisors show as such).
_UPLINK_KINDS = frozenset({"", "bond", "team", "vlan", "macsec"})
_VM_KIND = "tun"


class HostNetwork(StrEnum):
    """What isolation does to containers in the host's own network namespace."""

    LEAVE = "leave"  # they keep their network and are not inspected
    CUT = "cut"  # they lose it, loopback included
    INSPECT = "inspect"  # they keep it and stay inspected


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """What to cut. `spare` are names of interfaces, with `*` at the end for a prefix.

    Raises `ValueError` on what nft must not see.
    """

    host_network: HostNetwork = HostNetwork.LEAVE
    spare: tuple[str, ...] = VM_PATTERNS

    def __post_init__(self) -> None:
        for pattern in self.spare:
            if not _PATTERN.fullmatch(pattern):
                raise ValueError(
                    f"{pattern!r} is not the name of an interface, with or without * at its end"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """An interface, as the kernel tells of it. Names may be a container's choice."""

    index: int
    name: str
    kind: str = ""  # "veth", "bridge", ...; "" is hardware
    master: int = 0  # index of the bridge or bond that it is a port of
    default_route: bool = False
    peer: int = 0  # index of a veth's other end
    namespace: int = -1  # id of the namespace that the other end is in, -1: this one


@dataclass(frozen=True, slots=True, kw_only=True)
class Interfaces:
    """Which interfaces are cut, and which are not although they look like it, and why."""

    cut: frozenset[str] = frozenset()
    spared: Mapping[str, str]
    leaks: tuple[str, ...] = ()  # a sentence for each way around the cut that sparing leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How a container's network namespace is connected to ours."""

    here: tuple[str, ...] = ()  # names of our interfaces at whose other end it is
    elsewhere: tuple[str, ...] = ()  # its other interfaces (untrusted names)


class Cut(StrEnum):
    """Whether a container is cut off."""

    YES = "cut"
    PARTLY = "partly"
    NO = "open"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one container stands under isolation. `why` is for a person."""

    cut: Cut
    why: str


_HOST_STANDINGS = {
    HostNetwork.LEAVE: Standing(
        cut=Cut.NO, why="it uses the host's network, is left alone and is not inspected"
    ),
    HostNetwork.CUT: Standing(
        cut=Cut.YES,
        why="it uses the host's network and is cut by its cgroup, loopback included; "
        "raw and packet sockets are not",
    ),
    HostNetwork.INSPECT: Standing(
        cut=Cut.NO, why="it uses the host's network, is left alone and stays inspected"
    ),
}


def sort_interfaces(links: Iterable[Link], spare: Sequence[str] = VM_PATTERNS) -> Interfaces:
    """Say which interfaces are the containers'.

    All bridges and all veths are, except what `spare` names, what leads out of
    the host, and what only virtual machines use: to cut the host's own uplink
    would lock its operator out. A spared bridge's ports are spared with it, but
    a veth on an uplink's bridge is cut, in family bridge, one by one.
    """
    every = list(links)
    ports = {
        bridge.index: [port for port in every if port.master == bridge.index]
        for bridge in every
        if bridge.kind == "bridge"
    }
    cut, spared = set(), {}
    for link in every:
        if why := _why_spared(link, ports, spare):
            spared[link.name] = why
        elif link.kind == "bridge" or link.kind in _CONTAINER_KINDS:
            cut.add(link.name)
    leaks = []
    for bridge in (link for link in every if link.index in ports and _matches(link.name, spare)):
        cut -= {port.name for port in ports[bridge.index]}
        spared |= {port.name: f"a port of {bridge.name}" for port in ports[bridge.index]}
        leaks += [
            f"{port.name}, which may be a container's, on {bridge.name}"
            for port in ports[bridge.index]
            if port.kind in _CONTAINER_KINDS
        ]
    return Interfaces(cut=frozenset(cut), spared=spared, leaks=tuple(leaks))


def standing(
    network: Network, reach: Reach | None, interfaces: Interfaces, isolation: Isolation
) -> Standing:
    """Say how a container stands while `isolation` is on.

    `reach` is that of its first process, None if that could not be asked.
    """
    if network is Network.HOST:
        return _HOST_STANDINGS[isolation.host_network]
    if network is Network.UNKNOWN or reach is None:
        return Standing(cut=Cut.UNKNOWN, why="its network could not be looked at")
    open_here = [
        each
        for each in reach.here
        if each in interfaces.spared
        or not (each in interfaces.cut or _matches(each, CONTAINER_PATTERNS))
    ]
    past = [*(f"{each} is not cut" for each in open_here)]
    if reach.elsewhere:
        past.append(
            f"{len(reach.elsewhere)} of its interfaces lead past the host's rules "
            "(an overlay network, macvlan or ipvlan)"
        )
    if not past:
        here = ", ".join(sorted(reach.here))
        return Standing(cut=Cut.YES, why=f"cut at {here}" if here else "it has no network")
    covered = len(reach.here) > len(open_here)
    return Standing(cut=Cut.PARTLY if covered else Cut.NO, why="; ".join(past))


def render_inet(table: str, isolation: Isolation, levels: int) -> str:
    """Return the inet table, switched off; it goes with the socket that loads it."""
    spare = isolation.spare
    matching = {
        "forward_from": _matching("iifname", spare, "forward"),
        "forward_to": _matching("oifname", spare, "forward"),
        "input_from": _matching("iifname", spare, "input"),
        "output_to": _matching("oifname", spare, "output"),
    }
    hooks = {
        "forward": ["forward_from", "forward_to"],
        "input": ["input_from"],
        "output": ["output_to"],
    }
    sets = {ON: "nf_proto", CUT: "ifname", SPARED: "ifname"}
    drops = [_dropped(hook) for hook in hooks]
    if isolation.host_network is HostNetwork.CUT:
        # Both ways: what arrives for a socket of theirs, and what one of theirs
        # sends. Loopback too: a service of the host that forwards for them
        # would else be their way out.
        for hook in ("input", "output"):
            matching[f"containers_{hook}"] = [
                f"socket cgroupv2 level {level} @{cgroup_set(level)} goto dropped_containers"
                for level in range(1, levels + 1)
            ]
            hooks[hook].append(f"containers_{hook}")
        sets |= {cgroup_set(level): "cgroupsv2" for level in range(1, levels + 1)}
        drops.append(_dropped("containers"))
    base = {
        hook: [f"meta nfproto @{ON} jump {each}" for each in jumps] for hook, jumps in hooks.items()
    }
    return _text(f"inet {table}", sets, drops, matching, base)


def render_bridge(table: str, isolation: Isolation) -> str:
    """Return the bridge table, switched off.

    What is forwarded within a bridge is dropped unless both ports are spared.
    What a bridge hands to the host, or the host to a bridge, is dropped by its
    port: that cuts a container whose bridge is spared as the host's uplink.
    """
    matching = {
        "forward_from": [
            *(f"iifname {each} jump forward_to" for each in _spared(isolation.spare)),
            f"goto {_dropped('forward')}",
        ],
        "forward_to": [f"oifname {each} accept" for each in _spared(isolation.spare)],
        "input_from": _matching("iifname", isolation.spare, "input"),
        "output_to": _matching("oifname", isolation.spare, "output"),
    }
    # A port of a bridge is Ethernet, always; family bridge has no `meta nfproto`.
    base = {
        "forward": [f"meta iiftype @{ON} jump forward_from"],
        "input": [f"meta iiftype @{ON} jump input_from"],
        "output": [f"meta oiftype @{ON} jump output_to"],
    }
    sets = {ON: "iface_type", CUT: "ifname", SPARED: "ifname"}
    return _text(f"bridge {table}", sets, [_dropped(hook) for hook in base], matching, base)


def _dropped(where: str) -> str:
    """Return the chain that counts and drops: one for each place, so that each is counted."""
    return f"dropped_{where}"


def _matching(key: str, spare: Sequence[str], where: str) -> list[str]:
    """Facts first: what we know counts more than what a name looks like."""
    return [
        f"{key} @{CUT} goto {_dropped(where)}",
        *(f"{key} {each} return" for each in _spared(spare)),
        *(f'{key} "{each}" goto {_dropped(where)}' for each in CONTAINER_PATTERNS),
    ]


def _spared(spare: Sequence[str]) -> list[str]:
    return [f"@{SPARED}", *(f'"{each}"' for each in spare)]


def _why_spared(link: Link, ports: Mapping[int, Sequence[Link]], spare: Sequence[str]) -> str:
    if _matches(link.name, spare):
        return "named by isolation.spare"
    if link.master in ports and link.kind in (*_UPLINK_KINDS, _VM_KIND):
        return "a bridge's way out, or a virtual machine's"
    kinds = {port.kind for port in ports.get(link.index, ())}
    if link.kind == "bridge" and kinds & _UPLINK_KINDS:
        return "a bridge with an uplink"
    if link.kind == "bridge" and kinds == {_VM_KIND}:
        return "a bridge of virtual machines only"
    # Within a container that runs containers the uplink is itself a veth.
    if link.default_route and not _matches(link.name, CONTAINER_PATTERNS):
        return "the default route"
    return ""


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(
        name.startswith(each[:-1]) if each.endswith("*") else name == each for each in patterns
    )


def _text(
    table: str,
    sets: Mapping[str, str],
    drops: Sequence[str],
    matching: Mapping[str, Sequence[str]],
    base: Mapping[str, Sequence[str]],
) -> str:
    lines = [f"add table {table} {{ flags owner; }}"]
    lines += [f"add set {table} {name} {{ type {kind}; }}" for name, kind in sets.items()]
    lines += [f"add chain {table} {name}" for name in (*drops, *matching)]
    lines += [
        f"add chain {table} {hook} {{ type filter hook {hook} priority {PRIORITY}; "
        "policy accept; }"
        for hook in base
    ]
    lines += [f"add rule {table} {name} counter drop" for name in drops]
    for name, rules in (*matching.items(), *base.items()):
        lines += [f"add rule {table} {name} {rule}" for rule in rules]
    return "\n".join(lines) + "\n"
