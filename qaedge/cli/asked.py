"""What a search is asked for: the limits of its flags, or else the project's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qaedge.device import load_devices, table_name
from qaedge.errors import UsageError
from qaedge.metric import PEAK_MEMORY, SIZE, latency_on, parse_limit
from qaedge.project import Workspace

if TYPE_CHECKING:
    from qaedge.search.space_problem import Constraint, SpaceProblem

#: What takes the place of a limit to say that there is none, although the project has one.
NO_LIMIT = "none"


class Asked:
    """The limits that were asked for: metric -> its text; of each flag, or else the project's.

    `named` are the latencies that flags are about.
    """

    def __init__(
        self, device: str, workspace: Workspace, latency: tuple[str, ...], size: str | None, peak_memory: str | None
    ) -> None:
        """Read the flags; a limit without a device is for `device`."""
        limits = workspace.project.limits
        self.devices = [device]
        self.texts: dict[str, str | None] = {latency_on(device): limits.latency, SIZE: limits.size}
        self.named: set[str] = set()
        for text in latency:
            name, equals, limit = text.partition("=")
            if not equals:
                name, limit = device, text
            _not_empty("--latency", limit)
            name = table_name(load_devices(name))
            if latency_on(name) in self.named:
                raise UsageError(f"--latency gives {name} two limits.", "Give each device one.")
            self.named.add(latency_on(name))
            if name not in self.devices:
                self.devices.append(name)
            self.texts[latency_on(name)] = limit
        for flag, metric, given in (("--size", SIZE, size), ("--peak-memory", PEAK_MEMORY, peak_memory)):
            if given is not None:
                _not_empty(flag, given)
                self.texts[metric] = given

    @property
    def has_peak(self) -> bool:
        """Whether the peak of memory is limited."""
        return self.texts.get(PEAK_MEMORY, NO_LIMIT) != NO_LIMIT

    @property
    def needs_latency(self) -> bool:
        """Whether a flag limits a latency: then it has to be measured."""
        return any(self.texts[metric] != NO_LIMIT for metric in self.named)

    @property
    def project_latency(self) -> str:
        """The project's own limit on latency, where no flag is about it; empty where there is none."""
        metric = latency_on(self.devices[0])
        text = self.texts[metric] or ""
        return "" if metric in self.named or text == NO_LIMIT else text

    def constraints(self, problems: list[SpaceProblem]) -> list[Constraint]:
        """Return them in base units; a share is one of the teacher at its best: as the file that costs least.

        A limit on what the problems do not know is left out.
        """
        from qaedge.search.space_problem import Constraint

        made = []
        for metric, text in self.texts.items():
            if text and text != NO_LIMIT and metric in problems[0].problem.metrics:
                own = [p.teacher[metric] for p in problems if metric in p.teacher]
                made.append(Constraint(metric, parse_limit(text, min(own, default=None), metric)))
        return made


def _not_empty(flag: str, text: str) -> None:
    if not text.strip():  # a variable that is not set must not lift the project's limit
        raise UsageError(f"{flag} is empty.", f"Write a limit, or {NO_LIMIT!r} for none.")
