"""What one room may ask of another, as function types.

A room takes these in its constructor; `webguard.daemon` hands it the real
ones and a test hands it a fake of three lines.
"""

from collections.abc import Awaitable, Callable

from webguard.model import Container, Event, Question, ScanResult, Verdict

type Scan = Callable[[bytes, str], Awaitable[ScanResult]]
"""Scan a body given its Content-Encoding ("" for none). Never raises for any content."""

type Look = Callable[[bytes], ScanResult]
"""Look at a part of a body as it stands, here and now. Never raises for any content."""

type Decide = Callable[[Question], Verdict]
"""Pure; safe to call anywhere."""

type Record = Callable[[Event], None]
"""Keep an event. Never blocks and never raises."""

type Stamp = Callable[[], tuple[str, int]]
"""A new event's id (UUIDv7) and time (nanoseconds since the epoch)."""

type Identify = Callable[[int], Awaitable[Container | None]]
"""The container of a cgroup id, or None if nobody knows it (after at most 500 ms)."""

type Mint = Callable[[tuple[str, ...], bytes], Awaitable[bytes]]
"""A PEM certificate chain for names and a DER SubjectPublicKeyInfo, from the signer."""
