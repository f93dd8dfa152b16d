"""How long property tests look: some examples in `make check`, many in `make test`."""

from hypothesis import HealthCheck, settings

# No deadlines: how long one example takes says more about the machine than about us.
busy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", busy, max_examples=8)
settings.register_profile("thorough", busy, max_examples=100)
settings.load_profile("quick")  # --hypothesis-profile=thorough has the last word
