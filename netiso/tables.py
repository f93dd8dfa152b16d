"""The tables that one socket owns: load them, change their sets, compare them, remove them.

What was loaded is read back and remembered, and every change of a set goes
through here, so that at any moment there is an answer to what the kernel
should hold. Which tables there are and what they mean is the caller's affair.
"""

import contextlib
import errno
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from netiso import kernel_state
from netiso.context import Context
from netiso.kernel_state import TableState
from netiso.netlink import INET, Kind, Request, attribute, text
from webguard.errors import HostError

# 20 bytes an element (32 for an interface's name), and the length of the
# attribute around them has 16 bits.
_ELEMENTS_A_MESSAGE = 500


class TableName(NamedTuple):
    """A table as the kernel knows it."""

    name: str
    family: int = INET


class Change(NamedTuple):
    """Elements that are to be in a set, or not: `Kind.NEW_ELEMENTS` or `Kind.DELETE_ELEMENTS`."""

    kind: Kind
    table: TableName
    set: str
    keys: Iterable[bytes]


@dataclass(slots=True)
class _Loaded:
    """A table as it should be: what was read after loading, and the sets as we filled them."""

    state: TableState
    sets: dict[str, set[bytes]]

    def wanted(self) -> TableState:
        ours = {name: frozenset(keys) for name, keys in self.sets.items()}
        return replace(self.state, sets={**self.state.sets, **ours})


class Tables:
    """Tables in the network namespace of the thread that makes the object."""

    def __init__(self) -> None:
        self._context = Context()
        self._loaded: dict[TableName, _Loaded] = {}

    @property
    def names(self) -> tuple[TableName, ...]:
        """The tables that were loaded."""
        return tuple(self._loaded)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._context.closed

    def sets(self, table: TableName) -> Mapping[str, set[bytes]]:
        """Return what the sets of a table hold. Raises `KeyError` if it was not loaded."""
        return self._loaded[table].sets

    def rehearse(self, commands: str) -> str:
        """Ask the kernel whether it would take these commands; "" or what speaks against it."""
        return _brief(self._context.run(commands, rehearse=True))

    def run(self, commands: str) -> None:
        """Run nft commands as one transaction of the owner. Raises `HostError`."""
        if refusal := self._context.run(commands):
            raise HostError("load nft rules", _brief(refusal), "please report this as a bug")

    def send(self, deed: str, requests: Sequence[Request]) -> None:
        """Send netlink requests as one transaction of the owner. Raises `HostError`."""
        try:
            self._context.transact(requests)
        except OSError as error:
            raise HostError(
                deed, str(error), "is another program changing our tables? start webguard again"
            ) from error

    def remember(self, table: TableName) -> None:
        """Take what the kernel holds of a table for what it should hold."""
        state = kernel_state.read(table.name, table.family)
        if state is None:
            raise HostError(
                f"read table {table.name} back", "it is not there", "start webguard again"
            )
        sets = {each: set(keys) for each, keys in state.sets.items() if not each.startswith("__")}
        self._loaded[table] = _Loaded(state, sets)

    def change(
        self, deed: str, changes: Iterable[Change], *, dropping: Iterable[TableName] = ()
    ) -> None:
        """Change sets and drop tables in one transaction. Raises `HostError`; then nothing changed.

        What is there is not added and what is not there is not removed: the
        kernel refuses to delete what is missing, and with it the whole
        transaction. Nobody but us can change these sets, so we know.
        """
        requests: list[Request] = []
        effective = []
        for kind, table, name, keys in changes:
            held = self._loaded[table].sets[name]
            now = set(keys) - held if kind is Kind.NEW_ELEMENTS else set(keys) & held
            effective.append((kind, held, now))
            requests += [(kind, body, table.family) for body in _bodies(table.name, name, now)]
        dropped = list(dropping)
        requests += [(Kind.DELETE_TABLE, text(1, name), family) for name, family in dropped]
        if not requests:
            return
        self.send(deed, requests)
        for kind, held, now in effective:
            if kind is Kind.NEW_ELEMENTS:
                held |= now
            else:
                held -= now
        for table in dropped:
            self._loaded.pop(table, None)

    def remove(self, tables: Iterable[TableName]) -> None:
        """Remove tables, one by one: one that is gone already must not save the others."""
        for table in tables:
            with contextlib.suppress(FileNotFoundError):
                try:
                    self._context.transact([(Kind.DELETE_TABLE, text(1, table.name), table.family)])
                except OSError as error:
                    if error.errno != errno.EPERM:  # another owner's is not ours to remove
                        raise
            self._loaded.pop(table, None)

    def differences(self) -> tuple[str, ...]:
        """Return a sentence for each way in which the kernel does not hold what was loaded."""
        said: list[str] = []
        for (name, family), loaded in self._loaded.items():
            try:
                found = kernel_state.read(name, family)
                said += kernel_state.differences(loaded.wanted(), found)
            except HostError as error:
                # Whoever changes tables faster than we can read them must not
                # pass for a kernel that holds what was loaded.
                said.append(str(error))
        return tuple(said)

    def close(self) -> None:
        """Close the socket; the kernel removes the tables that do not persist."""
        self._loaded.clear()
        self._context.close()


def owned(name: str, flags: int) -> bytes:
    """Return the attributes of a table with these flags."""
    return text(1, name) + attribute(2, struct.pack("!I", flags))


def _bodies(table: str, name: str, keys: set[bytes]) -> list[bytes]:
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
    return refusal.splitlines()[0] if refusal else ""
