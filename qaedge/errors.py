"""Every error that a user can fix.

QaedgeError                      exit status 1 unless said otherwise
├── UsageError                   flags that do not go together (exit status 2)
├── MissingFile                  a file that should be there is not
├── InvalidFile                  a file is there, and something in it is wrong
├── MissingExtra                 an optional part of qaedge is not installed
├── DiskFull                     no space left where a result has to go
├── CannotWrite                  a place where a result has to go does not take it
├── TeacherError                 the teacher cannot be loaded, cut or replaced
├── DataError                    images or labels that cannot be used
├── UnsupportedOperator          an operator that a writer or a runtime does not know
├── ParityError                  torch and the exported file disagree
├── NotMeasured                  a table has no row for what was asked
├── Infeasible                   no network keeps the limits
├── NotComparable                two measurements taken under conditions that differ
├── UnknownDevice                no description of that name
├── SetupFailed                  a device did not get its runtimes
├── NeedsRoot                    a device lets only root do that
└── MeasurementError             a measurement that did not happen; never a number
    ├── Unreachable              no connection to the device could be made
    ├── HostKeyUnknown           nobody has pinned the key of that machine
    ├── HostKeyChanged           another machine answers, or somebody in between
    ├── LoginRefused             the machine does not accept our keys
    ├── DeviceLost               the connection or the agent's heartbeat ended
    ├── AgentKilled              the agent ended without saying why
    ├── AgentFailed              the agent could not start on that device
    ├── CandidateCrashed         a file killed the process that ran it
    ├── CandidateTimeout         a file did not finish within its deadline
    ├── CandidateFailed          the runtime refused a file
    ├── ProtocolError            a frame that the protocol does not allow
    └── DeviceBusy               somebody else measures there
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any


class QaedgeError(Exception):
    """What happened (`message`), what is known, and what to do about it (`hint`)."""

    exit_status = 1

    def __init__(self, message: str, hint: str = "") -> None:
        """Keep the two halves apart so that they can be printed apart."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross to another process by its fields: a kind's own arguments are not what Exception keeps."""
        return _again, (type(self), self.message, vars(self))

    def __str__(self) -> str:
        """Return message and hint, a line each."""
        return f"{self.message}\n{self.hint}" if self.hint else self.message


def _again(kind: type[QaedgeError], message: str, fields: dict[str, Any]) -> QaedgeError:
    error = kind.__new__(kind, message)
    vars(error).update(fields)
    return error


class UsageError(QaedgeError):
    """Flags that do not go together."""

    exit_status = 2


class MissingFile(QaedgeError):
    """A file that should be there is not."""


class InvalidFile(QaedgeError):
    """A file is there, and something in it is wrong."""

    def __init__(self, path: str | Path, key: str, expected: str, found: str, hint: str = "") -> None:
        """Name the file, the key in it, what was expected there and what was found."""
        where = f"{path}: {key}" if key else f"{path}"
        super().__init__(f"{where}: expected {expected}, found {found}.", hint)
        self.path, self.key, self.expected, self.found = str(path), key, expected, found


class MissingExtra(QaedgeError):
    """An optional part of qaedge is not installed."""

    def __init__(self, extra: str, package: str) -> None:
        """Name the package that is missing and the extra that brings it."""
        super().__init__(
            f"This needs the package {package!r}, which is not installed.",
            f'Install it: pip install "qaedge[{extra}]"',
        )


class DiskFull(QaedgeError):
    """No space left where a result has to go."""


class CannotWrite(QaedgeError):
    """A place where a result has to go does not take it: read-only, not a folder, somebody else's."""


class TeacherError(QaedgeError):
    """The teacher cannot be loaded, cut or replaced."""


class DataError(QaedgeError):
    """Images or labels that cannot be used."""


class UnsupportedOperator(QaedgeError):
    """An operator that a writer or a runtime does not know."""


class ParityError(QaedgeError):
    """Torch and the exported file disagree by more than the bound."""


class NotMeasured(QaedgeError):
    """A table has no row for what was asked."""


class Infeasible(QaedgeError):
    """No network keeps the limits."""

    def __init__(self, message: str, hint: str = "", miss: float = math.inf) -> None:
        """Say by what share of a limit the nearest network misses it."""
        super().__init__(message, hint)
        self.miss = miss


class NotComparable(QaedgeError):
    """Two measurements were taken under conditions that differ, or do not pair."""


class UnknownDevice(QaedgeError):
    """No device description of that name."""


class SetupFailed(QaedgeError):
    """A device did not get its runtimes; what it had before is still there."""


class NeedsRoot(QaedgeError):
    """A device lets only root do that, and does not take us for root."""


class MeasurementError(QaedgeError):
    """A measurement that did not happen; never a number."""


class Unreachable(MeasurementError):
    """No connection to the device could be made; trying again may help."""


class HostKeyUnknown(MeasurementError):
    """Nobody has pinned the key that a machine shows."""


class HostKeyChanged(MeasurementError):
    """A machine shows another key than the one that is pinned for it."""


class LoginRefused(MeasurementError):
    """A machine does not accept our keys; trying again does not help."""


class DeviceLost(MeasurementError):
    """The connection, or the agent's heartbeat, ended."""


class AgentKilled(MeasurementError):
    """The agent ended without saying why."""


class AgentFailed(MeasurementError):
    """The agent could not start on that device."""


class CandidateCrashed(MeasurementError):
    """A file killed the process that ran it."""


class CandidateTimeout(MeasurementError):
    """A file did not finish within its deadline."""


class CandidateFailed(MeasurementError):
    """The runtime refused a file."""


class ProtocolError(MeasurementError):
    """A frame that the protocol does not allow."""


class DeviceBusy(MeasurementError):
    """Somebody else measures on that device."""
