"""`qaedge bench --suite`, saved results, `history`, `device noise`, and the plugin, on fake boards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from test_cli_distill import until

from qaedge.hil import fleet
from qaedge.hil.fake import target

SUITE = """
devices = ["flaky"]
limits = ["latency_p90 < 30ms", "slower_than_baseline < 3%"]
[[model]]
file = "one.onnx"
[[model]]
file = "two.onnx"
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A suite of two models on a board that follows a script; the current folder is theirs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fleet, "WAITS_S", (0.01, 0.01, 0.01))
    Path("devices").mkdir()
    Path("devices/flaky.toml").write_text('name = "flaky"\nbase = "fake"\nscript = "script.toml"\n')
    for number, name in enumerate(("one", "two"), 1):
        Path(f"{name}.onnx").write_bytes(b"x" * 100_000 * number)
    Path("benchmarks.toml").write_text(SUITE)

    def behave(script: str) -> None:
        Path("script.toml").write_text(script)
        target._board.cache_clear()  # another process finds the board as it was at first

    behave("")
    return behave


def saved(qaedge) -> Path:
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--save-baseline", "main")
    assert ran.status == 0, ran.err
    (file,) = Path("baselines/main").iterdir()
    return file


def verdicts(ran):
    return {one["model"]: (one["comparison"] or {}).get("verdict") for one in json.loads(ran.out)["outcomes"]}


def test_a_suite_is_saved_and_held_against(bench, qaedge):
    saved(qaedge)
    words = ("--junit", "j.xml", "--markdown", "m.md", "--history", "h.jsonl", "--github")
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main", *words)
    assert ran.status == 0, ran.err
    assert "2 SAME" in ran.out and "false alarms" not in ran.out and "noise floor not measured" in ran.out
    assert "::error" not in ran.err

    Path("two.onnx").write_bytes(b"x" * 230_000)
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main", *words)
    assert ran.status == 3
    assert "limit slower_than_baseline < 3% is not kept" in ran.out and "size" in ran.out
    assert "::error title=two on flaky (onnxruntime fake)::slower%3A +" in ran.err or "::error title=two" in ran.err
    root = ElementTree.parse("j.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    assert "SLOWER, LIMIT" in Path("m.md").read_text()
    assert len(Path("h.jsonl").read_text().splitlines()) == 5
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main", "--json", "--quiet")
    assert verdicts(ran) == {"one": "same", "two": "slower"} and ran.err.count("\n") <= 1


def test_a_baseline_file_takes_turns_with_the_model(bench, qaedge):
    Path("old.onnx").write_bytes(b"x" * 90_000)
    Path("benchmarks.toml").write_text(SUITE.replace('file = "one.onnx"', 'file = "one.onnx"\nbaseline = "old.onnx"'))
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--json")
    assert ran.status == 3 and verdicts(ran) == {"one": "slower", "two": None}


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ('[[event]]\nwhat = "reboot"\nround = 5\naway = 1\n', 0),
        ('[[event]]\nwhat = "cut"\nround = 5\n', 0),
        ('[[event]]\nwhat = "hang"\nround = 9\n', 0),
        ("[[throttle]]\nfrom_s = 0.5\nto_s = 1.5\nfactor = 3.0\nbits = 4\n", 0),
        ("[[throttle]]\nfrom_s = 0.0\nto_s = 1e9\nfactor = 3.0\nbits = 4\n", 4),
    ],
)
def test_a_suite_bears_what_happens_to_its_board(script, status, bench, qaedge):
    saved(qaedge)
    bench(script)
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main", "--json")
    assert ran.status == status, ran.err
    found = json.loads(ran.out)["outcomes"]
    assert {one["comparison"]["verdict"] for one in found} == ({"same"} if status == 0 else {"unknown"})
    if status:
        assert all("throttled" in one["comparison"]["reason"] for one in found)
        assert not Path("results/suites/benchmarks.jsonl").exists()


def test_a_suite_on_a_board_that_does_other_work_decides_nothing(bench, qaedge):
    saved(qaedge)
    Path("two.onnx").write_bytes(b"x" * 230_000)
    bench("[noise]\nburst_every_s = 0.02\nburst_s = 0.004\nburst_factor = 2.0\n")
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main", "--json")
    found = json.loads(ran.out)["outcomes"][1]
    assert ran.status == 4 and found["comparison"]["verdict"] == "unknown", ran.err
    assert found["comparison"]["held_for"] == ["waited"] and found["held"][1]["kept"] is None
    assert found["comparison"]["reason"].endswith("End what else runs there, and compare again")


def test_a_board_that_is_lost_for_good_costs_its_own_models_and_a_rerun_measures_those(bench, qaedge):
    saved(qaedge)
    Path("old.onnx").write_bytes(b"x" * 100_000)
    Path("benchmarks.toml").write_text(SUITE.replace('file = "two.onnx"', 'file = "two.onnx"\nbaseline = "old.onnx"'))
    bench('[[event]]\nwhat = "cut"\nchunk = 1\nround = 4\naway = 9\n')
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main", "--json")
    one, two = json.loads(ran.out)["outcomes"]
    assert ran.status == 1 and one["comparison"]["verdict"] == "same"
    assert two["result"] is None and two["comparison"] is None and "flaky" in two["error"]
    bench("")
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main", "--json")
    assert "1 outcomes are kept from a run that did not end" in ran.err
    assert verdicts(ran) == {"one": "same", "two": "slower"} and ran.status == 3
    again = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main", "--json")
    assert "are kept" not in again.err, "a run that ended is not gone on with"


def test_a_baseline_with_holes_is_not_saved(bench, qaedge):
    bench('[[file]]\norder = 1\ndoes = "crash"\n')
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--save-baseline", "main")
    assert ran.status == 1 and "was not saved: two on flaky" in ran.err and not Path("baselines").exists()


def edited(file: Path, **changed) -> None:
    data = json.loads(file.read_text())
    for result in data["results"]:
        result.update({key: value for key, value in changed.items() if key != "fingerprint"})
        result["fingerprint"].update(changed.get("fingerprint", {}))
        result["fingerprint"].update({key: changed[key] for key in ("device", "runtime_version") if key in changed})
    file.write_text(json.dumps(data))


def test_a_changed_runtime_is_a_finding(bench, qaedge):
    file = saved(qaedge)
    data = json.loads(file.read_text())
    for result in data["results"]:
        result["rounds_ns"] = [round(value / 1.14) for value in result["rounds_ns"]]
    file.write_text(json.dumps(data))
    edited(file, runtime_version="1.31.0")
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main")
    assert ran.status == 3
    assert "runtime: onnxruntime 1.31.0 -> onnxruntime fake on flaky: 14.0 % slower (2 models" in ran.out


def test_a_baseline_of_another_device_is_one_error_before_anything_is_measured(bench, qaedge):
    file = saved(qaedge)
    edited(file, device="pi4")
    for words in (("bench", "--suite", "benchmarks.toml", "--against", "main"), ("compare", file, "one.onnx")):
        ran = qaedge(*words, *(("--device", "flaky") if words[0] == "compare" else ()))
        assert ran.status == 1 and ran.err.count("error:") == 1 and not ran.out, ran.out + ran.err
        assert "is of pi4, and this is flaky" in ran.err and "measuring" not in ran.err and "comparing" not in ran.err
    # A model that has its baseline file with it asks for no saved results.
    Path("benchmarks.toml").write_text(SUITE.replace('.onnx"', '.onnx"\nbaseline = "one.onnx"'))
    assert "is of pi4" not in qaedge("bench", "--suite", "benchmarks.toml", "--against", "main").err


def test_a_baseline_of_another_state_is_told(bench, qaedge):
    edited(saved(qaedge), fingerprint={"kernel": "5.10"})
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main")
    assert ran.status == 1 and "kernel was '5.10' and is 'fake'" in ran.out


@pytest.mark.parametrize("flag", ["--junit", "--markdown", "--history"])
@pytest.mark.parametrize("path", ["devices", "one.onnx/x"])
def test_where_a_report_cannot_go_is_told_before_anything_is_measured(flag, path, bench, qaedge):
    commands = [("bench", "--suite", "benchmarks.toml")]
    commands += [("compare", "one.onnx", "two.onnx", "--device", "flaky")] if flag != "--history" else []
    for words in commands:
        ran = qaedge(*words, flag, path)
        assert ran.status == 1 and f"Cannot write {path}" in ran.err and ran.err.count("error:") == 1
        assert not ran.out and "measuring" not in ran.err and "comparing" not in ran.err


def test_a_history_of_another_format_is_told_before_anything_is_measured(bench, qaedge):
    Path("h.jsonl").write_text('{"format":"something else","version":1}\n')
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--history", "h.jsonl")
    assert ran.status == 1 and "h.jsonl: line 1: expected format" in ran.err and "measuring" not in ran.err


@pytest.mark.parametrize("share", ["0%", "0.0%", "-5%", "1001%", "1000000%", "5", "nan%"])
def test_a_threshold_out_of_bounds_is_a_wrong_use(share, bench, qaedge):
    for words in (("compare", "one.onnx", "two.onnx", "--device", "flaky"), ("history", "h.jsonl")):
        ran = qaedge(*words, "--threshold", share)
        assert ran.status == 2 and f"The threshold '{share}'" in ran.err, ran.err
        assert "more than 0%, at most 1000%" in ran.err and "comparing" not in ran.err


def test_an_older_format_an_empty_suite_a_unit_and_a_lost_model_are_one_error_each(bench, qaedge):
    file = saved(qaedge)
    file.write_text(file.read_text().replace('"version": 1', '"version": 0'))
    said = {"--against main": "an older format"}
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main")
    assert ran.status == 1 and said["--against main"] in ran.err and ran.err.count("error:") == 1
    for text, words in (
        ("", "at least one [[model]]"),
        (SUITE.replace("30ms", "30"), "a limit with a unit"),
        (SUITE.replace("two.onnx", "gone.onnx"), "'gone' of benchmarks.toml has disappeared"),
    ):
        Path("benchmarks.toml").write_text(text)
        ran = qaedge("bench", "--suite", "benchmarks.toml")
        assert ran.status == 1 and words in ran.err and ran.err.count("error:") == 1, ran.err


def test_a_model_that_left_the_suite_is_told(bench, qaedge):
    saved(qaedge)
    Path("benchmarks.toml").write_text(SUITE.partition('[[model]]\nfile = "two')[0])
    ran = qaedge("bench", "--suite", "benchmarks.toml", "--against", "main")
    assert ran.status == 1 and "The model 'two' has disappeared" in ran.out


@pytest.mark.parametrize(
    "words",
    [("one.onnx", "--against", "main"), ("--suite", "benchmarks.toml", "one.onnx"), (), ("one.onnx", "--junit", "x")],
)
def test_flags_that_do_not_go_together(words, bench, qaedge):
    assert qaedge("bench", *words).status == 2


def test_compare_takes_saved_results(bench, qaedge):
    file = saved(qaedge)
    ran = qaedge("compare", file, "one.onnx", "--device", "flaky", "--json")
    assert ran.status == 0 and json.loads(ran.out)["verdict"] == "same", ran.err
    Path("one.onnx").write_bytes(b"x" * 150_000)
    ran = qaedge("compare", file, "one.onnx", "--device", "flaky", "--markdown", "m.md")
    assert ran.status == 3 and ran.out.splitlines()[-1].startswith("slower"), ran.out
    assert qaedge("bench", "--suite", "benchmarks.toml", "--save-baseline", "now").status == 0
    (now,) = Path("baselines/now").iterdir()
    ran = qaedge("compare", file, now, "--json")
    assert ran.status == 3 and verdicts(ran) == {"one": "slower", "two": "same"}
    assert qaedge("compare", "one.onnx", file).status == 2
    data = json.loads(now.read_text())
    now.write_text(json.dumps({**data, "results": data["results"][:1]}))
    ran = qaedge("compare", file, now)
    assert ran.status == 1 and "the model has disappeared" in ran.err


def test_noise_is_measured_kept_and_used(bench, qaedge):
    ran = qaedge("device", "noise", "flaky", "--comparisons", "10", "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert found["comparisons"] == 10 and found["false_slower"] == 0 and Path("devices/flaky.noise.json").exists()
    ran = qaedge("compare", "one.onnx", "one.onnx", "--device", "flaky")
    assert "false alarms: 0 of 10" in ran.out and "noise floor 0" in ran.out
    Path("devices/flaky.noise.json").write_text("{}")
    ran = qaedge("compare", "one.onnx", "one.onnx", "--device", "flaky")
    assert ran.status == 1 and "qaedge device noise flaky" in ran.err


#: Holds `device noise` in the fourth comparison.
HELD = """\
import time
import qaedge.hil.aa as aa
real, begun = aa.contest, []
def contest(*given, **named):
    begun.append(1)
    if len(begun) > 3:
        time.sleep(600)
    return (yield from real(*given, **named))
aa.contest = contest
import qaedge.cli
qaedge.cli.main()
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_noise_that_was_interrupted_goes_on(sent, bench, qaedge, spawn):
    kept = Path("devices/flaky.noise.jsonl")
    words = ("device", "noise", "flaky", "--comparisons", "10")
    process = spawn(*words, code=HELD, start_new_session=True)
    until(lambda: kept.exists() and kept.read_bytes().count(b"\n") > 3, process)
    os.killpg(process.pid, sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -9) and "Traceback" not in err and not Path("devices/flaky.noise.json").exists()
    rows = kept.read_text().splitlines()[1:]
    ran = qaedge(*words, "--json")
    assert (
        ran.status == 0
        and len(rows) == 3
        and f"{len(rows)} comparisons are kept from a run that did not end" in ran.err
    )
    ratios = json.loads(Path("devices/flaky.noise.json").read_text())["ratios"]
    assert ratios[: len(rows)] == [json.loads(row)["trial"]["ratio"] for row in rows] and len(ratios) == 10
    assert not kept.exists() and "are kept" not in qaedge(*words, "--json").err


def test_noise_of_another_file_does_not_go_on(bench, qaedge):
    Path("devices/flaky.noise.jsonl").write_text('{"format":"qaedge noise run","version":1}\n')
    trial = {"ratio": 1.0, "verdict": "same", "median_s": 0.1, "spread": 0.01, "fingerprint": {}}
    with Path("devices/flaky.noise.jsonl").open("a") as file:
        file.write(json.dumps({"digest": "of another file", "trial": trial}) + "\n")
    ran = qaedge("device", "noise", "flaky", "--comparisons", "10", "--json")
    assert ran.status == 0 and "are kept" not in ran.err and json.loads(ran.out)["comparisons"] == 10


def test_history_tells_steps(bench, qaedge):
    for size in (100_000, 160_000):
        Path("one.onnx").write_bytes(b"x" * size)
        for _ in range(5):
            assert qaedge("bench", "--suite", "benchmarks.toml", "--history", "h.jsonl").status == 0
    pytest.importorskip("matplotlib")
    ran = qaedge("history", "h.jsonl", "--json", "--plot", "h.png")
    one, two = json.loads(ran.out)
    assert (one["runs"], len(one["steps"]), len(two["steps"])) == (10, 1, 0)
    assert one["steps"][0]["at"] == 5 and one["steps"][0]["whose"] == "model"
    assert Path("h.png").read_bytes().startswith(b"\x89PNG")
    assert "the model" in qaedge("history", "h.jsonl").out
    assert qaedge("history", "gone.jsonl").status == 1


TESTS = """
import pytest

def test_slower(assert_not_slower):
    assert_not_slower("two.onnx", "one.onnx", device="flaky")

def test_faster(assert_not_slower):
    assert assert_not_slower("one.onnx", "two.onnx", device="flaky").comparison.ratio < 1

@pytest.mark.measured_on("flaky", threshold="5%")
def test_same(assert_not_slower):
    assert assert_not_slower("one.onnx", "one.onnx").comparison.threshold == 0.05

@pytest.mark.measured_on("flaky", treshold="5%")
def test_a_typing_error(assert_not_slower):
    assert_not_slower("one.onnx", "one.onnx")

def test_no_such_file(assert_not_slower):
    assert_not_slower("none.onnx", "one.onnx", device="flaky")
"""


def test_the_plugin_judges_in_anybodys_tests(bench):
    Path("test_mine.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "test_mine.py"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "2 failed, 2 passed, 1 error" in ran.stdout, ran.stdout + ran.stderr
    assert "takes device and threshold, and no more" in ran.stdout and "treshold" not in ran.stderr
    assert "none.onnx" in ran.stdout and "Traceback" not in ran.stdout
    assert "slower: two.onnx against one.onnx on flaky: +" in ran.stdout
