import json
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qaedge.errors import CannotWrite, DiskFull, InvalidFile, MeasurementError, MissingFile
from qaedge.store import Store, StoreWarning


class Row(msgspec.Struct, frozen=True):
    key: str
    value: float


def make_store(folder):
    return Store(folder / "deep" / "rows.jsonl", Row, "test-rows")


def test_rows_come_back_in_order_under_one_header(tmp_path):
    store = make_store(tmp_path)
    rows = [Row("a", 1.0), Row("b\nc", 2.0), Row("a", 3.0)]
    assert list(store.rows()) == []
    for row in rows:
        store.append(row)
    assert list(store.rows()) == rows
    lines = store.path.read_text().splitlines()
    assert json.loads(lines[0]) == {"format": "test-rows", "version": 1}
    assert len(lines) == 4


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.text(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=4), st.data()
)
def test_a_file_cut_anywhere_keeps_the_finished_rows_and_takes_new_ones(tmp_path_factory, made, data):
    store = make_store(tmp_path_factory.mktemp("cut"))
    rows = [Row(*pair) for pair in made]
    for row in rows:
        store.append(row)
    whole = store.path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    store.path.write_bytes(whole[:cut])
    # A line that only lacks its end of line lacks nothing.
    finished = max(0, (whole[:cut] + (b"\n" if whole[cut : cut + 1] == b"\n" else b"")).count(b"\n") - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        assert list(store.rows()) == rows[:finished]
        store.append(Row("new", 1.0))
        assert list(store.rows()) == [*rows[:finished], Row("new", 1.0)]


def test_a_torn_line_is_dropped_with_a_warning(tmp_path):
    store = make_store(tmp_path)
    store.append(Row("a", 1.0))
    with store.path.open("ab") as file:
        file.write(b'{"key":"b","val')
    with pytest.warns(StoreWarning, match=r"rows\.jsonl: line 3 is incomplete and was dropped"):
        assert list(store.rows()) == [Row("a", 1.0)]
    store.append(Row("c", 2.0))
    with pytest.warns(StoreWarning, match="line 3 is incomplete"):
        assert list(store.rows()) == [Row("a", 1.0), Row("c", 2.0)]


def test_a_row_of_another_shape_is_an_error_with_its_line(tmp_path):
    store = make_store(tmp_path)
    store.append(Row("a", 1.0))
    with store.path.open("ab") as file:
        file.write(b'{"key":"b"}\n')
    with pytest.raises(InvalidFile, match=r"rows\.jsonl: line 3: expected a test-rows row, found .*value"):
        list(store.rows())


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b'{"format":"other","version":1}\n', "line 1: expected format test-rows, found other"),
        (b'{"format":"test-rows","version":2}\n', "expected version 1 or older, found version 2.*\nUpgrade qaedge"),
        (b"key,value\n", "line 1: expected the header of a test-rows file"),
        (b"no end of line", "line 1: expected the header of a test-rows file"),
        (b"\xff\xfe\n", "line 1: expected the header of a test-rows file"),
    ],
)
def test_another_files_header_is_an_error_for_reading_and_for_appending(tmp_path, header, match):
    store = make_store(tmp_path)
    store.path.parent.mkdir()
    store.path.write_bytes(header)
    with pytest.raises(InvalidFile, match=match):
        list(store.rows())
    with pytest.raises(InvalidFile, match=match):
        store.append(Row("a", 1.0))
    assert store.path.read_bytes() == header


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_never_stored(tmp_path, value):
    store = make_store(tmp_path)
    with pytest.raises(MeasurementError, match="holds what is not a value"):
        store.append(Row("a", value))
    assert not store.path.exists()


def test_an_unreadable_store_is_told(tmp_path):
    store = make_store(tmp_path)
    store.path.mkdir(parents=True)
    with pytest.raises(MissingFile, match=r"Cannot read .*rows\.jsonl"):
        list(store.rows())
    with pytest.raises(CannotWrite, match=r"Cannot write .*rows\.jsonl"):
        store.append(Row("a", 1.0))


def test_a_full_device_is_told():
    with pytest.raises(DiskFull, match="No space left while writing /dev/full"):
        Store(Path("/dev/full"), Row, "test-rows").append(Row("a", 1.0))


def test_a_row_that_only_partly_fits_leaves_the_file_as_it_was(tmp_path):
    store = make_store(tmp_path)
    store.append(Row("a", 1.0))
    before = store.path.read_bytes()
    child = textwrap.dedent(f"""
        import resource, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from qaedge.errors import DiskFull
        from test_store import Row, Store
        resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 10}, resource.RLIM_INFINITY))
        try:
            Store(Path({str(store.path)!r}), Row, "test-rows").append(Row("b" * 100, 2.0))
        except DiskFull:
            raise SystemExit(7)
    """)
    assert subprocess.run([sys.executable, "-c", child], check=False).returncode == 7
    assert store.path.read_bytes() == before


def test_no_finished_row_is_lost_to_kill_9(tmp_path):
    store = make_store(tmp_path)
    child = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store import Row, Store
        store = Store(Path({str(store.path)!r}), Row, "test-rows")
        start = int(sys.argv[1])
        for number in range(start, 100000):
            store.append(Row(str(number), float(number)))
            print(number, flush=True)
    """)
    reported: list[int] = []
    for turn in range(4):
        first = turn * 100000
        process = subprocess.Popen(
            [sys.executable, "-c", child.replace("100000", str(first + 100000)), str(first)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        reported.append(first)
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        reported += [int(line) for line in process.stdout.read().split(b"\n")[:-1]]
        process.stdout.close()
        process.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoreWarning)
        stored = [int(row.key) for row in store.rows()]
    assert set(reported) <= set(stored)
    assert len(stored) == len(set(stored))


def test_two_processes_may_append_at_once(tmp_path):
    store = make_store(tmp_path)
    child = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_store import Row, Store
        store = Store(Path({str(store.path)!r}), Row, "test-rows")
        for number in range(50):
            store.append(Row(sys.argv[1] + str(number), 1.0))
    """)
    processes = [subprocess.Popen([sys.executable, "-c", child, name]) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert {row.key for row in store.rows()} == {f"{name}{number}" for name in "abc" for number in range(50)}
    assert store.path.read_bytes().count(b"test-rows") == 1
