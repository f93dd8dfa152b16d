"""Which containers run now, and what they are called.

The kernel says which there are (`proc`), engines say what they are called
(`docker`, `podman`). An engine that is absent, hangs or restarts costs the names
of its own containers, never a container.

A container is known by (runtime, full id, start time of its first process).
After a restart the same id has another start time and another cgroup: the old
run disappears with the next `refresh` or `resolve`, whichever sees the new one.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from webguard.errors import NotFoundError, RefusedError
from webguard.model import Container, Network
from webguard.runtimes import docker, proc
from webguard.runtimes.place import Layout
from webguard.runtimes.source import Source

# Containers choose these; they go to every worker, into every event and onto screens.
_MAX_TEXT = 1024
_MAX_LABELS = 16 * 1024  # bytes of all of them together, as JSON: a message has 128 KiB
_MAX_SHOWN = 10  # matches in a message
_POD = ("io.kubernetes.pod.namespace", "io.kubernetes.pod.name")


class Inventory:
    """The containers of this host. Use it from one event loop.

    `root` is the cgroup v2 hierarchy's (`proc.unified_root()`). `parents` are the
    cgroup parents of the settings: see `place`.
    """

    def __init__(
        self,
        *,
        root: Path,
        engines: Iterable[docker.Docker],
        parents: Iterable[str] = (),
        lookup: float = 0.25,
    ) -> None:
        self._root = root
        self._sources = tuple(Source(each) for each in engines)
        self._parents = frozenset(parents)
        # How long an unknown container's connection may wait for a name: half of
        # the 500 ms that `Identify` has altogether.
        self._lookup = lookup
        self._own_netns = proc.own_netns()
        self._running: dict[str, Container] = {}  # by full id
        self._resolved: dict[str, Container] = {}  # since the last walk began
        self._refreshing = asyncio.Lock()

    @property
    def engine_present(self) -> bool:
        """Whether an engine answered when it was last asked."""
        return any(each.present for each in self._sources)

    @property
    def problem(self) -> str:
        """Why names are missing or old, engine by engine; "" if they are not.

        An engine that is absent is a problem only if a host-network container of its
        own runs: most hosts have one engine, and Podman needs none.
        """
        hosts = {each.runtime for each in self.containers if each.network is Network.HOST}
        found = (each.problem(needed=each.engine.runtime in hosts) for each in self._sources)
        return "; ".join(each for each in found if each)

    @property
    def containers(self) -> tuple[Container, ...]:
        """All running containers."""
        return tuple(self._running.values())

    def by_cgroup(self, cgroup: int) -> Container | None:
        """Return the container whose own cgroup has this id. Sub-cgroups: see `resolve`."""
        return next((each for each in self.containers if cgroup in each.cgroups), None)

    def find(self, query: str) -> Container:
        """Return the one running container that a person means by `query`.

        A full id, the first 4 or more characters of one, or an exact name. Knows
        what the last `refresh` saw. Raises `NotFoundError` if it is nobody's, or
        several containers', and `RefusedError` if that container does not run.
        """
        if query in self._running:
            return self._running[query]
        matches = self._matches(query)
        if not matches:
            raise NotFoundError(
                f"there is no container {query[:80]!r}"
                " (give a name, or 4 or more characters of an id: webguard containers)"
            )
        if len(matches) > 1:
            shown = ", ".join(self._show(each) for each in sorted(matches)[:_MAX_SHOWN])
            more = f" and {len(matches) - _MAX_SHOWN} more" if len(matches) > _MAX_SHOWN else ""
            raise NotFoundError(
                f"{query[:80]!r} fits several containers: {shown}{more} (give the full id)"
            )
        (id_,) = matches
        source = self._source_of(id_)
        if id_ not in self._running and source is not None:
            raise RefusedError(
                f"the container {self._show(id_)} is not running, its state is"
                f" {source.listed[id_].state[:32]!a}"
                f" (start it first: {source.engine.runtime} start {id_[:12]})"
            )
        return self._running[id_]

    def is_deleted(self, runtime: str, id_: str) -> bool:
        """Return whether its engine says that it has no such container, not even a stopped one.

        Of runtimes without an engine we are never told that.
        """
        answers = any(each.answers and each.engine.runtime == runtime for each in self._sources)
        known = id_ in self._running or self._source_of(id_) is not None
        return answers and not known

    def engine_of(self, id_: str) -> str:
        """Return the runtime of the engine that knows a full id, running or not; "" if none does.

        By the runtime that a running container has, where two know it.
        """
        running = self._running.get(id_)
        source = self._source_of(id_, running.runtime if running else "")
        return source.engine.runtime if source else ""

    async def refresh(self) -> None:
        """Look at everything again. Never raises for an engine: see `problem`."""
        async with self._refreshing:
            await asyncio.gather(*(each.ask() for each in self._sources))
            self._resolved = {}
            layout = self._layout()
            seen = await asyncio.to_thread(proc.containers, self._root, self._own_netns, layout)
            running = self._merge(seen)
            # What was resolved while we walked may have started behind our back.
            late = {
                id_: each
                for id_, each in self._resolved.items()
                if id_ not in running or running[id_].started < each.started
            }
            self._running = running | late

    async def resolve(self, cgroup: int, path: str) -> Container | None:
        """Return the container of a cgroup that `by_cgroup` does not know; None if it is nobody's.

        `path` is that cgroup's, from the v2 root, with or without a slash in
        front. It may be the container's own or one below it, and the container
        may have started just now: no event is waited for. Takes at most `lookup`
        seconds more than the kernel needs.
        """
        path = "/" + path.strip("/")  # as the kernel writes it, and `proc` compares it
        try:
            # The path may be an old one: then its name is somebody else's by now.
            if (self._root / path[1:]).stat().st_ino != cgroup:
                return None
        except (OSError, ValueError):
            return None
        asked = await self._learn_pod(path)
        seen = await asyncio.to_thread(proc.at, self._root, path, self._own_netns, self._layout())
        if seen is None:
            return None
        id_ = seen.place.id
        known = self._running.get(id_)
        same = known is not None and (known.started, known.netns) == (seen.started, seen.netns)
        if known is not None and same and seen.cgroup in known.cgroups:
            return known
        if not asked and self._source_of(id_) is None:
            await self._look_up(id_)
        container = self._describe(seen)
        self._running[id_] = self._resolved[id_] = container
        return container

    def _layout(self) -> Layout:
        pods = (one.pod for each in self._sources for one in each.listed.values())
        return Layout(parents=self._parents, pods=frozenset(pods) - {""})

    async def _learn_pod(self, path: str) -> bool:
        """Ask about a path that looks like a new pod's, before we read it. Whether we asked.

        Only an engine's word makes it a pod (`_layout`): a forged one stays what it is.
        """
        perhaps = self._layout().perhaps_pod(path)
        if perhaps is None or any(self._source_of(each) for each in perhaps):
            return False
        await self._look_up(perhaps[1])
        return True

    async def _look_up(self, id_: str) -> None:
        """Ask all engines at once: together they may take no longer than one."""
        await asyncio.gather(*(each.look_up(id_, self._lookup) for each in self._sources))

    def _merge(self, seen: Iterable[proc.Seen]) -> dict[str, Container]:
        running: dict[str, Container] = {}
        for each in seen:
            container = self._describe(each)
            other = running.get(container.id)
            if other is not None:
                # One id below two parents: one container, first process first.
                older, newer = sorted((other, container), key=lambda one: (one.started, one.pid))
                container = replace(older, cgroups=older.cgroups + newer.cgroups)
            running[container.id] = container
        return running

    def _describe(self, seen: proc.Seen) -> Container:
        place = seen.place
        container = Container(
            runtime=place.runtime,
            id=place.id,
            started=seen.started,
            pid=seen.pid,
            cgroups=(seen.cgroup,),
            netns=seen.netns,
            network=seen.network,
        )
        source = self._source_of(place.id, place.runtime)
        if source is None:
            return container
        listed = source.listed[place.id]
        labels = _bounded(listed.labels)
        pod = "/".join(_text(listed.labels.get(key, "")) for key in _POD).strip("/")
        hinted = any(place.runtime == each.engine.runtime for each in self._sources)
        return replace(
            container,
            # Docker's socket may be Podman's, by its package podman-docker: then both
            # know a container, and its cgroup's name says whose it is.
            runtime=place.runtime if hinted else source.engine.runtime,
            name=_name(listed),
            image=_text(listed.image),
            image_digest=_text(listed.image_id),
            labels=labels,
            pod=pod or _text(listed.pod_name or listed.pod),
        )

    def _source_of(self, id_: str, hint: str = "") -> Source | None:
        """Return who knows a container: the runtime its cgroup hints at, or else the first."""
        knowing = [each for each in self._sources if id_ in each.listed]
        knowing.sort(key=lambda each: each.engine.runtime != hint)
        return knowing[0] if knowing else None

    def _matches(self, query: str) -> set[str]:
        """Return the full ids that `query` fits, of running and of stopped containers."""
        listed = [(id_, each) for one in self._sources for id_, each in one.listed.items()]
        known = self._running.keys() | {id_ for id_, _ in listed}
        if query in known:
            return {query}
        by_id = {each for each in known if len(query) >= 4 and each.startswith(query)}
        by_name = {id_ for id_, each in listed if query and query in _names(each)}
        # Both, and not names first: or a container named after another's short id
        # would get what was meant for that one.
        return by_id | by_name

    def _show(self, id_: str) -> str:
        """Name a container in a message; its own name is its own text."""
        source = self._source_of(id_)
        name = _name(source.listed[id_]) if source else ""
        return f"{id_[:12]} ({name!a})" if name else id_[:12]


def _bounded(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return as many labels, in order, as an event and a message to a worker have room for."""
    kept = []
    room = _MAX_LABELS
    for key, value in sorted(labels.items()):
        pair = (_text(key), _text(value))
        room -= len(json.dumps(pair))
        if room < 0:
            break
        kept.append(pair)
    return tuple(kept)


def _names(listed: docker.Listed) -> list[str]:
    return [name.removeprefix("/") for name in listed.names]


def _name(listed: docker.Listed) -> str:
    # Links to other containers are names too, with a second slash: /web/db.
    names = sorted(_names(listed), key=lambda name: (name.count("/"), name))
    return _text(names[0]) if names else ""


def _text(value: str) -> str:
    """Return text of a bounded size that can be encoded, whatever it was."""
    return value[:_MAX_TEXT].encode("utf-8", "replace").decode()
