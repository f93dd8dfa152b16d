"""The tables of one isolation: load them switched off, say what throws the switch, count.

The switch itself is thrown by `netiso.apply`, in one transaction with the
redirect's own: the methods here return changes and make none.
"""

import os
import struct
from collections.abc import Iterable, Mapping

from netiso import kernel_state
from netiso.isolation import (
    CUT,
    ON,
    SPARED,
    HostNetwork,
    Interfaces,
    Isolation,
    render_bridge,
    render_inet,
)
from netiso.netlink import BRIDGE, INET, Kind
from netiso.tables import Change, TableName, Tables

_NAME_BYTES = 16  # IFNAMSIZ: the length of a key in a set of names
_FAMILIES = frozenset({bytes([2]), bytes([10])})  # NFPROTO_IPV4 and _IPV6, one byte in a set
_ETHERNET = frozenset({struct.pack("=H", 1)})  # ARPHRD_ETHER, in the host's byte order

_BRIDGE_FEATURE = """\
add table bridge {table} {{ flags owner; }}
add set bridge {table} s {{ type iface_type; }}
add set bridge {table} n {{ type ifname; }}
add chain bridge {table} f {{ type filter hook forward priority -300; }}
add rule bridge {table} f meta iiftype @s iifname @n counter drop
"""
_HOOKS = ("forward", "input", "output")

# What no rule of this form can reach, whatever the kernel: said, never left to be found out.
_NOT_COVERED = (
    "within an overlay network: it has a network namespace of its own",
    "over macvlan and ipvlan: it goes past the rules of the host",
    "within one network namespace: containers of one pod, or of one --network container:",
    "by eBPF programs that hand packets on before the host's rules see them (Cilium), "
    "or past them by a flow table of another program",
    "as names, where the engine's own DNS asks for them from the host's network",
)
_NOT_COVERED_CUT = (
    "by raw and packet sockets of host-network containers with CAP_NET_RAW: "
    "they belong to no cgroup for the kernel's rules",
)


class IsolationTables:
    """The inet and the bridge table of one isolation, loaded and switched off.

    Raises `HostError` when the kernel refuses them; then nothing is left of
    them. A kernel without nftables for bridges is no such case: that is a gap.
    """

    def __init__(
        self, tables: Tables, *, name: str, probe: str, isolation: Isolation, levels: int
    ) -> None:
        self.isolation = isolation
        self._tables = tables
        self._inet = TableName(name)
        refusal = tables.rehearse(_BRIDGE_FEATURE.format(table=probe))
        self._without_bridge = refusal
        self._bridge = None if refusal else TableName(name, BRIDGE)
        self._leaks: tuple[str, ...] = ()
        commands = render_inet(name, isolation, levels)
        if self._bridge:
            commands += render_bridge(name, isolation)
        tables.run(commands)
        try:
            for each in self.names:
                tables.remember(each)
        except BaseException:
            tables.remove(self.names)
            raise

    @property
    def names(self) -> tuple[TableName, ...]:
        """The tables there are."""
        return (self._inet, self._bridge) if self._bridge else (self._inet,)

    @property
    def cuts_cgroups(self) -> bool:
        """Whether the inet table has the sets of cgroups."""
        return self.isolation.host_network is HostNetwork.CUT

    def switch_on(
        self, interfaces: Interfaces, cgroups: Mapping[str, Iterable[bytes]]
    ) -> list[Change]:
        """Return what makes the tables cut. `cgroups` are keys by the name of their set."""
        changes = self.follow(interfaces)
        changes.append(Change(Kind.NEW_ELEMENTS, self._inet, ON, _FAMILIES))
        if self._bridge:
            changes.append(Change(Kind.NEW_ELEMENTS, self._bridge, ON, _ETHERNET))
        if self.cuts_cgroups:
            changes += [
                Change(Kind.NEW_ELEMENTS, self._inet, name, keys) for name, keys in cgroups.items()
            ]
        return changes

    def follow(self, interfaces: Interfaces) -> list[Change]:
        """Return what brings the sets of interfaces up to date."""
        self._leaks = interfaces.leaks
        wanted = {CUT: _keys(interfaces.cut), SPARED: _keys(interfaces.spared)}
        changes = []
        for table in self.names:
            for name, keys in wanted.items():
                gone = self._tables.sets(table)[name] - keys
                changes.append(Change(Kind.DELETE_ELEMENTS, table, name, gone))
                changes.append(Change(Kind.NEW_ELEMENTS, table, name, keys))
        return changes

    def limits(self) -> tuple[str, ...]:
        """Return what this form never cuts: each completes "not cut is what passes ..."."""
        return (*_NOT_COVERED, *(_NOT_COVERED_CUT if self.cuts_cgroups else ()))

    def gaps(self) -> tuple[str, ...]:
        """Return what is not cut on this host, and should be: worded as `limits`."""
        said = []
        if self._without_bridge:
            said.append(
                "within one bridge, where br_netfilter does not show it to the host's rules: "
                "this kernel has no nftables for bridges, CONFIG_NF_TABLES_BRIDGE "
                f"({self._without_bridge})"
            )
        return (*said, *(f"around a spared interface: {each}" for each in self._leaks))

    def packets(self) -> dict[str, int]:
        """Return how many packets each place has dropped."""
        inet = kernel_state.read(self._inet.name, INET)
        places = [*_HOOKS, *(["containers"] if self.cuts_cgroups else [])]
        counted = {each: inet.packets(f"dropped_{each}") if inet else 0 for each in places}
        if self._bridge:
            bridge = kernel_state.read(self._bridge.name, BRIDGE)
            counted |= {
                f"bridge_{each}": bridge.packets(f"dropped_{each}") if bridge else 0
                for each in _HOOKS
            }
        return counted


def _keys(names: Iterable[str]) -> set[bytes]:
    return {os.fsencode(name).ljust(_NAME_BYTES, b"\0") for name in names}
