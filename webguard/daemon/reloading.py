"""Put other settings in force while the daemon runs: everywhere, or nowhere.

The workers come first and the kernel last: its change is one step that happens
or does not, so whatever fails before it has only workers to be told back.
"""

import asyncio
import logging

from webguard.daemon.children import Inherited
from webguard.daemon.material import Material, check_reloadable
from webguard.daemon.supervisor import Supervisor
from webguard.daemon.workers import Worker
from webguard.errors import HostError
from webguard.policy.show import why_off

log = logging.getLogger(__name__)


async def put_in_force(supervisor: Supervisor, material: Material) -> None:
    """Work by other settings; return when every worker judges by them.

    Raises `ConfigError` for what only a restart can change, and `HostError` when
    a worker or the kernel did not take them; then the old ones stay in force.
    """
    check_reloadable(supervisor.config, material.config, str(supervisor.paths.config))
    generation = material.policy.generation
    # Long lists take a second to be written: not on the loop that answers the workers.
    inherited = await asyncio.to_thread(supervisor.inherited, material)
    old = supervisor.workers[0].inherited
    taken: list[Worker] = []
    try:
        for worker in supervisor.workers:
            await worker.configure(inherited, generation)
            taken.append(worker)
        supervisor.interception.change_ports(material.config, supervisor.own_cgroup)
    except BaseException:
        for worker in taken:  # all or nothing: two workers must not judge differently
            await _back(worker, old, supervisor.material.policy.generation)
        inherited.close()
        raise
    supervisor.selftest.port = material.config.web.ports[0]
    supervisor.material = material
    supervisor.protection.switched_off = why_off(material.policy)
    old.close()
    await supervisor.scanners.renew(material)
    supervisor.tell("policy.reloaded", subject=f"generation {generation}")


async def _back(worker: Worker, old: Inherited, generation: int) -> None:
    try:
        await worker.configure(old, generation)
    except HostError as error:
        log.warning("%s", error)
        worker.inherited = old
        worker.kill()
