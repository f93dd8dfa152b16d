"""What all tests have: a log as it was, and property tests as long as they are to be.

Property tests look at some examples in `make check`, at many in `make test`.
"""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# No deadlines: how long one example takes says more about the machine than about us.
busy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", busy, max_examples=8)
settings.register_profile("thorough", busy, max_examples=100)
settings.load_profile("quick")  # --hypothesis-profile=thorough has the last word


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """A worker's settings decide what the log of its process says: not in the next test."""
    root = logging.getLogger()
    before = root.level
    yield
    root.setLevel(before)
