"""Recorded noise: rounds of one file against itself while another process works on the same core (noise.json).

`python benchmarks/regression/regression.py record` writes it; `python benchmarks/regression/recorder.py [ROUNDS]`
records one session of each kind, says what it is like, and writes nothing. Noise that is not what it is called is
recorded again, twice at most, and then it is an error: noise called drifting that does not drift proves nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from noise_makers import MAKERS

from qaedge.artifact import Artifact
from qaedge.device import load_device
from qaedge.hil.contest import gather
from qaedge.hil.profile import Settings, open_session
from qaedge.hil.sample_file import sample_onnx

HERE = Path(__file__).resolve().parent
OPERATORS = 100
SESSIONS, ROUNDS = 3, 160
WAIT_S = 1800.0
TRIES = 3
#: Noise drifts where neighboring rounds agree by so much, and its level moves by this share.
LEAST_LAG_1, LEAST_RANGE = 0.5, 0.1
#: A round is in a burst where it takes so many times the quiet ones' median; this share of rounds should be.
BURST, BURST_SHARE = 1.2, (0.05, 0.5)

#: Of each session, the round medians of both sides [ns].
Sessions: TypeAlias = Sequence[Sequence[Sequence[int]]]


def file_of(folder: str, operators: int) -> Artifact:
    """Write a chain of so many convolutions."""
    path = Path(folder) / f"{operators}.onnx"
    path.write_bytes(sample_onnx(operators))
    return Artifact.of(path)


def taken(steps: Iterator[Any]) -> Any:
    """Return what a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def record() -> dict[str, Any]:
    """Record the rounds that a comparison of a file with itself would see, in sessions of their own."""
    path = HERE / "noise.json"
    known = msgspec.json.decode(path.read_bytes())["rounds_ns"] if path.exists() else {}
    # Recorded once while others' work filled this machine, and kept: nothing that a maker does is as bad.
    kinds: dict[str, Sessions] = {"busy": known["busy"]} if "busy" in known else {}
    for kind in MAKERS:
        kinds[kind] = recorded(kind, SESSIONS, ROUNDS)
    path.write_bytes(msgspec.json.encode({"operators": OPERATORS, "rounds_ns": kinds}) + b"\n")
    return {"noise": {kind: described(sessions) for kind, sessions in kinds.items()}}


def recorded(kind: str, sessions: int, rounds: int) -> Sessions:
    """Return noise of a kind; exit with what is wrong where it does not become what it is called."""
    for number in range(TRIES):
        found = [_session(kind, number * sessions + place, rounds) for place in range(sessions)]
        figures = described(found)
        print(f"{kind}: {', '.join(f'{key} {value:.3g}' for key, value in figures.items())}", flush=True)
        wrong = wrong_with(kind, figures)
        if not wrong:
            return found
        print(f"{kind}: not kept: {wrong}", flush=True)
    sys.exit(f"{kind} noise did not become what it should be in {TRIES} recordings. Is the machine busy?")


def _session(kind: str, seed: int, rounds: int) -> list[list[int]]:
    with tempfile.TemporaryDirectory() as folder:
        one = file_of(folder, OPERATORS)
        sides = [msgspec.structs.replace(one, name=name) for name in ("one", "other")]
        # Without the reference model: by it rounds are scaled, or taken again, and the noise is no more what it was.
        settings = Settings(interleaved_rounds=rounds, reference=False)
        with open_session(load_device("local"), wait_s=WAIT_S) as session, Disturbed(MAKERS[kind], seed):
            found = taken(gather(session, sides, settings, 1, seed=seed))
        return [list(found[name].rounds_ns) for name in ("one", "other")]


def described(sessions: Sessions) -> dict[str, float]:
    """Say how recorded noise is, each the median over sides, or sessions.

    `cv`: the spread of rounds. `lag_1_correlation`: how much of it neighbors share. `range`: by how much the level, a
    running median of 15 rounds, moves. `burst_share`: the share of rounds in a burst. `side_correlation`: how much
    both sides share, `pair_sd`: the spread of what they do not.
    """
    sides = [np.array(side, float) for session in sessions for side in session]
    logs = [np.log(side / np.median(side)) for side in sides]
    pairs = [np.log(np.array(a, float) / np.array(b, float)) for a, b in sessions]
    return {
        "cv": statistics.median(float(np.std(side) / np.mean(side)) for side in sides),
        "lag_1_correlation": statistics.median(float(np.corrcoef(x[:-1], x[1:])[0, 1]) for x in logs),
        "range": statistics.median(_range(side) for side in sides),
        "burst_share": statistics.median(float(np.mean(side > BURST * np.quantile(side, 0.25))) for side in sides),
        "side_correlation": statistics.median(
            float(np.corrcoef(np.log(a), np.log(b))[0, 1])
            for a, b in ((np.array(s[0]), np.array(s[1])) for s in sessions)
        ),
        "largest_over_median": max(float(side.max() / np.median(side)) for side in sides),
        "pair_sd": statistics.median(float(np.std(pair)) for pair in pairs),
        "rounds": sum(len(session[0]) for session in sessions),
    }


def _range(side: np.ndarray[Any, np.dtype[np.float64]], window: int = 15) -> float:
    level = np.median(np.lib.stride_tricks.sliding_window_view(side, min(window, len(side))), axis=1)
    return float(level.max() / level.min() - 1)


def wrong_with(kind: str, figures: dict[str, float]) -> str:
    """Say why noise is not what it is called; nothing where it is. What is quiet may be as it is."""
    lag_1, level, share = (figures[key] for key in ("lag_1_correlation", "range", "burst_share"))
    low, high = BURST_SHARE
    wrong = []
    if kind in ("drifting", "bursty") and lag_1 <= LEAST_LAG_1:
        wrong.append(f"lag-1 correlation {lag_1:.2f}, expected more than {LEAST_LAG_1}")
    if kind == "drifting" and level <= LEAST_RANGE:
        wrong.append(f"the level moves by {100 * level:.0f} %, expected more than {100 * LEAST_RANGE:.0f} %")
    if kind == "bursty" and not low <= share <= high:
        wrong.append(f"{100 * share:.0f} % of rounds in bursts, expected {100 * low:.0f} to {100 * high:.0f} %")
    return "; ".join(wrong)


class Disturbed:
    """Disturb this machine in a process of its own, while the block runs."""

    def __init__(self, maker: Callable[[int], None] | None, seed: int) -> None:
        """Start nothing yet."""
        self._process = multiprocessing.get_context("spawn").Process(target=maker, args=(seed,)) if maker else None

    def __enter__(self) -> None:
        """Start."""
        if self._process:
            self._process.start()
            time.sleep(1.0)

    def __exit__(self, *_: object) -> None:
        """End; raise RuntimeError where it had ended before, and the noise is nobody's."""
        if self._process:
            worked = self._process.is_alive()
            self._process.kill()
            self._process.join()
            if not worked:
                raise RuntimeError("The process that should disturb this machine has ended by itself.")


def main() -> None:
    """Record one session of each kind, and say what it is like."""
    rounds = int(sys.argv[1]) if sys.argv[1:] else ROUNDS
    print(f"load before {os.getloadavg()[0]:.2f}", flush=True)
    for kind in MAKERS:
        figures = described([_session(kind, 0, rounds)])
        said = ", ".join(f"{key} {value:.3g}" for key, value in figures.items())
        print(f"{kind}: {said}; {wrong_with(kind, figures) or 'as it should be'}", flush=True)


if __name__ == "__main__":
    main()
