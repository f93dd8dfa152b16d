"""Read tables back from the kernel, as it holds them, and compare them with what was loaded.

By netlink, never by nft's printer: nft resolves each cgroup id by walking all
cgroups (28 s for 1,000 of them), on hybrid hosts it prints dead ids as paths
of other hierarchies, and its JSON drops the level of the match.
"""

import errno
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from netiso.netlink import (
    BRIDGE,
    INET,
    Kind,
    attributes,
    dump,
    heard,
    string,
    subscribe,
    text,
)
from netiso.redirect import NAT_PRIORITY, generation_of
from webguard.errors import HostError

OWNER, PERSIST = 0x2, 0x4  # NFT_TABLE_F_OWNER, NFT_TABLE_F_PERSIST
_DORMANT = 0x1
_ANY_FAMILY = 0
_HOOK_OUTPUT = 3  # NF_INET_LOCAL_OUT
_LOST = errno.ENOBUFS
# One drain reads at most this many messages; a flood must not hold the caller.
_READS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table by name. `owner` is a netlink port id, 0 if nobody owns it."""

    name: str
    flags: int
    owner: int
    family: int = INET

    @property
    def called(self) -> str:
        """What a sentence calls it: two families may each have a table of one name."""
        return f"{self.name} (family bridge)" if self.family == BRIDGE else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain; `hook` is -1 for one that is only jumped to."""

    name: str
    kind: str
    hook: int
    priority: int
    policy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule. `digest` is over its expressions without their counters' values."""

    chain: str
    handle: int
    digest: str
    packets: int  # of its first counter; 0 if it has none


@dataclass(frozen=True, slots=True, kw_only=True)
class TableState:
    """All that the kernel holds of a table."""

    table: Table
    chains: tuple[Chain, ...]
    rules: tuple[Rule, ...]
    sets: Mapping[str, frozenset[bytes]]  # keys as they are in the kernel

    def packets(self, chain: str) -> int:
        """Return the packets that the counters of a chain have seen."""
        return sum(rule.packets for rule in self.rules if rule.chain == chain)


def read_tables(family: int = INET) -> tuple[Table, ...]:
    """Return the tables of a family in this network namespace. Raises `HostError`."""
    found = _dump(Kind.GET_TABLE, family=family)
    return tuple(_table(dict(attributes(body)), family) for body in found)


def read(name: str, family: int = INET) -> TableState | None:
    """Return the state of a table, None if it does not exist.

    Raises `HostError`. Not one moment: a change between the dumps shows as a difference, and the
    next reading has it right.
    """
    table = next((each for each in read_tables(family) if each.name == name), None)
    if table is None:
        return None
    try:
        return TableState(
            table=table,
            chains=_chains(name, family),
            rules=_rules(name, family),
            sets=_sets(name, family),
        )
    except FileNotFoundError:  # it went away while we looked
        return None


def differences(loaded: TableState, found: TableState | None) -> tuple[str, ...]:
    """Return a sentence for each way in which `found` is not what was loaded."""
    name = loaded.table.called
    if found is None:
        return (f"table {name} is gone",)
    said = []
    if found.table.flags & _DORMANT:
        said.append(f"table {name} is dormant")
    if (found.table.flags, found.table.owner) != (loaded.table.flags, loaded.table.owner):
        said.append(
            f"table {name} has flags {found.table.flags:#x} and owner {found.table.owner}, "
            f"loaded were {loaded.table.flags:#x} and {loaded.table.owner}"
        )
    said += _chain_differences(loaded, found)
    for each in sorted(loaded.sets.keys() | found.sets.keys()):
        wanted, there = loaded.sets.get(each), found.sets.get(each)
        if wanted is None or there is None:
            said.append(f"set {each} of {name} is {'gone' if there is None else 'not ours'}")
        elif wanted != there:
            said.append(
                f"set {each} of {name} lacks {len(wanted - there)} elements "
                f"and has {len(there - wanted)} that were not loaded"
            )
    return tuple(said)


def rivals(instance: str) -> tuple[str, ...]:
    """Return a sentence for each chain of others that may map a destination before ours does.

    The first mapping wins: a connection that such a chain redirects is never
    inspected. Docker's and kube-proxy's are at -100, behind us.
    """
    said = []
    for body in _dump(Kind.GET_CHAIN, family=_ANY_FAMILY):
        fields = dict(attributes(body))
        chain, table = _chain(fields), string(fields.get(1, b""))
        if (
            chain.kind == "nat"
            and chain.hook == _HOOK_OUTPUT
            and chain.priority <= NAT_PRIORITY
            and generation_of(instance, table) is None
        ):
            said.append(
                f"chain {chain.name!r} of table {table!r} maps destinations "
                f"at priority {chain.priority}, not after ours at {NAT_PRIORITY}"
            )
    return tuple(said)


class TableWatch:
    """Hear at once when our tables, or any chain that could rival them, change."""

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self._socket = subscribe()

    def fileno(self) -> int:
        """The descriptor to wait on."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Read what there is; return whether the tables should be compared again.

        Our own changes count too: whoever makes them knows the new state
        already, and a rule lost through our own socket must not go unseen.
        """
        relevant = False
        for _ in range(_READS):
            try:
                messages = heard(self._socket)
            except BlockingIOError:
                return relevant
            except OSError as error:
                if error.errno != _LOST:
                    raise
                relevant = True
                continue
            for kind, _sender, body in messages:
                named = string(dict(attributes(body)).get(1, b""))
                relevant |= (
                    kind == Kind.NEW_CHAIN or generation_of(self._instance, named) is not None
                )
        return True

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _dump(kind: Kind, body: bytes = b"", *, family: int = INET) -> list[bytes]:
    try:
        return dump(kind, body, family=family)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise HostError(
            "read the nf_tables state", str(error), "which program keeps changing the rules?"
        ) from error


def _table(fields: Mapping[int, bytes], family: int) -> Table:
    return Table(
        name=string(fields.get(1, b"")),
        flags=_number(fields.get(2)),
        owner=_number(fields.get(7)),
        family=family,
    )


def _chains(name: str, family: int) -> tuple[Chain, ...]:
    every = (dict(attributes(body)) for body in _dump(Kind.GET_CHAIN, family=family))
    return tuple(_chain(fields) for fields in every if string(fields.get(1, b"")) == name)


def _chain(fields: Mapping[int, bytes]) -> Chain:
    hook = dict(attributes(fields.get(4, b"")))
    return Chain(
        name=string(fields.get(3, b"")),
        kind=string(fields.get(7, b"")),
        hook=_number(hook[1]) if 1 in hook else -1,
        priority=struct.unpack("!i", hook[2])[0] if 2 in hook else 0,
        policy=_number(fields.get(5)),
    )


def _rules(name: str, family: int) -> tuple[Rule, ...]:
    rules = []
    for body in _dump(Kind.GET_RULE, text(1, name), family=family):
        fields = dict(attributes(body))
        digest, packets = _expressions(fields.get(4, b""))
        rules.append(
            Rule(
                chain=string(fields.get(2, b"")),
                handle=_number(fields.get(3)),
                digest=digest,
                packets=packets,
            )
        )
    return tuple(rules)


def _expressions(payload: bytes) -> tuple[str, int]:
    digest, packets = hashlib.sha256(), 0
    for _, expression in attributes(payload):
        fields = dict(attributes(expression))
        kind, data = string(fields.get(1, b"")), fields.get(2, b"")
        if kind == "counter":
            packets = packets or _number(dict(attributes(data)).get(2))
            data = b""
        # Lengths go in too: without them two lists of expressions could be one text.
        digest.update(struct.pack("!II", len(kind), len(data)) + kind.encode() + data)
    return digest.hexdigest(), packets


def _sets(name: str, family: int) -> dict[str, frozenset[bytes]]:
    found = {}
    for body in _dump(Kind.GET_SET, text(1, name), family=family):
        each = string(dict(attributes(body)).get(2, b""))
        found[each] = _elements(name, each, family)
    return found


def _elements(table: str, name: str, family: int) -> frozenset[bytes]:
    keys = set()
    for body in _dump(Kind.GET_ELEMENTS, text(1, table) + text(2, name), family=family):
        for _, element in attributes(dict(attributes(body)).get(3, b"")):
            key = dict(attributes(element)).get(1, b"")
            keys.add(dict(attributes(key)).get(1, b""))
    return frozenset(keys)


def _chain_differences(loaded: TableState, found: TableState) -> list[str]:
    name = loaded.table.called
    wanted = {chain.name: chain for chain in loaded.chains}
    there = {chain.name: chain for chain in found.chains}
    said = [
        f"chain {each} of {name} is {'gone' if each not in there else 'not as loaded'}"
        for each in sorted(wanted.keys() | there.keys())
        if wanted.get(each) != there.get(each)
    ]
    for each in sorted(wanted.keys() & there.keys()):
        # The order within a chain counts, the handles do not.
        before = [rule.digest for rule in loaded.rules if rule.chain == each]
        now = [rule.digest for rule in found.rules if rule.chain == each]
        if before != now:
            said.append(
                f"chain {each} of {name} has {len(now)} rules that are not the "
                f"{len(before)} that were loaded"
            )
    return said


def _number(payload: bytes | None) -> int:
    """All numbers here are unsigned and big-endian, whatever their length."""
    return int.from_bytes(payload or b"", "big")
