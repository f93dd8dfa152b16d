"""sock_diag: the request as the kernel wants it, and answers as it (or nobody) would send them."""

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.sockdiag import SockDiag, cgroup_in, question


def own_cgroup() -> int:
    """Return the id of this process's cgroup v2 directory."""
    path = next(
        line.split("::", 1)[1]
        for line in Path("/proc/self/cgroup").read_text().splitlines()
        if line.startswith("0::")
    )
    for root in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if Path(root, "cgroup.procs").exists():
            return Path(root + path).stat().st_ino
    pytest.skip("no cgroup v2 on this machine")


@pytest.fixture(params=["127.0.0.1", "::1"], ids=["IPv4", "IPv6"])
def connected(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as listening:
        try:
            listening.bind((request.param, 0))
        except OSError:
            pytest.skip("this machine has no such address")
        listening.listen()
        with socket.create_connection(listening.getsockname()[:2]) as client:
            accepted, _ = listening.accept()
            with accepted:
                yield client


def test_the_kernel_tells_the_cgroup_of_a_connected_socket(connected: socket.socket) -> None:
    diag = SockDiag()
    found = diag.cgroup_of(connected.getsockname()[:2], connected.getpeername()[:2])
    diag.close()
    assert found == own_cgroup()


def test_a_mapped_ipv4_client_is_found_by_its_ipv4_ends() -> None:
    diag = SockDiag()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with socket.socket(socket.AF_INET6) as client:
            client.connect(("::ffff:127.0.0.1", port))
            local = ("127.0.0.1", client.getsockname()[1])
            assert diag.cgroup_of(local, ("127.0.0.1", port)) == own_cgroup()
    diag.close()


def test_a_socket_that_is_gone_is_nobodys() -> None:
    diag = SockDiag()
    assert diag.cgroup_of(("127.0.0.1", 1), ("127.0.0.1", 2)) is None
    diag.close()


def test_the_request_has_the_ends_in_network_order() -> None:
    asked = question(("10.0.0.1", 0x1234), ("10.0.0.2", 0x5678), 7)
    assert len(asked) == 16 + 8 + 48
    assert struct.unpack_from("=IHHII", asked)[:4] == (72, 20, 1, 7)
    assert asked[24:28] == b"\x12\x34\x56\x78"
    assert asked[28:32] == bytes([10, 0, 0, 1])
    assert asked[44:48] == bytes([10, 0, 0, 2])


@given(st.binary(min_size=16, max_size=300))
def test_no_answer_of_whatever_bytes_raises(answer: bytes) -> None:
    found = cgroup_in(answer)
    assert found is None or 0 <= found < 1 << 64


def test_an_attribute_that_ends_before_it_begins_is_no_loop() -> None:
    body = bytes(72) + struct.pack("=HH", 0, 21)
    answer = struct.pack("=IHHII", 16 + len(body), 20, 0, 1, os.getpid()) + body
    assert cgroup_in(answer) is None
