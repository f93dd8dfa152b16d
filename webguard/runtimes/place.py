"""Where a container is in the cgroup tree: a path in, a `Place` out. Pure.

A container is recognised

- by 64 hex digits, anywhere: what Docker, Podman, containerd and CRI-O name its
  cgroup by, bare or in a systemd scope; and
- as a directory right below a cgroup parent that the operator listed, whatever it
  is called: plain runc takes any word for an id. Elsewhere such a name says
  nothing, so a plain runc container with a free name and no listed parent is not
  known (and not inspected). The parents that are known to everybody are not meant
  here: what they hold besides containers is known too.

A container can make cgroups below its own (never above), with any name. So the
*outermost* directory that is a container decides, whatever lies below.
"""

import re
from dataclasses import dataclass

UNKNOWN_RUNTIME = "proc"

# docker/ID, docker-ID.scope, libpod-ID.scope, cri-containerd-ID.scope, crio-ID.scope,
# nerdctl-ID.scope, runc-ID.scope, kubepods/.../ID. Not libpod-conmon-ID or
# crio-conmon-ID: those hold the monitor, a host process.
_NAME = re.compile(
    r"(?:(docker|libpod|cri-containerd|crio|nerdctl|runc)-)?([0-9a-f]{64})(?:\.scope)?"
)
_RUNTIMES = {
    "docker": "docker",
    "libpod": "podman",
    "libpod_parent": "podman",
    "cri-containerd": "cri",
    "crio": "cri",
    "kubepods": "cri",
    "kubepods.slice": "cri",
}
_PODMAN_PARENT = "libpod_parent"
_KNOWN_PARENTS = frozenset({"docker", "kubepods", "kubepods.slice", _PODMAN_PARENT})

# The ids that runc takes.
_FREE = re.compile(r"[A-Za-z0-9_+.,-]{1,255}")
# What runtimes put between a parent and its containers, and beside them.
_NO_CONTAINER = re.compile(
    r"conmon|(?:libpod|crio)-conmon-.*|buildkit|burstable|besteffort|guaranteed"
    r"|pod[0-9a-f_-]{32,36}|.*\.slice|init\.scope|" + "|".join(map(re.escape, _KNOWN_PARENTS))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The cgroup of a container, as its path says."""

    id: str
    runtime: str  # what the path suggests, "proc" if nothing
    path: str  # of the container's own cgroup, from the v2 root, with a leading slash


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What must be known to read a path right, beside the path.

    `parents` are the operator's, from the v2 root, without a leading slash. `pods`
    are full ids of Podman's pods: with cgroupfs a pod has a directory that looks
    like a container's.
    """

    parents: frozenset[str] = frozenset()
    pods: frozenset[str] = frozenset()

    def locate(self, path: str) -> Place | None:
        """Return the container that a cgroup path lies in: the outermost that is one."""
        parts = path.split("/")
        for index, part in enumerate(parts):
            above = parts[:index]
            if found := _NAME.fullmatch(part):
                if self._is_pod(part, above):
                    continue
                hints = (found[1], *above)
                runtime = next((_RUNTIMES[each] for each in hints if each in _RUNTIMES), None)
                id_ = found[2]
            elif self._may_hold_any_name(above) and _is_free(part):
                runtime, id_ = None, part
            else:
                continue
            return Place(
                id=id_, runtime=runtime or UNKNOWN_RUNTIME, path="/".join(parts[: index + 1])
            )
        return None

    def perhaps_pod(self, path: str) -> tuple[str, str] | None:
        """Return (pod, container) if the path could be one of Podman's in a pod.

        Only Podman can say whether it is: a container can make a cgroup of that
        name below its own, to pass for another.
        """
        place = self.locate(path)
        if place is None or not place.path.endswith(f"/{place.id}"):
            return None
        below = path.removeprefix(place.path).split("/")
        found = _NAME.fullmatch(below[1]) if len(below) > 1 else None
        return (place.id, found[2]) if found and found[1] == "libpod" else None

    def _is_pod(self, part: str, above: list[str]) -> bool:
        # Podman's own containers are called libpod-ID right there, so a bare id is a pod.
        return part in self.pods or (
            above == ["", _PODMAN_PARENT] and re.fullmatch(r"[0-9a-f]{64}", part) is not None
        )

    def _may_hold_any_name(self, above: list[str]) -> bool:
        parent = "/".join(above).strip("/")
        return parent in self.parents and parent not in _KNOWN_PARENTS


def _is_free(part: str) -> bool:
    return (
        bool(_FREE.fullmatch(part)) and not _NO_CONTAINER.fullmatch(part) and part.strip(".") != ""
    )
