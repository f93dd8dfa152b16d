"""Finding containers by what people call them. None of them runs: those are in system tests."""

import json
from pathlib import Path
from typing import override

import pytest

from webguard.daemon.channel import LARGEST
from webguard.errors import HostError, NotFoundError, RefusedError
from webguard.runtimes.docker import Docker, Inspected, Listed
from webguard.runtimes.inventory import Inventory, _bounded

ID = "0123456789abcdef" * 4
NEAR = "0123" + "f" * 60


class FakeEngine(Docker):
    """An engine that answers what it is told to."""

    def __init__(self, *answers: tuple[Listed, ...] | HostError | None) -> None:
        super().__init__("/nowhere")
        self.answers = list(answers)

    @override
    async def list_containers(self) -> tuple[Listed, ...] | None:
        """Give the next answer."""
        answer = self.answers.pop(0)
        if isinstance(answer, HostError):
            raise answer
        return answer

    @override
    async def inspect(self, id_: str, *, within: float | None = None) -> Inspected | None:
        """Know nothing."""
        return None


class FakePodman(FakeEngine):
    """The same, of the other kind."""

    runtime = "podman"


def stopped(id_: str, *names: str, state: str = "exited") -> Listed:
    return Listed(Id=id_, Names=names, State=state)


async def an_inventory(
    tmp_path: Path, *answers: tuple[Listed, ...] | HostError | None
) -> Inventory:
    # An empty folder for a cgroup root: nothing on this machine runs there.
    inventory = Inventory(root=tmp_path, engines=(FakeEngine(*answers),))
    for _ in answers:
        await inventory.refresh()
    return inventory


@pytest.mark.parametrize(
    "query", [ID, ID[:12], "0123456", "shop", "db"], ids=["id", "short", "7", "name", "second name"]
)
async def test_a_container_that_is_stopped_is_refused_and_says_how_to_start_it(
    tmp_path: Path, query: str
) -> None:
    inventory = await an_inventory(tmp_path, (stopped(ID, "/shop", "/db"), stopped(NEAR, "/x")))

    with pytest.raises(RefusedError, match=r"'exited' \(start it first: docker start 0123456789ab"):
        inventory.find(query)


@pytest.mark.parametrize(
    "query", ["", "nobody", "012", "SHOP", "sho", "/shop", "*", "f" * 64, "\x1b[2J" * 99]
)
async def test_an_unknown_container_is_not_found(tmp_path: Path, query: str) -> None:
    inventory = await an_inventory(tmp_path, (stopped(ID, "/shop"),))

    with pytest.raises(NotFoundError) as caught:
        inventory.find(query)

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("names", "query"),
    [
        pytest.param(("/a", "/b"), "0123", id="a prefix of two ids"),
        pytest.param(("/a", "/0123456789ab"), "0123456789ab", id="a name like another's id"),
    ],
)
async def test_what_fits_several_is_not_found_and_they_are_listed(
    tmp_path: Path, names: tuple[str, str], query: str
) -> None:
    inventory = await an_inventory(tmp_path, (stopped(ID, names[0]), stopped(NEAR, names[1])))

    with pytest.raises(NotFoundError) as caught:
        inventory.find(query)

    assert f"{ID[:12]} ({names[0][1:]!a})" in str(caught.value)
    assert f"{NEAR[:12]} ({names[1][1:]!a})" in str(caught.value)


async def test_a_full_id_is_never_another_containers_name(tmp_path: Path) -> None:
    inventory = await an_inventory(tmp_path, (stopped(ID, "/a"), stopped(NEAR, f"/{ID}")))

    with pytest.raises(RefusedError, match=ID[:12]):
        inventory.find(ID)


async def test_a_long_list_of_matches_is_cut(tmp_path: Path) -> None:
    many = tuple(stopped(f"aaaa{number:060x}", f"/\x1b{number}") for number in range(50))
    inventory = await an_inventory(tmp_path, many)

    with pytest.raises(NotFoundError) as caught:
        inventory.find("aaaa")

    assert "and 40 more" in str(caught.value)
    assert str(caught.value).isprintable()


async def test_without_an_engine_there_is_no_problem(tmp_path: Path) -> None:
    inventory = await an_inventory(tmp_path, None)

    assert (inventory.engine_present, inventory.problem, inventory.containers) == (False, "", ())


async def test_an_engine_that_is_not_well_costs_no_names(tmp_path: Path) -> None:
    inventory = await an_inventory(tmp_path, (stopped(ID, "/shop"),), HostError("x", "hangs", "y"))

    assert "hangs" in inventory.problem
    with pytest.raises(RefusedError):
        inventory.find("shop")


async def test_an_engine_that_restarts_costs_no_names_and_is_seen_again(tmp_path: Path) -> None:
    inventory = await an_inventory(
        tmp_path, (stopped(ID, "/shop"),), HostError("x", "hangs", "y"), None
    )
    with pytest.raises(RefusedError):
        inventory.find("shop")
    assert (inventory.engine_present, inventory.problem) == (False, "")


async def test_a_container_that_was_removed_is_forgotten(tmp_path: Path) -> None:
    inventory = await an_inventory(tmp_path, (stopped(ID, "/shop"),), ())

    assert inventory.engine_present
    with pytest.raises(NotFoundError):
        inventory.find("shop")


async def test_an_engine_that_hangs_costs_no_names_of_the_other(tmp_path: Path) -> None:
    hanging = FakePodman(HostError("Podman engine at /x: list", "hangs", "y"))
    inventory = Inventory(root=tmp_path, engines=(hanging, FakeEngine((stopped(ID, "/shop"),))))

    await inventory.refresh()

    assert inventory.engine_present
    assert inventory.problem == "Podman engine at /x: list: hangs (y)"
    with pytest.raises(RefusedError, match="docker start"):
        inventory.find("shop")


async def test_a_name_that_two_engines_know_is_nobodys(tmp_path: Path) -> None:
    engines = (FakeEngine((stopped(ID, "/shop"),)), FakePodman((stopped(NEAR, "shop"),)))
    inventory = Inventory(root=tmp_path, engines=engines)
    await inventory.refresh()

    with pytest.raises(NotFoundError, match="fits several"):
        inventory.find("shop")
    with pytest.raises(RefusedError, match=f"podman start {NEAR[:12]}"):
        inventory.find(NEAR[:12])


def inode(path: Path) -> int:
    return path.stat().st_ino


@pytest.mark.parametrize("path", ["/", "/docker", "/gone/x", "/\0", "/../..", f"/docker/{ID}"])
async def test_a_cgroup_of_nobody_is_resolved_to_none(tmp_path: Path, path: str) -> None:
    inventory = await an_inventory(tmp_path, ())

    assert await inventory.resolve(1, path) is None
    assert await inventory.resolve(inode(tmp_path), path) is None


async def test_a_container_is_deleted_when_its_engine_says_so_and_not_when_it_is_silent(
    tmp_path: Path,
) -> None:
    well = await an_inventory(tmp_path, (stopped(ID, "/shop"),))
    assert well.is_deleted("docker", NEAR)
    assert not well.is_deleted("docker", ID)
    assert not well.is_deleted("podman", NEAR)

    hanging = HostError("list containers", "it does not answer", "see docker info")
    for answers in ((None,), ((), hanging), ((), None)):
        assert not (await an_inventory(tmp_path, *answers)).is_deleted("docker", NEAR)


async def test_whether_a_container_is_deleted_is_its_own_engines_word(tmp_path: Path) -> None:
    hanging = FakePodman(HostError("list containers", "it does not answer", "see podman"))
    inventory = Inventory(root=tmp_path, engines=(FakeEngine(()), hanging))
    await inventory.refresh()

    assert inventory.is_deleted("docker", ID)
    assert not inventory.is_deleted("podman", ID)
    assert not inventory.is_deleted("proc", ID)


async def test_the_engine_that_knows_a_container_is_named(tmp_path: Path) -> None:
    inventory = await an_inventory(tmp_path, (stopped(ID, "/shop"),))

    assert inventory.engine_of(ID) == "docker"
    assert inventory.engine_of(NEAR) == ""


def test_labels_never_take_the_room_of_a_message() -> None:
    huge = {f"{number:04}": "\x01" * 2000 for number in range(500)}

    kept = _bounded(huge)

    assert 0 < len(kept) < 10
    assert len(json.dumps(kept)) < LARGEST / 4
    assert _bounded({"app": "shop"}) == (("app", "shop"),)
