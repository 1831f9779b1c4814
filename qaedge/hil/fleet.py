"""A fleet: boards of one kind that share one table's work. One board is a fleet, too.

Each board takes its next batch when it has finished the last one. A board that is lost is connected
to again; what it had not finished goes back to the queue, and nothing finished is measured twice.
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

import msgspec

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.errors import AgentKilled, CandidateCrashed, DeviceLost, MeasurementError, QaedgeError, Unreachable
from qaedge.hil.agent import HOST_PATIENCE_S, AgentSession
from qaedge.hil.agreement import SHARED, Agreement, agreement, rescaled
from qaedge.hil.batches import LOSSES, Batches
from qaedge.hil.profile import Failed, Measured, Settings, measure, open_session
from qaedge.progress import Step

#: What is worth another connection; anything else is the user's to mend.
PASSING = (DeviceLost, AgentKilled, Unreachable)
#: The waits before a board is connected to again [s]: half to all of each; then it is given up.
WAITS_S = (1.0, 4.0, 15.0)

#: How long a board that was lost may still be held by its agent, which waits for its host [s].
_HELD_S = HOST_PATIENCE_S + 10.0

#: What boards that share a table must have in common, by what they say and by their descriptions.
_OF_A_KIND = ("arch", "cpu_model", "board", "cores", "runtimes", "governor", "power_mode")
_USED_ALIKE = ("threads", "pin", "providers")

Open = Callable[[Device, float], AgentSession]


class Share(msgspec.Struct, frozen=True):
    """What one board has done: rows, losses, and why it was given up, where it was."""

    device: str
    measured: int
    failed: int
    losses: int
    given_up: str
    measuring_s: float


class _Board:
    """One board of the fleet: its session, and its part of the work."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.session: AgentSession | None = None
        self.measured = self.failed = self.losses = self.lost_in_a_row = 0
        self.given_up: QaedgeError | None = None
        self._measuring_s = 0.0

    @property
    def measuring_s(self) -> float:
        return self._measuring_s + (self.session.measuring_s if self.session is not None else 0.0)

    def close(self) -> None:
        session, self.session = self.session, None
        if session is not None:
            self._measuring_s += session.measuring_s
            session.close()


class Fleet:
    """Boards with a living agent each; a context manager that leaves nothing behind."""

    def __init__(self, devices: Sequence[Device], wait_s: float = 0.0, open_board: Open | None = None) -> None:
        """Connect to every board, and take its lock.

        Args:
            devices: boards of one kind.
            wait_s: how long to wait where somebody else measures.
            open_board: how to connect, and how long to wait there for whoever measures; the default
                reaches a device as its description says.

        Raises:
            QaedgeError: boards that are not of one kind, or what `open_session` raises where no board
                can be used; of several, the others go on without one that cannot.
        """
        self._open: Open = open_board or (lambda device, wait_s: open_session(device, wait_s=wait_s))
        self._boards = [_Board(device) for device in devices]
        try:
            for board in self._boards:
                try:
                    board.session = self._open(board.device, wait_s)
                except QaedgeError as error:
                    board.given_up = error
            problems = [board.given_up for board in self._boards if board.given_up is not None]
            if len(problems) == len(self._boards):
                raise problems[0]
            self._check_kind()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Fleet:
        """Nothing more to do: the agents live."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the agents."""
        self.close()

    def close(self) -> None:
        """End every agent."""
        for board in self._boards:
            with contextlib.suppress(MeasurementError):
                board.close()

    @property
    def sessions(self) -> dict[str, AgentSession]:
        """The living sessions, by the name of their device."""
        return {board.device.name: board.session for board in self._boards if board.session is not None}

    @property
    def shares(self) -> tuple[Share, ...]:
        """What each board has done so far."""
        return tuple(
            Share(
                device=board.device.name,
                measured=board.measured,
                failed=board.failed,
                losses=board.losses,
                given_up=board.given_up.message if board.given_up is not None else "",
                measuring_s=board.measuring_s,
            )
            for board in self._boards
        )

    def measure(
        self, artifacts: Sequence[Artifact], settings: Settings, base_reference_s: float | None = None
    ) -> Iterator[Step]:
        """Measure files, each on one board; yield a Step with Measured or Failed as soon as each is final.

        Where there are several boards, a few files are measured on all of them first: that tells how
        each board's times are scaled to the first one's, by the reference model, and whether they
        agree then. A Step's result is then an Agreement.

        Args:
            artifacts: what to measure; files with equal content are measured once.
            settings: how.
            base_reference_s: what the reference model takes where the table's rows were measured;
                None: the first board that tells.

        Raises:
            QaedgeError: what ended the last board, when there was work left; what was yielded stands.
        """
        work = _Work(self._boards, artifacts, settings, self._open, base_reference_s)
        try:
            yield from work.steps()
        finally:
            work.stop()

    def _check_kind(self) -> None:
        described = {board.device.name: board.device for board in self._boards}
        (name, first), *others = ((name, session.hello) for name, session in self.sessions.items())
        for other, hello in others:
            for field in (*_OF_A_KIND, *_USED_ALIKE):
                one, two = (first, hello) if field in _OF_A_KIND else (described[name], described[other])
                mine, its = getattr(one, field), getattr(two, field)
                if mine != its:
                    raise QaedgeError(
                        f"{name} and {other} are boards of two kinds: {field} is {mine!r} and {its!r}.",
                        "One table holds for one kind of board. Measure them apart.",
                    )


class _Work:
    """One call of `measure`: a thread for each board, and what they say, in one queue."""

    def __init__(
        self,
        boards: Sequence[_Board],
        artifacts: Sequence[Artifact],
        settings: Settings,
        open_board: Open,
        base_reference_s: float | None,
    ) -> None:
        self._boards = boards
        self._settings = settings
        self._open = open_board
        self._base_s = base_reference_s
        self._total, self._done = len(artifacts), 0
        self._batches = Batches(artifacts, settings.chunk, len(boards))
        self._stopping = threading.Event()
        self._said: queue.Queue[tuple[_Board, Step | BaseException | None]] = queue.Queue()
        self._agreements: dict[str, Agreement] = {}
        self._threads: list[threading.Thread] = []

    def steps(self) -> Iterator[Step]:
        """Run everything; see Fleet.measure."""
        for board in self._boards:
            if board.given_up is not None:
                yield self._warning(board, board.given_up)
        if len(self._usable()) > 1:
            yield from self._compare()
        yield from self._run(self._serve)
        if self._batches.left:
            raise self._cannot_finish()

    def stop(self) -> None:
        """End what still runs."""
        self._stopping.set()
        self._batches.stop()
        if any(thread.is_alive() for thread in self._threads):
            for board in self._boards:
                with contextlib.suppress(MeasurementError):
                    board.close()
        for thread in self._threads:
            thread.join(10.0)

    def _usable(self) -> list[_Board]:
        return [board for board in self._boards if board.given_up is None]

    def _run(self, serve: Callable[[_Board], None]) -> Iterator[Step]:
        """Let each usable board's thread do `serve`; yield what they say until all have ended."""
        started = [
            threading.Thread(target=self._guarded, args=(serve, board), name=f"qaedge {board.device.name}", daemon=True)
            for board in self._usable()
        ]
        self._threads += started
        for thread in started:
            thread.start()
        running = len(started)
        while running:
            board, item = self._said.get()
            if item is None:
                running -= 1
            elif isinstance(item, QaedgeError):
                if len(self._boards) > 1 or board.given_up is not item:  # else it is raised at the end
                    yield self._warning(board, item)
            elif isinstance(item, BaseException):
                raise item  # a mistake of ours
            else:
                yield from self._counted(board, item)

    def _guarded(self, serve: Callable[[_Board], None], board: _Board) -> None:
        try:
            serve(board)
        except QaedgeError as error:
            board.given_up = error
            if not self._stopping.is_set():
                self._said.put((board, error))
                if not self._usable():  # nobody will take what is left
                    self._batches.stop()
        except BaseException as mistake:  # noqa: BLE001 - the main thread raises it
            self._said.put((board, mistake))
        finally:
            self._said.put((board, None))

    def _serve(self, board: _Board) -> None:
        """A board's thread: batch after batch, until nothing is left for anybody."""
        while (batch := self._batches.take()) is not None:
            try:
                artifacts = [self._batches.groups[sha256][0] for sha256 in batch]
                for step in measure(self._session(board), artifacts, self._settings, board.device.threads):
                    if step.result is not None:
                        self._batches.finish(step.result.artifact.sha256)
                    self._said.put((board, step))
                board.lost_in_a_row = 0
            except PASSING as error:
                self._lose(board, error)
            finally:
                for sha256 in self._batches.give_back(batch):
                    self._said.put((board, self._left_out(board, sha256)))

    def _session(self, board: _Board) -> AgentSession:
        """Return the board's session, connecting again where it was lost."""
        while board.session is None:
            wait_s = WAITS_S[board.lost_in_a_row - 1] * random.uniform(0.5, 1.0)
            if self._stopping.wait(wait_s):
                raise DeviceLost(f"{board.device.name} was lost, and then there was no more time for it.")
            try:
                board.session = self._open(board.device, _HELD_S)
            except PASSING as error:
                self._lose(board, error)
        return board.session

    def _lose(self, board: _Board, error: QaedgeError) -> None:
        """Count a loss; raise the error where there were too many in a row."""
        board.losses += 1
        board.lost_in_a_row += 1
        with contextlib.suppress(MeasurementError):
            board.close()
        if board.lost_in_a_row > len(WAITS_S) or self._stopping.is_set():
            raise error
        self._said.put((board, error))

    def _left_out(self, board: _Board, sha256: str) -> Step:
        artifact = self._batches.groups[sha256][0]
        error = CandidateCrashed(
            f"{artifact.name}: {board.device.name} was lost each of the {LOSSES} times that it was measured.",
            f"The others are not affected. To look at it alone, run: qaedge bench {artifact.path}",
        )
        return Step(0, 0, artifact.name, Failed(artifact, error), warning=error.message)

    def _counted(self, board: _Board, step: Step) -> Iterator[Step]:
        """Yield a board's step with the fleet's own count, for every file of the same content."""
        what = step.what if len(self._boards) == 1 else f"{board.device.name}: {step.what}"
        if step.result is None:
            yield msgspec.structs.replace(step, done=self._done, total=self._total, what=what)
            return
        found = step.result
        if isinstance(found, Measured):
            agreed = self._agreements.get(board.device.name)
            scaled = rescaled(found.measurement, self._base_s, agreed, self._settings, len(self._boards) > 1)
            found = msgspec.structs.replace(found, measurement=scaled)
        for artifact in self._batches.groups[found.artifact.sha256]:
            self._done += 1
            board.measured += isinstance(found, Measured)
            board.failed += isinstance(found, Failed)
            yield Step(self._done, self._total, what, msgspec.structs.replace(found, artifact=artifact), step.warning)

    def _compare(self) -> Iterator[Step]:
        """Measure a few files on every board, and say how they agree; the first board's count as its rows."""
        ordered = sorted((group[0] for group in self._batches.groups.values()), key=lambda a: a.size_bytes)
        count = min(SHARED, len(ordered))
        shared = [ordered[round(i * (len(ordered) - 1) / max(1, count - 1))] for i in range(count)]
        boards = self._usable()
        found: dict[str, dict[str, Measured]] = {board.device.name: {} for board in boards}

        def serve(board: _Board) -> None:
            mine = found[board.device.name]
            while left := [artifact for artifact in shared if artifact.sha256 not in mine]:
                try:
                    for step in measure(self._session(board), left, self._settings, board.device.threads):
                        if isinstance(step.result, Measured):
                            mine[step.result.artifact.sha256] = step.result
                        self._said.put((board, Step(0, 0, f"shared files, {step.what}")))
                    return
                except PASSING as error:
                    self._lose(board, error)

        yield from self._run(serve)
        first: str | None = None
        for board in boards:
            name, mine = board.device.name, found[board.device.name]
            if first is None and mine:
                first = name
                self._base_s = self._base_s or next(iter(mine.values())).measurement.reference_s
                for sha256, result in mine.items():
                    self._batches.finish(sha256)
                    yield from self._counted(board, Step(0, 0, result.artifact.name, result))
            elif first is not None:
                agreed = agreement(name, first, mine, found[first])
                self._agreements[name] = agreed
                yield Step(self._done, self._total, str(agreed), agreed, warning="" if agreed.good else str(agreed))

    def _warning(self, board: _Board, error: QaedgeError) -> Step:
        text = f"{error.message} Connecting again; what it had not finished is measured again."
        if board.given_up is error:
            others = ", ".join(other.device.name for other in self._usable())
            rest = f"its work goes to {others}" if others else "nobody is left"
            text = f"{board.device.name} is given up, {rest}: {error.message}"
        return Step(self._done, self._total, board.device.name, warning=text)

    def _cannot_finish(self) -> QaedgeError:
        errors = [board.given_up for board in self._boards if board.given_up is not None]
        error = errors[-1] if errors else DeviceLost("No board is left to measure on.")
        error.hint = f"{self._batches.left} of {self._total} files are left; what was finished is kept.\n{error.hint}"
        return error
