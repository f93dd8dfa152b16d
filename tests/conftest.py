"""How long property tests look: some examples in `make check`, many in `make test`."""

from hypothesis import settings

# No deadlines: how long one example takes says more about the machine than about us.
settings.register_profile("quick", deadline=None, max_examples=8)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("quick")  # --hypothesis-profile=thorough has the last word
