"""The errors Webguard raises on purpose, sorted by who can put them right.

There is no class here for hostile input: bad bytes are what we are here to
read, so they become a `ScanResult`, never an exception. One class for each
exit code of the command line (docs/operate.md lists them).
"""


class WebguardError(Exception):
    """Base of all of them. `str()` is a message fit for an operator, with the remedy."""

    exit_code = 1


class ConfigError(WebguardError):
    """The operator wrote something we cannot accept."""

    exit_code = 2

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where = where
        self.problem = problem


class HostError(WebguardError):
    """The machine refused, or lacks, something we need."""

    def __init__(self, tried: str, answer: str, remedy: str) -> None:
        super().__init__(f"{tried}: {answer.strip()} ({remedy})")
        self.tried = tried
        self.answer = answer
        self.remedy = remedy


class RefusedError(WebguardError):
    """We will not do it, because it would be unsafe or against a setting."""


class NotFoundError(WebguardError):
    """What was asked for does not exist, or the name fits several."""

    exit_code = 3


class PartlyDoneError(WebguardError):
    """Of several targets some were refused; the message says which."""

    exit_code = 4


class UnreachableError(WebguardError):
    """The daemon does not answer."""

    exit_code = 5


class RestartNeededError(WebguardError):
    """It is done, but takes effect only after a restart of what was named."""

    exit_code = 6


class PermissionDeniedError(WebguardError):
    """The caller may not do this."""

    exit_code = 77
