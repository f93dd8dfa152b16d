"""Keep the kernel's redirect in step with the containers, and know which is which.

Three sources: the cgroup tree (which directories hold containers), the engines
(what they are called), and the kernel's own tables (whether they are still as
we loaded them). This file connects them; each decides nothing.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from netiso import cgroups, links
from netiso.apply import Kernel, next_generation
from netiso.cgroup_watch import CgroupWatch, Changes
from netiso.cgroups import OwnCgroup
from netiso.isolation import HostNetwork, Isolation, sort_interfaces
from netiso.kernel_state import TableWatch
from netiso.redirect import Redirect
from webguard.daemon.protection import Protection
from webguard.errors import HostError, RefusedError
from webguard.model import Container, Network
from webguard.policy.config import Config
from webguard.runtimes.docker import Docker
from webguard.runtimes.inventory import Inventory
from webguard.runtimes.podman import Podman

log = logging.getLogger(__name__)

# A full walk of /proc costs milliseconds; bursts of starts are taken together.
_SETTLE = 0.1
_REFRESH_AT_LEAST = 30.0
_VERIFY_EVERY = 0.5
_RECONNECT = 2.0
_RETRY = 5.0

type Learned = Callable[[Container, bool], None]
"""Told of each container that came (False) or went (True)."""


class Interception:
    """The redirect, from start to stop."""

    def __init__(self, config: Config, protection: Protection, learned: Learned) -> None:
        self._config = config
        self._protection = protection
        self._learned = learned
        self._root = cgroups.find_root()
        self._parents: list[OwnCgroup] = []
        self._exclusive = config.runtimes.cgroup_parents
        self.engines = (Docker(config.runtimes.docker), Podman(config.runtimes.podman))
        self.inventory = Inventory(
            root=self._root, engines=self.engines, parents=config.runtimes.cgroup_parents
        )
        self._watch = CgroupWatch(self._root, self._exclusive)
        self._tables = TableWatch(config.instance)
        self._went_live = False
        self._untaken = False
        self._told: dict[tuple[str, str, int], Container] = {}
        self._link_watch: links.LinkWatch | None = None
        self._own: OwnCgroup | None = None
        self._changed = asyncio.Event()
        self._stale = asyncio.Event()
        self.kernel = Kernel(redirect_of(config))

    @property
    def root(self) -> Path:
        """Where the cgroup v2 tree is."""
        return self._root

    @property
    def uncovered(self) -> tuple[str, ...]:
        """Directories in which new containers are found late."""
        return tuple(sorted(self._watch.blind))

    @property
    def raced(self) -> tuple[str, ...]:
        """Containers that were found one by one: their first connection may have been faster."""
        return tuple(path for _, _, path in self._watch.entries if path not in self._exclusive)

    def prepare(self) -> tuple[OwnCgroup, list[Path]]:
        """Make the self-test's cgroup and the parents that must exist before containers do.

        Returns the former and all that may be removed again when we are gone.
        """
        # With our pid: a successor has one as well for a moment, and so has an instance of the
        # same name in another network namespace of this machine, which shares the tree.
        name = f"{self.kernel.redirect.instance}-selftest-{os.getpid()}"
        own = cgroups.ensure(self._root, name, ours=True)
        for name in self._parents_to_make():
            self._parents.append(cgroups.ensure(self._root, name))
        return own, [each.path for each in self._parents if each.removable]

    def _parents_to_make(self) -> list[str]:
        """Return the exclusive parents whose containers may start at any moment.

        An operator's own list is taken at its word. Of the usual names only
        Docker's is made, where Docker is: the others' owners make them long
        before the first container, and are seen then.
        """
        names = [each for each in self._exclusive if "/" not in each]
        usual = type(self._config.runtimes)().cgroup_parents
        if self._exclusive != usual:
            return names
        has_docker = Path(self._config.runtimes.docker).exists()
        return ["docker"] if has_docker and "docker" in names else []

    def load(self, selftest: OwnCgroup, *, successor: bool = False) -> None:
        """Load the tables, with the container redirect off and the self-test's on.

        A successor leaves its predecessor's tables alone: they stand until it goes.
        """
        self._own = selftest
        if not successor:
            self.kernel.adopt()
        self.kernel.load()
        self.kernel.begin_selftest(selftest.id)

    async def go_live(self) -> None:
        """Redirect the containers. Call only after a worker has seen the self-test."""
        await self.refresh()
        self._apply(self._watch.scan())
        self.kernel.redirect_containers()
        self.kernel.discard_adopted()
        self._protection.live = self._went_live = True
        self.verify()

    def withdraw(self, why: str) -> None:
        """Let the containers' traffic go its own way (`on_failure: closed` shuts it out)."""
        if self._protection.live:
            self.kernel.withdraw_containers()
            self._protection.live = False
        self._protection.why_not_live = why

    def begin_selftest(self, selftest: OwnCgroup) -> None:
        """Redirect the self-test by its own rule, while the containers' is off."""
        self.kernel.begin_selftest(selftest.id)

    def resume(self, selftest: OwnCgroup) -> None:
        """Redirect the containers again after `withdraw`."""
        if not self._protection.live:
            self.begin_selftest(selftest)
            self.kernel.redirect_containers()
            self._protection.live = True
            self.verify()

    @property
    def withheld(self) -> bool:
        """Whether isolation keeps the containers' redirect off."""
        isolation = self.kernel.isolation
        return isolation is not None and isolation.host_network is not HostNetwork.INSPECT

    def isolate(self, isolation: Isolation) -> None:
        """Cut the containers off, and withdraw interception in the same transaction.

        Raises `HostError`; then everything is as it was before.
        """
        before = self.kernel.isolation
        # First: what fails once the kernel is switched would leave containers cut.
        self._watch_links()
        try:
            self.kernel.isolate(isolation, sort_interfaces(links.read_links(), isolation.spare))
        except BaseException:
            if before is None:
                self._stop_watching_links()
            raise
        self._after_isolation()

    def lift(self) -> None:
        """End the isolation, and resume interception in the same transaction."""
        self.kernel.lift()
        self._stop_watching_links()
        self._after_isolation()

    def _after_isolation(self) -> None:
        if self.withheld:
            self._protection.live = False
            self._protection.why_not_live = "isolation is on, and ends web inspection meanwhile"
            try:
                if self._own is not None:  # so that the workers are still probed
                    self.kernel.begin_selftest(self._own.id)
            except HostError:  # done is done: the isolation stands, and is not to be denied
                log.exception("the workers are not probed during isolation")
        else:
            if not self._protection.live:
                # What proved the self-test's own rule says nothing of the containers'.
                self._protection.seen.clear()
            self._protection.live = self.kernel.intercepting
            self._protection.why_not_live = "it was off before isolation, and is to be resumed"
        self.verify()

    def _links_changed(self) -> None:
        isolation = self.kernel.isolation
        if self._link_watch is None or not self._link_watch.drain() or isolation is None:
            return
        try:
            found = sort_interfaces(links.read_links(), isolation.spare)
            self.kernel.follow_interfaces(found)
        except HostError:
            log.exception("the isolation does not know of the newest interfaces")

    def _watch_links(self) -> None:
        if self._link_watch is not None:
            return
        try:
            self._link_watch = links.LinkWatch()
        except OSError as error:
            raise HostError(
                "watch the interfaces", str(error), "has webguard too many descriptors open?"
            ) from error
        asyncio.get_running_loop().add_reader(self._link_watch.fileno(), self._links_changed)

    def _stop_watching_links(self) -> None:
        if self._link_watch is not None:
            asyncio.get_running_loop().remove_reader(self._link_watch.fileno())
            self._link_watch.close()
            self._link_watch = None

    def change_ports(self, config: Config, selftest: OwnCgroup) -> None:
        """Redirect other ports from now on. The new tables stand before the old ones go."""
        wanted = redirect_of(config)
        old = self.kernel
        if (wanted.ports, wanted.closed) == (old.redirect.ports, old.redirect.closed):
            return
        if old.isolation is not None:
            raise RefusedError(
                "web.ports and web.on_failure cannot change during isolation"
                " (webguard isolation off, then reload again)"
            )
        fresh = Kernel(wanted)
        try:
            fresh.load()
            fresh.add_cgroups((level, id_) for level, id_, _ in self._watch.entries)
            fresh.begin_selftest(selftest.id)
            if self._protection.live:
                fresh.redirect_containers()
        except BaseException:
            fresh.close()
            raise
        self.kernel = fresh
        old.close()
        self.verify()

    async def follow(self) -> None:
        """Follow containers and tables until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._watch.fileno(), self._cgroups_changed)
        loop.add_reader(self._tables.fileno(), self._tables_changed)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_verifying())
                tasks.create_task(self._keep_refreshing())
                for engine in self.engines:
                    tasks.create_task(self._keep_listening(engine))
        finally:
            loop.remove_reader(self._watch.fileno())
            loop.remove_reader(self._tables.fileno())

    async def whose(self, cgroup: int) -> Container | None:
        """Return the container of a cgroup id, asked by a worker that does not know it."""
        if (known := self.inventory.by_cgroup(cgroup)) is not None:
            return known
        path = cgroups.path_of(cgroup, self._root)
        if path is None:
            return None
        found = await self.inventory.resolve(cgroup, path)
        if found is not None:  # else it is nobody's, and a look at all processes tells no more
            self._stale.set()
        return found

    def verify(self) -> None:
        """Read the kernel's tables back and compare."""
        try:
            untaken = self._catch_up()
            self._protection.differences = (*untaken, *self.kernel.differences())
        except (HostError, OSError) as error:
            self._protection.differences = (str(error),)
        self._protection.verified = time.monotonic()

    def close(self, *, failed: bool = False) -> None:
        """Take the redirect out of the kernel and let go of everything.

        After a failure ports that are to be shut (`on_failure: closed`) stay shut:
        those of a daemon that protected, and those that an earlier one left.
        """
        self._stop_watching_links()
        with contextlib.suppress(OSError):
            if failed and self._went_live:
                self.kernel.abandon()
            else:
                self.kernel.close(keep_adopted=failed)
        self._tables.close()
        self._watch.close()

    def _cgroups_changed(self) -> None:
        self._apply(self._watch.drain())
        self._stale.set()

    def _tables_changed(self) -> None:
        if self._tables.drain():
            self._changed.set()

    def _apply(self, changes: Changes) -> None:
        """Bring the kernel's sets in step. What it refuses is tried again by `verify`."""
        if not changes:
            return
        gone = [(level, id_) for level, id_, _ in changes.removed]
        new = [(level, id_) for level, id_, _ in changes.added]
        for change, entries in ((self.kernel.remove_cgroups, gone), (self.kernel.add_cgroups, new)):
            try:
                change(entries)
            except (HostError, ValueError):
                log.exception("the kernel did not take the containers' cgroups")
                self._untaken = True
                self._changed.set()

    def _catch_up(self) -> tuple[str, ...]:
        """Give the kernel again what it refused; return what it refuses still, in a sentence."""
        if not self._untaken:
            return ()
        try:
            self.kernel.add_cgroups((level, id_) for level, id_, _ in self._watch.entries)
        except (HostError, ValueError) as error:
            return (f"it does not take the containers' cgroups: {error}",)
        self._untaken = False
        return ()

    async def _keep_verifying(self) -> None:
        while True:
            self._changed.clear()
            self.verify()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_VERIFY_EVERY):
                    await self._changed.wait()

    async def _keep_refreshing(self) -> None:
        while True:
            # An engine that hangs tells nobody when it is well again.
            at_least = _RETRY if self.inventory.problem else _REFRESH_AT_LEAST
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(at_least):
                    await self._stale.wait()
            await asyncio.sleep(_SETTLE)
            self._stale.clear()
            self._apply(self._watch.scan())  # what no event told of: see `uncovered`
            await self.refresh()

    async def refresh(self) -> None:
        """Look at all containers again, and tell the workers what is new."""
        await self.inventory.refresh()
        self.tell_changes()

    def tell_changes(self) -> None:
        """Tell of every container that is not as it was last told.

        Of one whose network is not known yet nothing is told: so whoever meets it asks.
        """
        before = self._told
        known = (e for e in self.inventory.containers if e.network is not Network.UNKNOWN)
        after = {each.key: each for each in known}
        self._told = after
        for key in before.keys() - after.keys():
            self._learned(before[key], True)
        for key, container in after.items():
            if before.get(key) != container:
                self._learned(container, False)

    async def _keep_listening(self, engine: Docker) -> None:
        """Refresh on every event of an engine; start over when it goes and comes."""
        while True:
            try:
                # What happened while we did not listen is not repeated: look once we do.
                async for _event in engine.events(self._stale.set):
                    self._stale.set()
            except HostError as error:
                log.info("container events: %s", error)
            await asyncio.sleep(_RECONNECT)


def redirect_of(config: Config) -> Redirect:
    """Return what these settings redirect, as a generation that nothing is loaded of yet."""
    return Redirect(
        instance=config.instance,
        generation=next_generation(config.instance),
        proxy_port=config.web.listen_port,
        ports=config.web.ports,
        closed=config.web.on_failure == "closed",
    )
