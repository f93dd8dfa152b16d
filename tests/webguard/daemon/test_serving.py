"""What a worker is given by descriptor, and the mitmproxy that it refuses to work with."""

import os

import pytest
from mitmproxy import options, version

from webguard.daemon.children import sealed
from webguard.daemon.serving import check_engine, hashes_of, whole
from webguard.daemon.settings import Settings
from webguard.errors import HostError
from webguard.policy.decide import Policy
from webguard.policy.hashes import HashList


def test_a_sealed_file_is_read_whole_by_everybody_who_has_it() -> None:
    descriptor = sealed("x", b"content")
    try:
        assert (whole(descriptor), whole(descriptor)) == (b"content", b"content")
        with pytest.raises(PermissionError):
            os.write(descriptor, b"other")
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def test_hash_lists_survive_the_way_to_a_worker() -> None:
    digest = "0" * 64
    policy = Policy(hashes=(HashList(name="known", entries=((digest, "Bad"),)),))
    told = Settings(
        policy=policy, max_body=1, origin_timeout=1, probe_cgroup=1, log_level="info"
    ).model_dump_json()
    found = Settings.model_validate_json(told)
    assert found.policy.hashes == policy.hashes
    assert hashes_of(found) is not None


def test_the_pinned_mitmproxy_will_do() -> None:
    check_engine(options.Options())


def test_another_mitmproxy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "VERSION", "99.0")
    with pytest.raises(HostError, match=r"found 99\.0.*requirements\.lock"):
        check_engine(options.Options())


def test_a_mitmproxy_that_signs_with_a_leaked_ca_is_refused() -> None:
    leaky = options.Options()
    leaky.add_option("emudhra_ca", bool, False, "")
    with pytest.raises(HostError, match="compromised CA"):
        check_engine(leaky)
