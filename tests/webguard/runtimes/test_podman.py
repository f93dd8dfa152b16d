"""Podman's own answers, as its service 4.3.1 gave them, shortened where nothing is read."""

import json
from pathlib import Path

import pytest
from aiohttp import web

from webguard.errors import HostError
from webguard.runtimes.podman import Podman

ID = "0123456789abcdef" * 4
POD = "f" * 64
LISTED: dict[str, object] = {
    "AutoRemove": False,
    "Command": None,
    "Exited": False,
    "Id": ID,
    "Image": "localhost/shop:1",
    "ImageID": "a" * 64,
    "IsInfra": True,
    "Labels": None,
    "Mounts": [],
    "Names": ["ffffffffffff-infra"],
    "Namespaces": {},
    "Pid": 4711,
    "Pod": POD,
    "PodName": "shop",
    "Ports": None,
    "State": "running",
}
INSPECTED = {
    "Id": ID,
    "State": {"Status": "running", "Running": True, "Pid": 4711, "ConmonPid": 4709},
    "Image": "a" * 64,
    "ImageDigest": "sha256:" + "b" * 64,
    "ImageName": "localhost/shop:1",
    "Pod": POD,
    "Name": "cart",
    "IsInfra": False,
    "Config": {"Image": "localhost/shop:1", "Labels": {"a": "b"}, "Entrypoint": ""},
}


async def test_containers_of_pods_are_understood(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        if request.path.endswith("/libpod/containers/json"):
            return web.json_response([LISTED])
        if request.path.endswith("/events"):
            asked.append(request.query["filters"])
            gone = {"Type": "container", "Action": "remove", "Actor": {"ID": ID}}
            return web.Response(text=json.dumps(gone) + "\n")
        return web.json_response(INSPECTED)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(tmp_path / "podman.sock")).start()
        podman = Podman(str(tmp_path / "podman.sock"))
        listed = await podman.list_containers()
        inspected = await podman.inspect(ID)
        events = [each async for each in podman.events()]
    finally:
        await runner.cleanup()

    assert listed is not None
    (infra,) = listed
    assert (infra.id, infra.names, infra.labels) == (ID, ("ffffffffffff-infra",), {})
    assert (infra.image, infra.image_id) == ("localhost/shop:1", "sha256:" + "a" * 64)
    assert (infra.pod, infra.pod_name, infra.state) == (POD, "shop", "running")
    assert inspected is not None
    cart = inspected.listed()
    assert (cart.id, cart.names, cart.labels, cart.state) == (ID, ("cart",), {"a": "b"}, "running")
    assert (cart.image, cart.image_id) == ("localhost/shop:1", "sha256:" + "a" * 64)
    assert cart.pod == POD
    assert [(each.action, each.id) for each in events] == [("remove", ID)]
    assert "remove" in json.loads(asked[-1])["event"]


async def test_a_service_that_is_not_on_is_no_error_until_it_is_needed(tmp_path: Path) -> None:
    podman = Podman(str(tmp_path / "podman.sock"))

    assert await podman.list_containers() is None
    with pytest.raises(HostError, match=r"Podman engine at .*podman\.sock.*podman\.socket"):
        raise podman.absence()
