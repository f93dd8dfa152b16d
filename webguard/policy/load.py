"""Read everything that decides, and give it as one frozen `Policy`, or not at all.

Whatever is wrong is a `ConfigError` with file, line and remedy, and no policy:
the caller keeps the one it has.
"""

from dataclasses import replace
from pathlib import Path

from webguard.policy import groupfiles
from webguard.policy import lists as listfiles
from webguard.policy.config import Config
from webguard.policy.decide import Policy


def load_policy(config: Config, *, groups: Path, lists: Path, generation: int = 0) -> Policy:
    """Return the policy of these settings and of the folders policy.d and lists.d.

    A folder that is not there is an empty one.
    """
    found = listfiles.load(lists)
    return replace(
        config.policy(generation),
        groups=groupfiles.load(groups, config, found.choice),
        lists=found.urls,
        hashes=found.hashes,
    )
