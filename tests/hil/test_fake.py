"""The fake board: real sessions and real measuring on a board that is calm, shakes, throttles or is hot."""

from __future__ import annotations

import statistics

import msgspec
import pytest
from fakes import STILL, run

from qaedge.errors import (
    CandidateCrashed,
    CandidateFailed,
    CandidateTimeout,
)
from qaedge.hil.fake import Board, Script
from qaedge.hil.fake.script import File, Heat, Noise, Throttle
from qaedge.hil.profile import Measured, Settings

# What a calm board tells.


def test_a_steady_board_gives_the_scripted_medians(some):
    files = some(20)
    script = Script(noise=STILL, file=(File(sha256=files[3].sha256[:12], latency_s=0.5), File(order=0, latency_s=0.02)))
    found, _ = run(files, script)
    assert len(found) == 20
    rows = {name: result.measurement for name, result in found.items()}
    for file in files:
        expected = script.base_s + script.per_byte_s * file.size_bytes
        expected = {files[3].name: 0.5, files[0].name: 0.02}.get(file.name, expected)
        assert rows[file.name].median_s == pytest.approx(expected, rel=1e-5)
        assert rows[file.name].doubts == () and rows[file.name].retries == 0
        assert rows[file.name].load_s == pytest.approx(script.load_s)
        assert rows[file.name].reference_s == pytest.approx(script.reference_s)
    assert all(len(samples) >= 10 and sum(samples) >= 0.0005 for row in rows.values() for samples in row.rounds)


def test_noise_is_as_large_as_scripted(some):
    (result,) = run(some(1), Script(noise=Noise(sigma=0.02)), Settings(round_samples=500))[0].values()
    samples = result.measurement.samples_s
    assert statistics.stdev(samples) / statistics.mean(samples) == pytest.approx(0.02, rel=0.1)


def test_nobody_waits_for_its_clock(some):
    board = Board("fake", Script(base_s=1.0))
    assert len(run(some(200), board=board)[0]) == 200
    assert board.now_s > 3600.0, "hours on a real board; the time limit of a test is minutes"


def test_the_same_seed_gives_the_same_rows(some):
    def rows(seed):
        script = Script(seed=seed, noise=Noise(sigma=0.01, drift=0.01, burst_every_s=0.3))
        found = run(some(10), script)[0]
        return {name: msgspec.structs.replace(r.measurement, started_at="") for name, r in found.items()}

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


def test_every_row_says_that_it_was_made_up(some):
    (result,) = run(some(1))[0].values()
    row = result.measurement
    assert (row.device, row.runtime, row.runtime_version) == ("fake", "onnxruntime", "fake")
    assert (row.fingerprint["board"], row.fingerprint["arch"]) == ("fake board", "fake")


def test_files_that_are_compared_are_in_every_round_there_and_back(some):
    settings = Settings(interleaved_rounds=6)
    found, _ = run(some(2), settings=settings, interleave=True)
    assert all(len(result.measurement.rounds) == 6 for result in found.values())


# A board in trouble, that the protocol of measuring deals with (R14).


def test_throttled_samples_are_never_stored_as_good(some):
    files = some(16)
    script = Script(noise=STILL, throttle=(Throttle(1.0, 4.0, factor=3.0),))
    found, steps = run(files, script)
    assert len(found) == 16
    for file in files:
        row = found[file.name].measurement
        truth = script.base_s + script.per_byte_s * file.size_bytes
        assert row.doubts == () and row.median_s == pytest.approx(truth, rel=1e-5)
        assert max(row.samples_s) < 1.01 * truth, "no slow sample counts"
        assert row.tainted_rounds, "and those that do not are kept as evidence"
    assert any("again: throttled" in step.what for step in steps)
    assert any(step.what.startswith("cooling at") for step in steps)


def test_a_throttling_that_began_and_ended_within_a_round_is_seen(some):
    script = Script(noise=STILL, throttle=(Throttle(1.0, 1.01, factor=3.0),))
    found, steps = run(some(16), script)
    assert any("again: throttled" in step.what for step in steps)
    assert all(result.measurement.doubts == () for result in found.values())


def test_a_supply_that_is_too_weak_for_ever_marks_every_row(some):
    settings = Settings(cool_limit_s=5.0)
    found, _ = run(some(4), Script(throttle=(Throttle(0.0, 1e6, bits=5),)), settings)
    for result in found.values():
        assert set(result.measurement.doubts) == {"throttled", "under-voltage"}


def test_a_throttling_that_nobody_admits_shows_in_the_reference_model(some):
    script = Script(noise=STILL, throttle=(Throttle(1.5, 3.0, factor=1.5, bits=0),))
    found, steps = run(some(16), script)
    assert any("again: drifted" in step.what for step in steps)
    truth = {file.name: script.base_s + script.per_byte_s * file.size_bytes for file in some(16)}
    assert all(r.measurement.median_s == pytest.approx(truth[name], rel=0.02) for name, r in found.items())


def test_a_throttling_within_a_long_round_shows_in_the_reference_model(some):
    # 16 candidates of 11 s and more: the readings at both ends of the first round see nothing of it.
    script = Script(noise=STILL, base_s=1.0, reference_s=0.01, throttle=(Throttle(60.0, 130.0, factor=1.5, bits=0),))
    settings = Settings(rounds_min=2, rounds_max=2, round_s=0.05)
    found, steps = run(some(16), script, settings)
    assert any("again: drifted" in step.what for step in steps)
    assert all(r.measurement.median_s == pytest.approx(1.0, rel=0.02) for r in found.values())
    _, steps = run(some(16), script, msgspec.structs.replace(settings, reference_every_s=1e6))
    assert not any("again" in step.what for step in steps), "what it guards against"


def test_a_small_drift_is_scaled_away(some):
    script = Script(noise=STILL, throttle=(Throttle(1.0, 1e6, factor=1.04, bits=0),))
    found, _ = run(some(16), script)
    truth = {file.name: script.base_s + script.per_byte_s * file.size_bytes for file in some(16)}
    scaled = [row for r in found.values() if (row := r.measurement).scales]
    assert scaled, "the script makes some"
    assert all(r.measurement.median_s == pytest.approx(truth[name], rel=0.02) for name, r in found.items())


def test_a_hot_board_is_left_to_cool(some):
    heat = Heat(ambient_c=40.0, rise_c=60.0, time_s=10.0)
    board = Board("fake", Script(heat=heat))
    found, steps = run(some(100), board=board)
    cooling = [step.what for step in steps if step.what.startswith("cooling at")]
    assert cooling and all("hot" in what for what in cooling)
    assert all("hot" not in result.measurement.doubts for result in found.values())
    hottest = max(max(result.measurement.conditions["after"]["temperature_c"].values()) for result in found.values())
    assert 65.0 < hottest < 85.0


def test_a_board_that_never_cools_is_measured_in_the_end_and_marked(some):
    found, _ = run(some(2), Script(heat=Heat(ambient_c=80.0)), Settings(cool_limit_s=3.0))
    assert all(result.measurement.doubts == ("hot",) for result in found.values())


def test_a_board_that_throttles_from_its_own_heat_is_never_believed(some):
    heat = Heat(ambient_c=50.0, rise_c=40.0, time_s=8.0, limit_c=70.0)
    script = Script(noise=STILL, heat=heat)
    found, steps = run(some(60), script)
    assert any("again: throttled" in step.what for step in steps)
    truth = {file.name: script.base_s + script.per_byte_s * file.size_bytes for file in some(60)}
    good = {name: row for name, r in found.items() if not (row := r.measurement).doubts}
    assert good
    assert all(row.median_s == pytest.approx(truth[name], rel=0.01) for name, row in good.items())


def test_another_process_on_the_core_shows_as_waiting(some):
    noise = Noise(sigma=0.0, burst_every_s=0.02, burst_s=0.004, burst_factor=2.0)
    found, _ = run(some(8), Script(noise=noise), Settings(reference=False))
    assert all("waited" in result.measurement.doubts for result in found.values())


# Candidates that fail harm themselves alone.


@pytest.mark.parametrize(
    ("does", "kind", "text"),
    [
        ("crash", CandidateCrashed, "SIGSEGV"),
        ("hang", CandidateTimeout, "did not finish within 60 s"),
        ("refuse", CandidateFailed, "does not know it"),
        ("memory", CandidateFailed, "ran out of memory"),
    ],
)
def test_a_bad_candidate_harms_itself_alone(some, does, kind, text):
    files = some(3)
    found, _ = run(files, Script(file=(File(sha256=files[1].sha256, does=does),)))
    assert type(found[files[1].name].error) is kind
    assert text in found[files[1].name].error.message and "2 times" in found[files[1].name].error.message
    assert isinstance(found[files[0].name], Measured) and isinstance(found[files[2].name], Measured)


def test_a_crash_that_does_not_come_back_is_retried(some):
    files = some(2)
    found, _ = run(files, Script(file=(File(sha256=files[0].sha256, does="crash", times=1),)))
    row = found[files[0].name].measurement
    assert row.retries == 1 and row.doubts == ("retried",)


def test_a_file_that_is_slower_than_its_deadline_has_no_number(some):
    files = some(2)
    found, _ = run(files, Script(file=(File(sha256=files[0].sha256, latency_s=30.0),)))
    assert type(found[files[0].name].error) is CandidateTimeout
