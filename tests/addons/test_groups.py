"""Containers of several groups in one proxy: what one may have, another may not."""

from typing import Any

import pytest

from tests.addons.rig import Rig, answers, get, response
from webguard.model import Action, Container
from webguard.policy.decide import Policy
from webguard.policy.groups import Group, Match

STRICT = Group(name="strict", match=Match(names=("strict-*",)), unscanned=Action.BLOCK)
