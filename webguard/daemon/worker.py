"""webguard-proxy: the unprivileged process that terminates TLS and parses HTTP.

Everything hostile ends up here, so this process holds nothing worth having: no
capability, no CA key, no file it may write. What it works with is inherited:
listening sockets, a channel to the daemon, one to the signer and to each scan process,
and three sealed descriptors (settings, scan rules, upstream roots). It reads no path of its own.
"""

import argparse
import asyncio
import contextlib
import logging
import resource
import socket
from functools import partial

from addons.crowd import Crowd
from addons.identify import Owners
from addons.listener import Asking, WebguardInstance
from addons.sockdiag import SockDiag
from webguard.daemon import channel, journal
from webguard.daemon.archives import Archives
from webguard.daemon.clock import stamp
from webguard.daemon.confine import confine
from webguard.daemon.links import Daemon, Signer
from webguard.daemon.serving import Serving, hashes_of, whole
from webguard.daemon.settings import Settings
from webguard.errors import WebguardError
from webguard.host import bind_to_parent
from webguard.scan.engine import Engine


async def serve(arguments: argparse.Namespace) -> None:
    """Serve until the daemon goes away, or says that a successor has taken over."""
    end = channel.inherited(arguments.daemon)
    daemon, signer = Daemon(end), Signer(channel.inherited(arguments.signer))
    archives = Archives([channel.inherited(each) for each in arguments.scanner])
    try:
        settings = Settings.model_validate_json(whole(arguments.settings))
        logging.getLogger().setLevel(settings.log_level.upper())
        scanner = Engine(
            whole(arguments.rules),
            hashes=hashes_of(settings),
            generation=settings.policy.generation,
            deeper=archives.unpack,
        )
        serving = Serving(settings, scanner, whole(arguments.roots), daemon, signer)
    except (WebguardError, ValueError, OSError) as error:
        end.send(channel.Failed(message=str(error)[:4000]))
        raise SystemExit(1) from error
    owners = Owners(ask=daemon.whose, diag=SockDiag())
    instance = WebguardInstance(
        serving.proxyserver,
        sockets=[socket.socket(fileno=each) for each in arguments.listen],
        asking=Asking(
            owner=owners.owner,
            look=owners.look,
            probed=partial(daemon.probed, probe=settings.probe_cgroup),
        ),
        peers=serving.peers,
        crowd=Crowd(
            descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            record=daemon.record,
            stamp=stamp,
        ),
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serving.master.run())
        await instance.start()
        tasks.create_task(signer.listen())
        tasks.create_task(archives.listen())
        daemon.say(channel.Ready())
        tasks.create_task(daemon.count(instance, serving.peers))
        await daemon.listen(
            owners,
            lambda _generation, descriptors: serving.configure(descriptors),
            partial(serving.drain, instance),
            serving.cut,
        )
        raise SystemExit(0)  # the daemon closed its end, or we are drained: end at once


def main() -> None:
    """Run as `python -P -m webguard.daemon.worker`, by the supervisor only."""
    parser = argparse.ArgumentParser(prog="webguard-proxy")
    parser.add_argument("--parent", type=int, required=True)
    for name in ("daemon", "signer", "settings", "rules", "roots"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--listen", type=int, action="append", required=True)
    parser.add_argument("--scanner", type=int, action="append", required=True)
    arguments = parser.parse_args()
    bind_to_parent(arguments.parent)
    confine()
    journal.log_to_stderr("webguard-proxy")
    # mitmproxy narrates every connection; our events do that.
    logging.getLogger("mitmproxy").setLevel(logging.ERROR)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments))


if __name__ == "__main__":
    main()
