"""Counters of the processor, by the kernel's own software events where there is no hardware for the others."""

import contextlib
import mmap
import threading

import counters
import pytest

#: linux/perf_event.h: PERF_COUNT_SW_TASK_CLOCK and PERF_COUNT_SW_PAGE_FAULTS.
CLOCK, FAULTS = (counters.SOFTWARE, 1), (counters.SOFTWARE, 2)
PAGE = 4096


@pytest.fixture
def faults():
    found = counters.Counters({"faults": FAULTS, "clock_ns": CLOCK})
    if found.missing:
        pytest.skip(f"the kernel refuses: {found.missing}")
    yield found
    found.close()


def touch(pages):
    with mmap.mmap(-1, pages * PAGE) as data:  # fresh from the kernel: an allocator may have pages at hand
        with contextlib.suppress(OSError):
            data.madvise(mmap.MADV_NOHUGEPAGE)
        for start in range(0, len(data), PAGE):
            data[start] = 1


def counted(found, work):
    """Return what is counted while something is done."""
    found.begin()
    found.start()
    work()
    found.stop()
    return found.end()


def test_counts_between_start_and_stop(faults):
    touch(2000)
    faults.begin()
    for _ in range(2):
        faults.start()
        touch(500)
        faults.stop()
        touch(1000)
    found = faults.end()
    assert 1000 <= found["faults"] <= 1100
    assert found["clock_ns"] > 0
    assert counted(faults, lambda: None).get("faults", 0) < 100


def test_threads_started_later_count_too(faults):
    thread = threading.Thread(target=touch, args=(1000,))

    def run():
        thread.start()
        thread.join()

    assert counted(faults, run)["faults"] >= 1000
    assert counted(faults, lambda: None).get("faults", 0) < 100  # nothing is counted twice


def test_what_the_kernel_does_not_know_is_absent_and_said():
    found = counters.Counters({"nothing": (counters.SOFTWARE, 9999)})
    assert set(found.missing) == {"nothing"}
    assert counted(found, lambda: None) == {}


def test_instructions_and_cycles_are_numbers_or_absent():
    found = counters.Counters()
    told = counted(found, lambda: sum(range(100_000)))
    found.close()
    assert set(told) | set(found.missing) == {"instructions", "cycles"} or found.missing == {}
    assert all(value > 100_000 for value in told.values())


@pytest.mark.parametrize(
    ("machine", "pointer", "number"),
    [("x86_64", 8, 298), ("aarch64", 8, 241), ("armv7l", 4, 364), ("aarch64", 4, 364), ("riscv64", 8, None)],
)
def test_the_call_has_another_number_on_each_machine(machine, pointer, number):
    assert counters.call_number(machine, pointer) == number
