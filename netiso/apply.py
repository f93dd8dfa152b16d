"""Load interception into the kernel, keep its sets filled, and take it away again.

One `Kernel` owns the tables of one generation through one socket. Rules go in
once, as text; elements go as cgroup ids, not as the paths that nft's language
wants: an id is the inode number of the cgroup's directory, so a directory that
is gone cannot spoil the transaction, and a stale id can still be taken out.

Everything here blocks for milliseconds and belongs to one thread.
"""

import contextlib
import errno
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from netiso import kernel_state
from netiso.context import Context
from netiso.kernel_state import OWNER, PERSIST, TableState
from netiso.netlink import Kind, attribute, text
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
from webguard.errors import HostError

type Cgroup = tuple[int, int]
"""Level (depth below the root of the v2 tree) and id (the directory's inode number)."""

# 20 bytes an element, and the length of the attribute around them has 16 bits.
_ELEMENTS_A_MESSAGE = 500
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


@dataclass(slots=True)
class _Loaded:
    """A table as it should be: what was read after loading, and the sets as we filled them."""

    state: TableState
    sets: dict[str, set[bytes]]

    def wanted(self) -> TableState:
        ours = {name: frozenset(keys) for name, keys in self.sets.items()}
        return replace(self.state, sets={**self.state.sets, **ours})


def next_generation(instance: str) -> int:
    """Return a generation that no table of the instance has, its own leftovers included."""
    check_instance(instance)
    found = (generation_of(instance, table.name) for table in kernel_state.read_tables())
    return max((each for each in found if each is not None), default=0) + 1


class Kernel:
    """Interception in the network namespace of the thread that makes the object.

    Makes no table by itself. Raises `HostError` if the library is missing or
    the kernel cannot do what the tables need; asked by trying, because
    versions say little about distributions' kernels.
    """

    def __init__(self, redirect: Redirect) -> None:
        self.redirect = redirect
        self._context = Context()
        self._adopted: list[str] = []
        self._loaded: dict[str, _Loaded] = {}
        try:
            self._probe()
        except BaseException:
            self._context.close()
            raise

    def adopt(self) -> tuple[str, ...]:
        """Take over what an earlier daemon of this instance left; return the tables' names.

        They stay as they are, now safe from others, until `discard_adopted`.
        Raises `HostError` when a living process owns one of them.
        """
        for table in kernel_state.read_tables():
            generation = generation_of(self.redirect.instance, table.name)
            ours = table.name in self._loaded or table.name in self._adopted
            if generation is None or ours:
                continue
            if table.flags & OWNER:
                raise HostError(
                    f"take over table {table.name}",
                    # The kernel gives a process its pid as the first port.
                    f"it belongs to a living process (netlink port {table.owner}, usually its pid)",
                    f"stop the webguard of instance {self.redirect.instance} that is running here, "
                    "or give this one another instance name",
                )
            self._try(
                f"take over table {table.name}",
                [(Kind.NEW_TABLE, _owned(table.name, table.flags | OWNER))]
                if table.flags & PERSIST
                # Only an orphan that persists can be owned again. Anything else
                # of our name was made by somebody else, and is in the way.
                else [(Kind.DELETE_TABLE, text(1, table.name))],
            )
            if table.flags & PERSIST:
                self._adopted.append(table.name)
        return tuple(self._adopted)

    def discard_adopted(self) -> None:
        """Remove the adopted tables; call it when the new ones are filled."""
        self._remove(self._adopted)
        self._adopted.clear()

    def load(self) -> None:
        """Load the tables, with the container redirect off. Loading again keeps the sets.

        Raises `HostError`; `close` then removes what there is.
        """
        redirect = self.redirect
        if redirect.closed:
            # Before the redirect: a port that is to be shut unless it is
            # inspected is shut from the first moment.
            table = _owned(redirect.closed_table, OWNER | PERSIST)
            self._try(f"make table {redirect.closed_table}", [(Kind.NEW_TABLE, table)])
            self.apply(render_closed(redirect))
            self._remember(redirect.closed_table)
        self.apply(render_web(redirect))
        self._remember(redirect.web_table)

    def apply(self, commands: str) -> None:
        """Run nft commands over the owning socket, as one transaction. Raises `HostError`."""
        if refusal := self._context.run(commands):
            raise HostError("load nft rules", _brief(refusal), "please report this as a bug")

    def add_cgroups(self, entries: Iterable[Cgroup]) -> None:
        """Intercept these cgroups and all below them; what is there already may be named again."""
        self._change(Kind.NEW_ELEMENTS, self._by_set(entries))

    def remove_cgroups(self, entries: Iterable[Cgroup]) -> None:
        """Stop intercepting these; what is not there may be named."""
        self._change(Kind.DELETE_ELEMENTS, self._by_set(entries))

    def begin_selftest(self, cgroup: int) -> None:
        """Redirect a level 1 cgroup by the self-test's own rule, whatever the containers' does."""
        self._change(Kind.NEW_ELEMENTS, {(self.redirect.web_table, SELFTEST): {_key(cgroup)}})

    def redirect_containers(self) -> None:
        """Switch the container redirect on, in one transaction.

        The self-test's cgroup becomes a container among others: from now on
        its probes prove the containers' rule, because no other takes them.
        """
        web = self._loaded[self.redirect.web_table]
        probes = set(web.sets[SELFTEST])
        self._transact(
            [
                (Kind.NEW_ELEMENTS, self.redirect.web_table, LIVE, set(_BOTH_FAMILIES)),
                (Kind.NEW_ELEMENTS, self.redirect.web_table, cgroup_set(1), probes),
                (Kind.DELETE_ELEMENTS, self.redirect.web_table, SELFTEST, probes),
            ]
        )

    def withdraw_containers(self) -> None:
        """Switch the container redirect off, in one transaction.

        Connections that were redirected stay so; the closed table, if there is
        one, keeps refusing new ones.
        """
        web = self._loaded[self.redirect.web_table]
        families = set(web.sets[LIVE])
        self._transact([(Kind.DELETE_ELEMENTS, self.redirect.web_table, LIVE, families)])

    def differences(self) -> tuple[str, ...]:
        """Return a sentence for each way in which the kernel does not hold what was loaded."""
        said: list[str] = []
        for name, loaded in self._loaded.items():
            try:
                said += kernel_state.differences(loaded.wanted(), kernel_state.read(name))
            except HostError as error:
                # Whoever changes tables faster than we can read them must not
                # pass for a kernel that holds what was loaded.
                said.append(str(error))
        return tuple(said)

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

    def close(self) -> None:
        """Remove every table of ours, those that persist included. May be called again."""
        if self._context.closed:
            return
        try:
            # Our own rules first: while the closed table stands nothing gets past.
            self._remove([self.redirect.web_table, self.redirect.closed_table, *self._adopted])
        finally:
            self._loaded.clear()
            self._adopted.clear()
            self._context.close()

    def _probe(self) -> None:
        table = f"{self.redirect.instance}_probe"
        for feature, (commands, remedy) in _FEATURES.items():
            trial = f"add table inet {table}\n" if "flags" not in commands else ""
            trial += commands.format(table=table)
            if refusal := self._context.run(trial, rehearse=True):
                raise HostError(f"probe the kernel for {feature}", _brief(refusal), remedy)
        if self.redirect.closed:
            try:
                self._context.transact(
                    [
                        (Kind.NEW_TABLE, _owned(table, OWNER | PERSIST)),
                        (Kind.DELETE_TABLE, text(1, table)),
                    ]
                )
            except OSError as error:
                raise HostError(
                    "probe the kernel for the table flag persist",
                    str(error),
                    "use a kernel of version 6.9 or later, or set on_failure: open",
                ) from error

    def _remember(self, name: str) -> None:
        state = kernel_state.read(name)
        if state is None:
            raise HostError(f"read table {name} back", "it is not there", "start webguard again")
        sets = {each: set(keys) for each, keys in state.sets.items() if not each.startswith("__")}
        self._loaded[name] = _Loaded(state, sets)

    def _by_set(self, entries: Iterable[Cgroup]) -> dict[tuple[str, str], set[bytes]]:
        """Sort cgroups by table and set. Raises `ValueError` for a level we do not match."""
        if not self._loaded:
            raise RuntimeError("cgroups were added before the tables were loaded")
        wanted: dict[tuple[str, str], set[bytes]] = {}
        for level, cgroup in entries:
            if not 1 <= level <= self.redirect.levels:
                raise ValueError(f"level {level} is not within 1..{self.redirect.levels}")
            for table in self._loaded:
                wanted.setdefault((table, cgroup_set(level)), set()).add(_key(cgroup))
        return wanted

    def _change(self, kind: Kind, wanted: Mapping[tuple[str, str], set[bytes]]) -> None:
        self._transact([(kind, table, name, keys) for (table, name), keys in wanted.items()])

    def _transact(self, changes: Sequence[tuple[Kind, str, str, set[bytes]]]) -> None:
        """Change sets in one transaction, and the memory of them if it was accepted.

        What is there is not added and what is not there is not removed: the
        kernel refuses to delete what is missing, and with it the whole
        transaction. Nobody but us can change these sets, so we know.
        """
        requests: list[tuple[Kind, bytes]] = []
        effective = []
        for kind, table, name, keys in changes:
            held = self._loaded[table].sets[name]
            keys = keys - held if kind is Kind.NEW_ELEMENTS else keys & held
            effective.append((kind, held, keys))
            requests += [(kind, body) for body in _element_bodies(table, name, keys)]
        if not requests:
            return
        self._try("change the sets of intercepted cgroups", requests)
        for kind, held, keys in effective:
            if kind is Kind.NEW_ELEMENTS:
                held |= keys
            else:
                held -= keys

    def _try(self, deed: str, requests: Sequence[tuple[Kind, bytes]]) -> None:
        try:
            self._context.transact(requests)
        except OSError as error:
            raise HostError(
                deed, str(error), "is another program changing our tables? start webguard again"
            ) from error

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            # One by one: a table that is gone already must not save the others.
            with contextlib.suppress(FileNotFoundError):
                try:
                    self._context.transact([(Kind.DELETE_TABLE, text(1, name))])
                except OSError as error:
                    if error.errno != errno.EPERM:  # another owner's is not ours to remove
                        raise


def _owned(name: str, flags: int) -> bytes:
    return text(1, name) + attribute(2, struct.pack("!I", flags))


def _key(cgroup: int) -> bytes:
    # The kernel compares the id as it is in a register: in the host's byte order.
    return struct.pack("=Q", cgroup)


def _element_bodies(table: str, name: str, keys: set[bytes]) -> list[bytes]:
    ordered = sorted(keys)
    bodies = []
    for start in range(0, len(ordered), _ELEMENTS_A_MESSAGE):
        elements = b"".join(
            attribute(1, attribute(1, attribute(1, key), nested=True), nested=True)
            for key in ordered[start : start + _ELEMENTS_A_MESSAGE]
        )
        bodies.append(text(1, table) + text(2, name) + attribute(3, elements, nested=True))
    return bodies


def _brief(refusal: str) -> str:
    """Keep the first line: nft repeats its complaint for every line of the text."""
    return refusal.splitlines()[0]
