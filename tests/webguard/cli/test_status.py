"""`webguard status` for people: what is wrong beside protection is said, too, and nothing else."""

from typing import Any

import pytest

from webguard.cli.status import summary

ANSWER: dict[str, Any] = {
    "protected": True,
    "missing": [],
    "web": {"ports": [80], "on_failure": "open", "unscanned": "allow"},
    "workers": [],
    "scanners": [{"number": 1, "pid": 0}],
    "ca": {"name": "CA", "sha256": "ab" * 32},
    "events_lost": 0,
    "record": {"since": 1, "problem": "", "waiting": 0, "lost": 0},
    "isolation": {"isolated": False},
    "containers": [],
    "not_covered": [],
}
CUT = {
    "isolated": True,
    "host_network": "inspect",
    "inspecting": True,
    "since": 1,
    "who": "root",
    "reason": "incident\n4711",
}


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        pytest.param(
            {"record": {"problem": "disk full", "waiting": 7, "lost": 0}},
            "the record cannot be written: disk full (7 events wait)",
            id="the record",
        ),
        pytest.param(
            {"record": {"problem": "", "waiting": 0, "lost": 3}, "events_lost": 2},
            "events lost: 3 not recorded since the start, 2 not printed",
            id="lost events",
        ),
        pytest.param(
            {"isolation": CUT},
            "isolation is ON, by root: incident\N{REPLACEMENT CHARACTER}4711"
            " (host-network containers: inspect)",
            id="isolation",
        ),
    ],
)
def test_trouble_is_a_line(
    capsys: pytest.CaptureFixture[str], trouble: dict[str, Any], said: str
) -> None:
    summary(ANSWER)
    calm = capsys.readouterr().out.splitlines()
    summary(ANSWER | trouble)
    more = set(capsys.readouterr().out.splitlines()) - set(calm)
    assert more == {f"  {said}"}
