"""What a worker is told. Apart, so that the daemon need not import mitmproxy."""

from pydantic import BaseModel, ConfigDict

from webguard.policy.decide import Policy


class Settings(BaseModel):
    """What a worker is told at its start, and again with every generation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Policy
    max_body: int
    origin_timeout: float
    probe_cgroup: int
    log_level: str
