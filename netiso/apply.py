"""Load interception into the kernel, keep its sets filled, and take it away again.

One `Kernel` owns the tables of one generation through one socket. Rules go in
once, as text; elements go as cgroup ids, not as the paths that nft's language
wants: an id is the inode number of the cgroup's directory, so a directory that
is gone cannot spoil the transaction, and a stale id can still be taken out.

Everything here blocks for milliseconds and belongs to one thread.
"""

import struct
from collections.abc import Iterable, Mapping

from netiso import kernel_state
from netiso.isolation import HostNetwork, Interfaces, Isolation
from netiso.isolation_tables import IsolationTables
from netiso.kernel_state import OWNER, PERSIST
from netiso.netlink import BRIDGE, Kind, text
from netiso.redirect import (
    LIVE,
    SELFTEST,
    Redirect,
    cgroup_set,
    check_instance,
    generation_of,
    render_closed,
    render_web,
)
from netiso.tables import Change, TableName, Tables, owned
from webguard.errors import HostError

type Cgroup = tuple[int, int]
"""Level (depth below the root of the v2 tree) and id (the directory's inode number)."""

_IPV4, _IPV6 = 2, 10  # NFPROTO_IPV4, NFPROTO_IPV6: one byte in the set `live`
_BOTH_FAMILIES = frozenset({bytes([_IPV4]), bytes([_IPV6])})
_KERNEL_REMEDY = (
    "use a kernel of version 5.13 or later, with CONFIG_NF_TABLES and CONFIG_NFT_SOCKET"
)
_FEATURES = {
    "nf_tables, family inet": ("", "run as root with CAP_NET_ADMIN, on a kernel with nf_tables"),
    "the table flag owner": (
        "add table inet {table} {{ flags owner; }}",
        "use a kernel of version 5.12 or later: without the flag a redirect outlives the daemon",
    ),
    "redirect in family inet": (
        "add chain inet {table} c {{ type nat hook output priority -105; }}\n"
        "add rule inet {table} c meta l4proto tcp redirect to :9",
        "use a kernel of version 5.2 or later, with CONFIG_NFT_REDIR",
    ),
    "socket cgroupv2": (
        "add set inet {table} s {{ type cgroupsv2; }}\n"
        "add chain inet {table} c {{ type filter hook output priority 0; }}\n"
        "add rule inet {table} c meta l4proto tcp socket cgroupv2 level 1 @s reject with tcp reset",
        _KERNEL_REMEDY,
    ),
    "ct original and ct status": (
        "add chain inet {table} c {{ type filter hook output priority 0; }}\n"
        "add rule inet {table} c meta l4proto tcp ct original proto-dst 9 ct status dnat return",
        "use a kernel with CONFIG_NFT_CT and CONFIG_NF_CONNTRACK",
    ),
}


def next_generation(instance: str) -> int:
    """Return a generation that no table of the instance has, its own leftovers included."""
    check_instance(instance)
    every = [*kernel_state.read_tables(), *kernel_state.read_tables(BRIDGE)]
    found = (generation_of(instance, table.name) for table in every)
    return max((each for each in found if each is not None), default=0) + 1


def leftovers(instance: str) -> tuple[str, ...]:
    """Return the tables of this instance that nobody owns: a killed daemon's."""
    check_instance(instance)
    return tuple(
        table.name
        for table in kernel_state.read_tables()
        if generation_of(instance, table.name) is not None and not table.flags & OWNER
    )


def remove_leftovers(instance: str) -> None:
    """Remove them, and with them what they keep shut. Raises `HostError` or `RefusedError`."""
    kernel = Kernel(
        # The values do not matter: nothing of this is loaded.
        Redirect(instance=instance, generation=next_generation(instance), proxy_port=1, ports=(2,))
    )
    try:
        kernel.adopt()
    finally:
        kernel.close()


class Kernel:
    """Interception and isolation in the network namespace of the thread that makes the object.

    Makes no table by itself. Raises `HostError` if the library is missing or
    the kernel cannot do what the tables need; asked by trying, because
    versions say little about distributions' kernels.
    """

    def __init__(self, redirect: Redirect) -> None:
        self.redirect = redirect
        self._web = TableName(redirect.web_table)
        self._closed = TableName(redirect.closed_table)
        self._adopted: list[TableName] = []
        self._live = False  # whether the container redirect is to be on, isolation apart
        self._probes: set[bytes] = set()
        self._isolated: IsolationTables | None = None
        self._isolations = redirect.generation
        self._tables = Tables()
        try:
            self._probe()
        except BaseException:
            self._tables.close()
            raise

    def adopt(self) -> tuple[str, ...]:
        """Take over what an earlier daemon of this instance left; return the tables' names.

        They stay as they are, now safe from others, until `discard_adopted`.
        Raises `HostError` when a living process owns one of them.
        """
        for table in (*kernel_state.read_tables(), *kernel_state.read_tables(BRIDGE)):
            generation = generation_of(self.redirect.instance, table.name)
            name = TableName(table.name, table.family)
            if generation is None or name in self._tables.names or name in self._adopted:
                continue
            if table.flags & OWNER:
                raise HostError(
                    f"take over table {table.name}",
                    # The kernel gives a process its pid as the first port.
                    f"it belongs to a living process (netlink port {table.owner}, usually its pid)",
                    f"stop the webguard of instance {self.redirect.instance} that is running here, "
                    "or give this one another instance name",
                )
            self._tables.send(
                f"take over table {table.name}",
                [(Kind.NEW_TABLE, owned(table.name, table.flags | OWNER), table.family)]
                if table.flags & PERSIST
                # Only an orphan that persists can be owned again. Anything else
                # of our name was made by somebody else, and is in the way.
                else [(Kind.DELETE_TABLE, text(1, table.name), table.family)],
            )
            if table.flags & PERSIST:
                self._adopted.append(name)
        return tuple(each.name for each in self._adopted)

    def discard_adopted(self) -> None:
        """Remove the adopted tables; call it when the new ones are filled."""
        self._tables.remove(self._adopted)
        self._adopted.clear()

    def load(self) -> None:
        """Load the tables, with the container redirect off. Loading again keeps the sets.

        Raises `HostError`; `close` then removes what there is.
        """
        redirect = self.redirect
        if redirect.closed:
            # Before the redirect: a port that is to be shut unless it is
            # inspected is shut from the first moment.
            table = owned(redirect.closed_table, OWNER | PERSIST)
            self._tables.send(f"make table {redirect.closed_table}", [(Kind.NEW_TABLE, table)])
            self.apply(render_closed(redirect))
            self._tables.remember(self._closed)
        self.apply(render_web(redirect))
        self._tables.remember(self._web)

    def apply(self, commands: str) -> None:
        """Run nft commands over the owning socket, as one transaction. Raises `HostError`."""
        self._tables.run(commands)

    def add_cgroups(self, entries: Iterable[Cgroup]) -> None:
        """Intercept these cgroups and all below them; what is there already may be named again.

        Under an isolation that cuts host-network containers, cut them.
        """
        self._change(self._by_set(Kind.NEW_ELEMENTS, entries))

    def remove_cgroups(self, entries: Iterable[Cgroup]) -> None:
        """Stop intercepting these; what is not there may be named."""
        self._change(self._by_set(Kind.DELETE_ELEMENTS, entries))

    def begin_selftest(self, cgroup: int) -> None:
        """Redirect a level 1 cgroup by the self-test's own rule, whatever the containers' does."""
        self._probes.add(_key(cgroup))
        self._change([Change(Kind.NEW_ELEMENTS, self._web, SELFTEST, {_key(cgroup)})])

    def redirect_containers(self) -> None:
        """Switch the container redirect on, in one transaction.

        The self-test's cgroup becomes a container among others: from now on
        its probes prove the containers' rule, because no other takes them.
        An isolation that withholds interception is not overruled: then this
        takes effect when it is lifted.
        """
        self._change(self._switches(live=True, isolation=self.isolation))
        self._live = True

    def withdraw_containers(self) -> None:
        """Switch the container redirect off, in one transaction.

        Connections that were redirected stay so; the closed table, if there is
        one, keeps refusing new ones.
        """
        self._change([Change(Kind.DELETE_ELEMENTS, self._web, LIVE, _BOTH_FAMILIES)])
        self._live = False

    @property
    def isolation(self) -> Isolation | None:
        """The isolation that is on, None if there is none."""
        return self._isolated.isolation if self._isolated else None

    @property
    def intercepting(self) -> bool:
        """Whether containers are redirected now: switched on, and not withheld by isolation."""
        return bool(self._tables.sets(self._web)[LIVE])

    def isolate(self, isolation: Isolation, interfaces: Interfaces) -> None:
        """Cut the containers off; what is on already is replaced, without a gap.

        One transaction throws the tables' switch and the redirect's own: unless
        host-network containers stay inspected, interception ends where
        isolation begins. Connections that were redirected stay so: end them in
        the proxy. Raises `HostError`; then everything is as it was before.
        """
        if self._web not in self._tables.names:
            raise RuntimeError("isolation was asked for before the tables were loaded")
        self._isolations += 1
        new = IsolationTables(
            self._tables,
            name=f"{self.redirect.instance}_iso_{self._isolations}",
            probe=f"{self.redirect.instance}_probe",
            isolation=isolation,
            levels=self.redirect.levels,
        )
        try:
            self._tables.change(
                "isolate the containers",
                [
                    *new.switch_on(interfaces, self._cgroups()),
                    *self._switches(live=self._live, isolation=isolation),
                ],
                dropping=self._isolated.names if self._isolated else (),
            )
        except BaseException:
            self._tables.remove(new.names)
            raise
        self._isolated = new

    def follow_interfaces(self, interfaces: Interfaces) -> None:
        """Bring a running isolation up to date with the interfaces there are now."""
        if self._isolated:
            self._change(self._isolated.follow(interfaces))

    def lift(self) -> None:
        """End the isolation and resume interception, in one transaction. Raises `HostError`."""
        if self._isolated is None:
            return
        self._tables.change(
            "lift the isolation",
            self._switches(live=self._live, isolation=None),
            dropping=self._isolated.names,
        )
        self._isolated = None

    def limits(self) -> tuple[str, ...]:
        """Return what the isolation that is on never cuts; see `IsolationTables.limits`."""
        return self._isolated.limits() if self._isolated else ()

    def gaps(self) -> tuple[str, ...]:
        """Return what the isolation that is on does not cut here; see `IsolationTables.gaps`."""
        return self._isolated.gaps() if self._isolated else ()

    def differences(self) -> tuple[str, ...]:
        """Return a sentence for each way in which the kernel does not hold what was loaded."""
        return self._tables.differences()

    def packets(self) -> Mapping[str, int]:
        """Return how many packets our counters have seen.

        Keys: `redirected` (connections of containers), `probe` (of the
        self-test's own rule), `refused` (QUIC and untracked packets), `guard`
        (connections to the proxy's port that were not redirected) and `closed`.
        """
        web = kernel_state.read(self.redirect.web_table)
        closed = kernel_state.read(self.redirect.closed_table)
        chains = ("redirected", "probe", "refused", "guard")
        counted = {each: web.packets(each) if web else 0 for each in chains}
        return {**counted, "closed": closed.packets("refused") if closed else 0}

    def cut_packets(self) -> Mapping[str, int]:
        """Return how many packets the isolation has dropped, by place; empty if there is none.

        Keys: `forward`, `input` and `output` of the host, the same with
        `bridge_` before it, and `containers` (host-network ones that are cut).
        """
        return self._isolated.packets() if self._isolated else {}

    def abandon(self) -> None:
        """Let go as if we were killed: what persists stays, and with it closed ports."""
        self._isolated = None
        self._adopted.clear()
        self._tables.close()

    def close(self, *, keep_adopted: bool = False) -> None:
        """Remove every table of ours, those that persist included. May be called again.

        `keep_adopted`: not what an earlier daemon left, which then stays as it was.
        """
        if self._tables.closed:
            return
        isolated = self._isolated.names if self._isolated else ()
        adopted = [] if keep_adopted else self._adopted
        try:
            # Our own rules first: while the closed table stands nothing gets past.
            self._tables.remove([self._web, *isolated, self._closed, *adopted])
        finally:
            self._isolated = None
            self._adopted.clear()
            self._tables.close()

    def _probe(self) -> None:
        table = f"{self.redirect.instance}_probe"
        for feature, (commands, remedy) in _FEATURES.items():
            trial = f"add table inet {table}\n" if "flags" not in commands else ""
            trial += commands.format(table=table)
            if refusal := self._tables.rehearse(trial):
                raise HostError(f"probe the kernel for {feature}", refusal, remedy)
        if self.redirect.closed:
            try:
                self._tables.send(
                    "probe the kernel for the table flag persist",
                    [
                        (Kind.NEW_TABLE, owned(table, OWNER | PERSIST)),
                        (Kind.DELETE_TABLE, text(1, table)),
                    ],
                )
            except HostError as error:
                raise HostError(
                    error.tried,
                    error.answer,
                    "use a kernel of version 6.9 or later, or set on_failure: open",
                ) from error

    def _switches(self, *, live: bool, isolation: Isolation | None) -> list[Change]:
        """Return what interception needs to be as it should under this isolation."""
        new, gone = Kind.NEW_ELEMENTS, Kind.DELETE_ELEMENTS
        withheld = isolation is not None and isolation.host_network is not HostNetwork.INSPECT
        on = live and not withheld
        changes = [Change(new if on else gone, self._web, LIVE, _BOTH_FAMILIES)]
        if on:
            changes.append(Change(new, self._web, cgroup_set(1), self._probes))
        if on or withheld:
            # With nothing redirected the workers are still tested, by the probe's own rule.
            changes.append(Change(gone if on else new, self._web, SELFTEST, self._probes))
        if self.redirect.closed:
            # Left alone means left alone: their ports must not be shut for not being inspected.
            left = isolation is not None and isolation.host_network is HostNetwork.LEAVE
            changes += [
                Change(gone if left else new, self._closed, name, keys)
                for name, keys in self._cgroups().items()
            ]
        return changes

    def _cgroups(self) -> dict[str, set[bytes]]:
        """Return the containers' cgroups by the name of their set, without the self-test's."""
        sets = self._tables.sets(self._web)
        names = [cgroup_set(level) for level in range(1, self.redirect.levels + 1)]
        return {name: sets[name] - self._probes for name in names}

    def _by_set(self, kind: Kind, entries: Iterable[Cgroup]) -> list[Change]:
        """Sort cgroups by table and set. Raises `ValueError` for a level we do not match."""
        if not self._tables.names:
            raise RuntimeError("cgroups were added before the tables were loaded")
        wanted: dict[str, set[bytes]] = {}
        for level, cgroup in entries:
            if not 1 <= level <= self.redirect.levels:
                raise ValueError(f"level {level} is not within 1..{self.redirect.levels}")
            wanted.setdefault(cgroup_set(level), set()).add(_key(cgroup))
        isolation = self.isolation
        left = isolation is not None and isolation.host_network is HostNetwork.LEAVE
        return [
            Change(kind, table, name, keys)
            for table in self._tables.names
            # Under such an isolation the closed table is empty; `lift` fills it.
            if not (left and table == self._closed)
            for name, keys in wanted.items()
            if name in self._tables.sets(table)
        ]

    def _change(self, changes: Iterable[Change]) -> None:
        self._tables.change("change the sets of intercepted cgroups", changes)


def _key(cgroup: int) -> bytes:
    # The kernel compares the id as it is in a register: in the host's byte order.
    return struct.pack("=Q", cgroup)
