"""The host of the tests of what runs."""

from collections.abc import Iterator

import pytest

from tests.webguard.runtimes.running import Host


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    try:
        yield host
    finally:
        host.clean_up()
