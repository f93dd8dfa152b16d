"""A machine without libnftables."""

import pytest

from netiso import context
from netiso.apply import Kernel
from netiso.redirect import Redirect
from webguard.errors import HostError


def test_a_missing_library_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_LIBRARY", "libnftables.so.none")
    context._library.cache_clear()

    with pytest.raises(HostError, match="apt-get install libnftables1"):
        Kernel(Redirect(instance="a", generation=1, proxy_port=1, ports=(2,)))
