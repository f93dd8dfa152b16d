"""Paths in the cgroup tree, and whose they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webguard.runtimes.place import Layout, Place

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
OWN = Layout(parents=frozenset({"own", "a/b", "docker", "libpod_parent"}), pods=frozenset({OTHER}))


@pytest.mark.parametrize(
    ("path", "runtime", "own"),
    [
        pytest.param(f"/docker/{ID}", "docker", "", id="docker, cgroupfs"),
        pytest.param(f"/system.slice/docker-{ID}.scope", "docker", "", id="docker, systemd"),
        pytest.param(f"/machine.slice/libpod-{ID}.scope", "podman", "", id="podman, systemd"),
        pytest.param(
            f"/machine.slice/libpod-{ID}.scope/container", "podman", "/container", id="crun"
        ),
        pytest.param(f"/libpod_parent/libpod-{ID}", "podman", "", id="podman, cgroupfs"),
        pytest.param(
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/a/b",
            "podman",
            "/a/b",
            id="podman, rootless",
        ),
        pytest.param(
            f"/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{ID}.scope",
            "cri",
            "",
            id="kubernetes, systemd",
        ),
        pytest.param(f"/kubepods/burstable/pod1-2/{ID}", "cri", "", id="kubernetes, cgroupfs"),
        pytest.param(f"/kubepods.slice/crio-{ID}.scope", "cri", "", id="cri-o"),
        pytest.param(f"/system.slice/nerdctl-{ID}.scope", "proc", "", id="nerdctl"),
        pytest.param(f"/own/parent/{ID}", "proc", "", id="own parent"),
        pytest.param(f"/{ID}", "proc", "", id="at the root"),
        pytest.param(f"/docker/{ID}/init.scope", "docker", "/init.scope", id="systemd inside"),
        pytest.param(f"/docker/{ID}/docker/{OTHER}", "docker", f"/docker/{OTHER}", id="dind"),
        pytest.param(
            f"/docker/{ID}/{OTHER}", "docker", f"/{OTHER}", id="another's id, forged below"
        ),
    ],
)
def test_the_outermost_container_of_a_path_is_found(path: str, runtime: str, own: str) -> None:
    assert Layout().locate(path) == Place(id=ID, runtime=runtime, path=path.removesuffix(own))


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/docker",
        "/system.slice/ssh.service",
        f"/docker/{ID[:-1]}",
        f"/docker/{ID}0",
        f"/docker/{ID.upper()}",
        f"/docker/{ID} (deleted)",
        f"/machine.slice/libpod-conmon-{ID}.scope",
        f"/kubepods.slice/crio-conmon-{ID}.scope",
        f"/docker/x{ID}",
        f"/docker/{ID}\n",
    ],
)
def test_what_is_no_container_is_none(path: str) -> None:
    assert Layout().locate(path) is None


@pytest.mark.parametrize(
    ("path", "id_"),
    [
        pytest.param("/own/shop", "shop", id="its own"),
        pytest.param("/own/shop/init.scope", "shop", id="below"),
        pytest.param(f"/own/shop/{ID}", "shop", id="below, forged"),
        pytest.param(f"/own/shop/docker/{ID}", "shop", id="below, docker inside"),
        pytest.param("/a/b/S-h_o.p+1", "S-h_o.p+1", id="a parent further down"),
        pytest.param(f"/own/{ID}", ID, id="a full id"),
        pytest.param("/own", None, id="the parent"),
        pytest.param("/a/x", None, id="above a parent"),
        pytest.param("/x/own/shop", None, id="another's directory of that name"),
        pytest.param("/docker/buildx", None, id="a parent that everybody knows"),
        pytest.param("/libpod_parent/conmon", None, id="podman's monitors"),
        pytest.param("/own/conmon", None, id="podman's monitors below an own parent"),
        pytest.param(f"/own/libpod-conmon-{ID}.scope", None, id="a monitor"),
        pytest.param(f"/own/docker/{ID}", ID, id="docker below an own parent"),
        pytest.param(f"/own/kubepods/burstable/pod1-2/{ID}", ID, id="kubernetes, cgroupfs"),
        pytest.param(f"/own/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope", ID, id="slices"),
        pytest.param("/own/a b", None, id="no id of runc"),
        pytest.param("/own/..", None, id="dots"),
        pytest.param("/own/", None, id="nothing"),
    ],
)
def test_right_below_a_listed_parent_any_name_is_a_containers(path: str, id_: str | None) -> None:
    found = OWN.locate(path)

    assert (found.id if found else None) == id_


@pytest.mark.parametrize(
    ("path", "id_", "below"),
    [
        pytest.param(f"/libpod_parent/{OTHER}/libpod-{ID}", ID, "", id="podman's own parent"),
        pytest.param(f"/own/{OTHER}/libpod-{ID}/x", ID, "/x", id="a pod that podman told of"),
        pytest.param(f"/own/{OTHER}", None, "", id="the pod itself"),
        pytest.param(f"/libpod_parent/{ID}", None, "", id="a pod that nobody told of"),
        pytest.param(f"/libpod_parent/{ID}/conmon", None, "", id="a pod's monitor"),
        pytest.param(
            f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope", ID, "", id="scope"
        ),
        pytest.param(f"/x/{ID}/libpod-{OTHER}", ID, f"/libpod-{OTHER}", id="forged"),
        pytest.param(
            f"/docker/{ID}/libpod_parent/{OTHER}/libpod-{OTHER}",
            ID,
            f"/libpod_parent/{OTHER}/libpod-{OTHER}",
            id="podman inside docker",
        ),
    ],
)
def test_a_pod_is_no_container(path: str, id_: str | None, below: str) -> None:
    found = OWN.locate(path)

    assert (found.id if found else None) == id_
    assert found is None or found.path == path.removesuffix(below)


@pytest.mark.parametrize(
    ("path", "perhaps"),
    [
        pytest.param(f"/x/{ID}/libpod-{OTHER}", (ID, OTHER), id="perhaps"),
        pytest.param(f"/x/{ID}/libpod-{OTHER}/y", (ID, OTHER), id="perhaps, below"),
        pytest.param(f"/own/{OTHER}/libpod-{ID}", None, id="known"),
        pytest.param(f"/x/{ID}", None, id="a container"),
        pytest.param(f"/x/libpod-{ID}/libpod-{OTHER}", None, id="below podman's"),
        pytest.param(f"/x/{ID}/y/libpod-{OTHER}", None, id="further below"),
        pytest.param(f"/x/{ID}/{OTHER}", None, id="not podman's name"),
        pytest.param("/x", None, id="nothing"),
    ],
)
def test_what_could_be_a_pod_is_told(path: str, perhaps: tuple[str, str] | None) -> None:
    assert OWN.perhaps_pod(path) == perhaps


parts = st.sampled_from([ID, OTHER, f"docker-{ID}.scope", "docker", "kubepods", "..", "", "x"])


@given(st.lists(parts | st.text(max_size=5), max_size=6).map("/".join))
def test_a_place_is_always_a_beginning_of_the_path(path: str) -> None:
    place = Layout().locate(path)

    if place is not None:
        assert f"{path}/".startswith(f"{place.path}/")
        assert place.path.count(ID) + place.path.count(OTHER) == 1
