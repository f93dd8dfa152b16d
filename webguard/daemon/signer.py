"""webguard-signer: the only process that holds the CA's key.

It has one skill: `Mint(names, public key) -> chain`, asked over inherited
sockets by workers that may have been taken over. So it parses nothing but its
own small messages, refuses names and keys that a web client would refuse too,
and never sends the key anywhere.
"""

import argparse
import asyncio
import contextlib
import logging
from datetime import UTC, datetime
from pathlib import Path

from certs.authority import Authority, Purpose
from webguard.daemon import channel, journal
from webguard.daemon.channel import Channel
from webguard.daemon.confine import confine
from webguard.errors import WebguardError
from webguard.host import bind_to_parent

log = logging.getLogger(__name__)


async def answer(end: Channel, authority: Authority) -> None:
    """Serve one worker's channel until it ends, which is when the daemon does."""
    while True:
        try:
            message = await end.receive()
        except ValueError as error:
            log.warning("a worker sent what is %s", error)
            continue
        if message is None:
            return
        if isinstance(message, channel.MintRequest):
            end.send(_mint(authority, message))


def _mint(authority: Authority, asked: channel.MintRequest) -> channel.Minted:
    try:
        chain = authority.mint(
            asked.names,
            asked.public_key,
            now=datetime.now(UTC),
            purpose=Purpose.BLOCK_PAGE if asked.block_page else Purpose.LEAF,
        )
    except (ValueError, WebguardError) as error:
        return channel.Minted(number=asked.number, refused=str(error)[:500])
    return channel.Minted(number=asked.number, chain=chain)


async def serve(arguments: argparse.Namespace) -> None:
    """Make or load the CA, say so, and sign until the daemon goes away."""
    daemon = channel.inherited(arguments.daemon)
    try:
        authority = Authority.ensure(arguments.ca)
    except (WebguardError, OSError) as error:
        daemon.send(channel.Failed(message=str(error)[:4000]))
        raise SystemExit(1) from error
    confine()  # the CA is made: from now on this process writes nothing
    daemon.send(channel.Ready(certificate=authority.public.pem))
    async with asyncio.TaskGroup() as tasks:
        for each in arguments.worker:
            tasks.create_task(answer(channel.inherited(each), authority))
        while await daemon.receive() is not None:
            daemon.send(channel.Ready())  # it asks whether we hang; its end is what we wait for
        raise SystemExit(0)


def main() -> None:
    """Run as `python -P -m webguard.daemon.signer`, by the supervisor only."""
    parser = argparse.ArgumentParser(prog="webguard-signer")
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--daemon", type=int, required=True)
    parser.add_argument("--worker", type=int, action="append", required=True)
    parser.add_argument("--ca", type=Path, required=True)
    arguments = parser.parse_args()
    bind_to_parent(arguments.parent)
    journal.log_to_stderr("webguard-signer")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments))


if __name__ == "__main__":
    main()
