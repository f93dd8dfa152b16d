"""A policy as bytes, and back: how the daemon hands it to a worker.

Workers read no files. The bytes are JSON of what the policy says, for a sealed
memory file; what is derived from it (indexes, compiled patterns) is made again
on arrival, so the two processes need share nothing but this version's code.
"""

from pydantic import TypeAdapter, ValidationError

from webguard.policy.decide import Policy

_POLICY = TypeAdapter(Policy)


def to_bytes(policy: Policy) -> bytes:
    """Return the policy as bytes."""
    return _POLICY.dump_json(policy)


def from_bytes(data: bytes) -> Policy:
    """Return the policy in bytes of `to_bytes`. Raises `ValueError` for anything else.

    Costs about a second for a million entries: not for the loop that serves traffic.
    """
    try:
        return _POLICY.validate_json(data)
    except ValidationError as error:
        raise ValueError(f"not a policy: {error.errors()[0]['msg']}") from error
