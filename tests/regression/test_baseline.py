from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from synthetic import make_result

from qaedge.errors import InvalidFile, MissingFile, NotComparable, UsageError
from qaedge.regression.baseline import read_baseline, read_saved, save_baseline
from qaedge.regression.compare import Verdict, discoveries, together
from qaedge.regression.noise import Noise
from qaedge.regression.outcome import Outcome, gathered
from qaedge.regression.result import judge
from qaedge.regression.writers.words import behind

DRAW = np.random.default_rng(5)
STEADY = tuple(0.01 * np.exp(DRAW.normal(0, 0.005, 10)))


def slow(factor, **changed):
    return make_result([value * factor for value in (*STEADY[1:], STEADY[0])], **changed)


def test_a_baseline_is_a_file_for_each_state_that_git_likes(tmp_path):
    results = [make_result(STEADY), make_result(STEADY, "other"), make_result(STEADY, device="pi4")]
    files = save_baseline(tmp_path, "main", results)
    assert [file.name.partition("-")[0] for file in files] == ["local", "pi4"]
    text = files[0].read_text()
    assert "boot_id" not in text and text.count("rounds_ns") == 2
    assert all(line.count("[") == line.count("]") for line in text.splitlines() if "rounds_ns" in line), "one line each"
    rebooted = [msgspec.structs.replace(one, fingerprint={**one.fingerprint, "boot_id": "c"}) for one in results]
    assert save_baseline(tmp_path, "main", rebooted) == files and files[0].read_text() == text
    assert {one.model for one in read_baseline(files[0]).results} == {"net", "other"}
    save_baseline(tmp_path, "main", [make_result(STEADY)])
    assert {one.model for one in read_baseline(files[0]).results} == {"net"}, "what is no more is gone"


def test_another_runtime_version_lies_in_the_same_file_and_another_kernel_in_its_own(tmp_path):
    for changed in ({}, {"runtime_version": "1.32.0"}, {"fingerprint": {"kernel": "6.6"}}):
        save_baseline(tmp_path, "main", [make_result(STEADY, **changed)])
    assert len(list((tmp_path / "main").iterdir())) == 2


def test_a_baseline_of_another_device_is_told(tmp_path):
    save_baseline(tmp_path, "main", [make_result(STEADY, device="pi4")])
    with pytest.raises(NotComparable, match=r"The baseline 'main' is of pi4, and this is local\."):
        read_saved(tmp_path, "main").for_model(make_result())


def test_a_baseline_of_another_fingerprint_names_field_and_values(tmp_path):
    save_baseline(tmp_path, "main", [make_result(STEADY, fingerprint={"kernel": "5.10"})])
    with pytest.raises(NotComparable, match=r"kernel was '5\.10' and is '6\.1'"):
        read_saved(tmp_path, "main").for_model(make_result())


@pytest.mark.parametrize(("version", "age"), [(0, "an older format"), (9, "a newer format")])
def test_a_baseline_of_another_format_is_told(tmp_path, version, age):
    (file,) = save_baseline(tmp_path, "main", [make_result()])
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": version, "results": "of another kind"}))
    with pytest.raises(InvalidFile, match=age) as found:
        read_saved(tmp_path, "main")
    assert "--save-baseline" in found.value.hint


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("rounds_ns", "[-5, 1]", r"rounds_ns\[0\]: expected nanoseconds from 1 to 3600000000000, found -5\."),
        ("rounds_ns", "[1, 0]", r"rounds_ns\[1\]: expected nanoseconds from 1 to 3600000000000, found 0\."),
        ("rounds_ns", "[1, NaN]", r"rounds_ns\[1\]: expected a number, found nan\."),
        ("rounds_ns", "[-Infinity]", r"rounds_ns\[0\]: expected a number, found -inf\."),
        ("rounds_ns", "[1e300]", r"rounds_ns\[0\]: expected a whole number, found 1e\+300\."),
        ("rounds_ns", "[1e999]", r"rounds_ns\[0\]: expected a number, found inf\."),
        ("rounds_ns", "[9999999999999]", r"rounds_ns\[0\]: expected nanoseconds from 1 .*, found 9999999999999\."),
        ("rounds_ns", "[]", "rounds_ns: expected at least one round, found 0"),
        ("p90_ns", "-1", "p90_ns: expected nanoseconds from 1"),
        ("reference_ns", "0", "reference_ns: expected nanoseconds from 1"),
        ("load_ns", "-1", "load_ns: expected nanoseconds from 0"),
        ("size_bytes", "-1", "size_bytes: expected bytes from 0"),
        ("peak_memory_bytes", "1e300", r"peak_memory_bytes: expected .*, found 1e\+300\."),
        ("samples", "0", "samples: expected at least one in each of 10 rounds, found 0"),
        ("threads", "0", "threads: expected at least 1, found 0"),
        ("miou", "1.5", r"miou: expected a share from 0 to 1, found 1\.5"),
        ("miou", "NaN", "miou: expected a number, found nan"),
        ("instructions", "1e300", r"instructions: expected a count above 0, at most 1e\+18, found 1e\+300"),
    ],
)
def test_numbers_that_no_file_takes_are_one_error(tmp_path, key, text, said):
    (file,) = save_baseline(tmp_path, "main", [make_result(STEADY)])
    data = json.loads(file.read_text())
    data["results"][0][key] = "HERE"
    file.write_text(json.dumps(data).replace('"HERE"', text))
    with pytest.raises(InvalidFile, match=rf"{file.name}: results\[0\]\.{said}") as found:
        read_saved(tmp_path, "main")
    assert "--save-baseline" in found.value.hint


def test_a_baseline_that_is_not_there_says_which_are(tmp_path):
    save_baseline(tmp_path, "main", [make_result()])
    with pytest.raises(MissingFile) as found:
        read_saved(tmp_path, "release")
    assert "There are: main." in found.value.hint
    with pytest.raises(UsageError, match="no name for a baseline"):
        read_saved(tmp_path, "../main")


def test_a_new_model_has_no_baseline_and_one_that_is_gone_is_named(tmp_path):
    save_baseline(tmp_path, "main", [make_result()])
    saved = read_saved(tmp_path, "main")
    assert saved.for_model(make_result(model="new")) is None
    assert saved.vanished(["local"], ["new"]) == ("net",) and saved.vanished(["pi4"], []) == ()


def test_results_of_two_sessions_are_judged():
    assert judge(make_result(STEADY), slow(1.0)).verdict is Verdict.SAME
    assert judge(make_result(STEADY), slow(1.1)).verdict is Verdict.SLOWER
    rebooted = slow(1.1, fingerprint={"boot_id": "another"})
    assert judge(make_result(STEADY), rebooted).verdict is Verdict.SLOWER
    with pytest.raises(NotComparable, match="kernel"):
        judge(make_result(STEADY), slow(1.0, fingerprint={"kernel": "6.6"}))


def test_a_changed_runtime_is_a_finding_of_its_own():
    found = judge(make_result(STEADY), slow(1.14, runtime_version="1.32.0"))
    assert found.runtime_change == "onnxruntime 1.31.0 -> onnxruntime 1.32.0" and found.verdict is Verdict.SLOWER
    all_of_them = gathered(
        "suite", [Outcome("net", "local", comparison=found), Outcome("x", "local", comparison=found)]
    )
    (finding,) = all_of_them.findings
    assert finding.startswith("onnxruntime 1.31.0 -> onnxruntime 1.32.0 on local: 14.0 % slower (2 models")
    assert gathered("suite", [Outcome("net", "local", comparison=judge(make_result(), slow(1.0)))]).findings == ()


def test_a_board_that_changed_is_not_the_models_fault():
    before = make_result(STEADY, reference_ns=1_000_000)
    moved = judge(before, slow(1.2, reference_ns=1_200_000))
    assert moved.verdict is Verdict.UNKNOWN and "its reference model takes 20 % longer" in moved.reason
    scaled = judge(before, slow(1.04, reference_ns=1_040_000))
    assert scaled.verdict is Verdict.SAME and scaled.ratio == pytest.approx(1.0, abs=0.005)


def test_what_was_throttled_is_not_judged():
    found = judge(make_result(STEADY), slow(2.0, doubts=("throttled",)))
    assert found.verdict is Verdict.UNKNOWN and "throttled" in found.reason


def test_the_noise_from_session_to_session_counts_against_saved_results():
    noise = Noise("local", {}, "x", "", 4, (1.0, 1.001, 0.999, 1.0), (1.03, 0.98, 1.0), 0, 0, 0, 0.01)
    assert noise.floor == pytest.approx(0.001) and noise.floor_across == pytest.approx(0.03)
    found = judge(make_result(STEADY), slow(1.08), noise=noise)
    assert found.threshold == pytest.approx(0.09) and found.verdict is Verdict.SAME
    assert (found.false_slower, found.aa_comparisons, found.noise_doubt) == (0, 4, "")
    for changed, doubt in (({"kernel": "5.10"}, "kernel was '5.10' and is '6.1'"), ({"boot_id": "z"}, "")):
        state = {**slow(1.0).fingerprint, **changed}
        found = judge(make_result(STEADY), slow(1.0), noise=msgspec.structs.replace(noise, fingerprint=state))
        assert found.noise_doubt == doubt and ("another state" in behind(found)) == bool(doubt)


def test_benjamini_and_hochberg_by_their_own_example():
    # Table 1 of the paper: the first four of fifteen stand at 0.05.
    p_values = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.3240, 0.4262, 0.5719, 0.6528]
    p_values += [0.7590, 1.0]
    assert discoveries(p_values) == (True,) * 4 + (False,) * 11
    assert discoveries(p_values[::-1]) == (False,) * 11 + (True,) * 4
    assert discoveries([]) == () and discoveries([0.06]) == (False,)


def test_one_among_many_has_to_stand_among_them():
    slower = msgspec.structs.replace(judge(make_result(STEADY), slow(1.1)), p_value=0.0019)
    same = msgspec.structs.replace(judge(make_result(STEADY), slow(1.0)), p_value=0.9)
    assert together([slower, same])[0].verdict is Verdict.SLOWER
    held = together([slower, *[same] * 40])[0]
    assert held.verdict is Verdict.UNKNOWN and held.reason == "not significant among 41 comparisons"
