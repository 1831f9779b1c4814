"""Worker processes: started so that Ctrl-C stays the parent's, ended with it, and given work to share."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Generic, TypeVar

import torch

from qaedge.errors import QaedgeError

T = TypeVar("T")
R = TypeVar("R")

#: How long a worker may take to end when nothing is left for it [s].
END_S = 5.0


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait while processes are started: one that is interrupted half way leaves a worker without its task.

    The mask is what workers inherit: Ctrl-C is the parent's to answer, also while they still import torch. It
    does not keep Python from hearing it through another thread, such as a queue's; the handler does.
    """
    in_main = threading.current_thread() is threading.main_thread()
    missed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: missed.append(number)) if in_main else None
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        if in_main:
            signal.signal(signal.SIGINT, handler if handler is not None else signal.SIG_DFL)
            if missed:
                signal.raise_signal(signal.SIGINT)


def end_with(parent: int) -> None:
    """End this process when its parent is gone: nobody would hear of its results."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def alone_with_locks() -> None:
    """Let this worker make no lock that the system keeps: one that is killed would leave it, and Python complains.

    torch.fx draws progress, which nobody sees, with a library that locks against other processes.
    """
    with contextlib.suppress(ImportError):
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread: processes that share the cores would wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Shared(Generic[T, R]):
    """Work that this process does from its beginning on, and helpers from its end, until they meet.

    So the first results do not wait for processes that still import torch. Use it in a `with` statement: helpers
    start with it, and are gone when it is left, whatever happened.
    """

    def __init__(self, do: Callable[[T], R], items: Sequence[T], helpers: int) -> None:
        """Keep the work: `do` and the items go to `helpers` other processes; with 0 of them this one does all."""
        self._do, self._items, self._count = do, items, helpers
        self._workers: list[BaseProcess] = []

    def __enter__(self) -> Shared[T, R]:
        """Start the helpers."""
        if self._count:
            context = multiprocessing.get_context("spawn")
            #: Which items nobody has taken yet: from here, to before there.
            self._left = context.Array("q", [0, len(self._items)])
            self._results: Any = context.Queue()
            arguments = (self._do, self._items, self._left, self._results, os.getpid())
            self._workers = [context.Process(target=_help, args=arguments, daemon=True) for _ in range(self._count)]
            with uninterrupted():
                for worker in self._workers:
                    worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the helpers: at once, where results are left that nobody will hear of."""
        started = [worker for worker in self._workers if worker.pid is not None]
        for worker in started:
            if kind is None:
                worker.join(END_S)
            worker.kill()
        for worker in started:
            worker.join()

    def results(self) -> Iterator[R]:
        """Yield the result of each item, in order; raise what the first one that failed raised.

        Raises QaedgeError, too, where a helper died.
        """
        there: dict[int, tuple[Any, BaseException | None]] = {}
        for number, item in enumerate(self._items):
            if not self._count or _take(self._left, last=False) is not None:
                yield self._do(item)
                continue
            while number not in there:  # a helper's
                try:
                    place, result, error = self._results.get(timeout=1.0)
                except queue.Empty:
                    self._check_alive()
                    continue
                there[place] = result, error
            result, error = there.pop(number)
            if error is not None:
                raise error
            yield result

    def _check_alive(self) -> None:
        for worker in self._workers:
            if worker.exitcode not in (None, 0):
                raise QaedgeError(
                    f"A process that was helping ended with status {worker.exitcode}.",
                    "Often the machine ran out of memory. What is finished is kept; run the same command again.",
                )


def _take(left: Any, last: bool) -> int | None:
    """Take the first or the last item that nobody has; None where there is none."""
    with left.get_lock():
        first, end = left
        if first == end:
            return None
        left[1 if last else 0] = end - 1 if last else first + 1
        return int(end - 1 if last else first)


def _help(do: Callable[[T], R], items: Sequence[T], left: Any, results: Any, parent: int) -> None:
    """A helper: until nothing is left."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    alone_with_locks()
    while (number := _take(left, last=True)) is not None:
        try:
            results.put((number, do(items[number]), None))
        except QaedgeError as error:
            results.put((number, None, error))
        except Exception:  # noqa: BLE001 - a bug: the parent reports it, with where it was
            results.put((number, None, RuntimeError(traceback.format_exc())))
