"""A loop as anybody would write it: `plain_loop.py FILE.tflite CORE RUNS` prints the median time of a run [s]."""

import os
import statistics
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main(path: str, core: int, runs: int) -> None:
    """Load, warm up, and time each run."""
    os.sched_setaffinity(0, [core])
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    for given in interpreter.get_input_details():
        interpreter.set_tensor(given["index"], random.integers(0, 256, given["shape"]).astype(given["dtype"]))
    for _ in range(runs // 4):
        interpreter.invoke()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        interpreter.invoke()
        times.append(time.perf_counter() - start)
    print(statistics.median(times))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
