"""What a worker tells its daemon arrives, however large a container made itself."""

from webguard.daemon import channel
from webguard.daemon.channel import Channel
from webguard.daemon.clock import stamp
from webguard.daemon.links import Daemon
from webguard.model import Container, Event, Severity


async def test_an_event_of_a_container_with_huge_labels_is_told_without_them() -> None:
    ours, theirs = channel.pair()
    labels = tuple((f"key {number}", "v" * 1024) for number in range(200))
    container = Container(runtime="docker", id="a" * 64, started=1, pid=1, labels=labels)
    event_id, at = stamp()
    event = Event(id=event_id, at=at, kind="x", severity=Severity.LOW, container=container)

    Daemon(Channel(ours)).record(event)

    told = await Channel(theirs).receive()
    assert isinstance(told, channel.Happened)
    assert told.event.id == event_id
    assert told.event.container is not None
    assert (told.event.container.id, told.event.container.labels) == (container.id, ())
    ours.close()
    theirs.close()
