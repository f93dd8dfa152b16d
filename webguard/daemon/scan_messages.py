"""What is said between `webguard scan` and its scanning processes, beside the descriptors.

One packet of SOCK_SEQPACKET is one message. What a scanning process says is
validated: it has read hostile files and may have been taken over.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from webguard.model import ScanResult
from webguard.policy.hashes import HashList

LARGEST = 64 * 1024
"""Bytes in one message."""

FILE = "file"
"""`Unscanned.where` when it is about the file, not about something inside it."""

HASH_LISTS = TypeAdapter(tuple[HashList, ...])


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ready(_Message):
    """From a scanning process, once: it can scan. `problem` is why it never will."""

    type: Literal["ready"] = "ready"
    problem: str = Field(default="", max_length=2000)


class Scan(_Message):
    """To a scanning process, with one descriptor: scan this."""

    number: int


class Answer(_Message):
    """From a scanning process: what it found."""

    type: Literal["answer"] = "answer"
    number: int
    read: int = Field(ge=0)  # bytes
    result: ScanResult
