"""Where everything lives. `--root DIR` moves every path under DIR (docs/operate.md)."""

from dataclasses import dataclass
from pathlib import Path

PROXY_USER = "webguard-proxy"
SIGNER_USER = "webguard-signer"
SCAN_USER = "webguard-scan"
OPERATORS = "webguard"


@dataclass(frozen=True, slots=True)
class Paths:
    """The paths of one instance. The default instance has the plain names."""

    root: Path = Path("/")
    instance: str = "webguard"

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.root / "etc" / self.instance / "webguard.yaml"

    @property
    def rules(self) -> Path:
        """The operator's own scan rules (*.yar)."""
        return self.root / "etc" / self.instance / "rules.d"

    @property
    def groups(self) -> Path:
        """Policy groups (*.yaml)."""
        return self.root / "etc" / self.instance / "policy.d"

    @property
    def lists(self) -> Path:
        """URL and hash lists (*.yaml)."""
        return self.root / "etc" / self.instance / "lists.d"

    @property
    def events(self) -> Path:
        """The record of events."""
        return self.state / "events.db"

    @property
    def state(self) -> Path:
        """What outlives the daemon."""
        return self.root / "var/lib" / self.instance

    @property
    def ca(self) -> Path:
        """The CA's key and certificate: the signer's, and nobody else's."""
        return self.state / "ca"

    @property
    def records(self) -> Path:
        """What was written into which container."""
        return self.state / "state"

    @property
    def run(self) -> Path:
        """What lives as long as the daemon."""
        return self.root / "run" / self.instance

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.run / "control.sock"

    @property
    def handover(self) -> Path:
        """Where a successor asks for our place: root's alone."""
        return self.run / "handover.sock"

    @property
    def lock(self) -> Path:
        """Held by the one daemon of this instance."""
        return self.run / "daemon.lock"
