"""Batches: the queue of a fleet: which files wait, which are being measured, and which cost a board too often."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

from qaedge.artifact import Artifact

#: A file that was being measured this often when its board was lost is left out.
LOSSES = 3


class Batches:
    """Files by their content, handed out in batches; several threads may take."""

    def __init__(self, artifacts: Sequence[Artifact], largest: int, takers: int) -> None:
        """Queue the files.

        Args:
            artifacts: those of equal content are one piece of work.
            largest: files of a batch, at most.
            takers: how many share the work: near the end batches become smaller, so that all end together.
        """
        self.groups: dict[str, list[Artifact]] = {}
        for artifact in artifacts:
            self.groups.setdefault(artifact.sha256, []).append(artifact)
        self._largest = largest
        self._takers = takers
        self._waiting = deque(self.groups)
        self._unfinished = set(self.groups)
        self._losses: dict[str, int] = {}
        self._changed = threading.Condition()
        self._stopped = False

    @property
    def left(self) -> int:
        """How many files are not finished."""
        with self._changed:
            return sum(len(self.groups[sha256]) for sha256 in self._unfinished)

    def take(self) -> list[str] | None:
        """Return the next batch of contents; None when everything is finished, or `stop` was called.

        Waits while others hold the rest: they may be lost, and what they hold come back. What was
        being measured in a loss comes in small batches, in the end alone, so that the one at fault shows.
        """
        with self._changed:
            while not self._waiting:
                if not self._unfinished or self._stopped:
                    return None
                self._changed.wait()
            if self._stopped:
                return None
            losses = self._losses.get(self._waiting[0], 0)
            share = -(-len(self._waiting) // self._takers)
            size = max(1, min(self._largest, share) >> (2 * losses))
            batch = [self._waiting.popleft()]
            while self._waiting and len(batch) < size and self._losses.get(self._waiting[0], 0) == losses:
                batch.append(self._waiting.popleft())
            return batch

    def finish(self, sha256: str) -> None:
        """Count a content as done, whether it was measured or cannot be."""
        with self._changed:
            self._unfinished.discard(sha256)
            if sha256 in self._waiting:
                self._waiting.remove(sha256)
            self._changed.notify_all()

    def give_back(self, batch: Sequence[str]) -> list[str]:
        """Put what is not finished of a lost batch back, in front; return what is left out for good."""
        with self._changed:
            unfinished = [sha256 for sha256 in batch if sha256 in self._unfinished]
            guilty = []
            for sha256 in reversed(unfinished):
                self._losses[sha256] = self._losses.get(sha256, 0) + 1
                if self._losses[sha256] >= LOSSES and len(batch) == 1:
                    self._unfinished.discard(sha256)
                    guilty.append(sha256)
                else:
                    self._waiting.appendleft(sha256)
            self._changed.notify_all()
            return guilty

    def stop(self) -> None:
        """Let nobody wait any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
