"""The clock and the dice: new event ids, and what time it is."""

import secrets
import time


def stamp() -> tuple[str, int]:
    """Return a new UUIDv7 (RFC 9562) and the time in it, nanoseconds since the epoch."""
    now = time.time_ns()
    number = (now // 1_000_000 & (1 << 48) - 1) << 80
    number |= 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])), now
