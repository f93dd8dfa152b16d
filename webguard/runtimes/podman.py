"""Podman: the same API as Docker's, with other paths where pods matter.

Podman's containers need no service, so it is normal that they run and nobody
answers at the socket: then they are known by id, as without any engine.

What differs from Docker (seen with 4.3): of the two families of paths only its own
(`/libpod/`) tells pods; ids of images come without `sha256:` there; a container is
told of as `remove`, not `destroy`, when it goes, and `died` is an older word for `die`.

A pod's infra container is a container like the others here, named after its pod: it
is what holds the pod's network. Conmon, the monitor, is not in a container's cgroup.
"""

from typing import ClassVar

from webguard.runtimes.docker import Docker


class Podman(Docker):
    """The service behind one socket. Holds no connection."""

    runtime: ClassVar[str] = "podman"
    _name: ClassVar[str] = "Podman"
    # A version is part of these paths; Podman takes older and newer ones than its own.
    _list: ClassVar[str] = "/v4.0.0/libpod/containers/json?all=true"
    _container: ClassVar[str] = "/v4.0.0/libpod/containers/{}/json"
    _told: ClassVar[tuple[str, ...]] = ("start", "die", "died", "remove", "rename")
    _remedy: ClassVar[str] = (
        "see whether the service is on and well: systemctl status podman.socket;"
        " setting runtimes.podman names its socket"
    )
