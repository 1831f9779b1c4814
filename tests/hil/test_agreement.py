"""How boards of one kind are brought to one scale, and when they are not believed."""

from __future__ import annotations

import pytest
from synthetic import make_measurement

from qaedge.artifact import Artifact
from qaedge.hil.agreement import agreement, rescaled
from qaedge.hil.profile import Measured, Settings


def measured(seconds: float, reference_s: float | None, number: int = 0, **more) -> Measured:
    sha256 = f"{number:064x}"
    return Measured(
        Artifact(f"f{number}", f"f{number}.onnx", "onnx", sha256, 10),
        make_measurement(seconds, sha256=sha256, reference_s=reference_s, **more),
    )


def several(factor: float, reference_s: float | None) -> dict[str, Measured]:
    found = [measured(factor * 0.01 * (1 + n), reference_s, n) for n in range(3)]
    return {m.artifact.sha256: m for m in found}


def test_a_slower_board_agrees_when_its_reference_is_slower_by_as_much():
    found = agreement("b", "a", several(1.2, 0.006), several(1.0, 0.005))
    assert found.scale == pytest.approx(1 / 1.2) and found.off == pytest.approx(0.0, abs=1e-9)
    assert found.good and found.files == 3
    assert "b takes +0.0 % against what a takes for 3 shared files, scaled by 0.833" in str(found)


@pytest.mark.parametrize(("factor", "good"), [(1.04, True), (1.06, False), (0.93, False)])
def test_what_the_reference_does_not_explain_is_said(factor, good):
    found = agreement("b", "a", several(factor, 0.005), several(1.0, 0.005))
    assert found.good is good
    assert ("its rows are doubted" in str(found)) is not good


def test_nothing_in_common_is_not_an_agreement():
    found = agreement("b", "a", {}, several(1.0, 0.005))
    assert not found.good and found.off is None and "could not be compared" in str(found)


def test_rows_are_scaled_for_summaries_and_raw_samples_stay():
    agreed = agreement("b", "a", several(1.2, 0.006), several(1.0, 0.005))
    raw = measured(0.012, 0.006, scales=(1.0, 0.98, 1.0)).measurement
    found = rescaled(raw, 0.005, agreed, Settings(), shared=True)
    assert found.rounds == raw.rounds
    assert found.scales == pytest.approx([5 / 6, 0.98 * 5 / 6, 5 / 6])
    assert found.median_s == pytest.approx(raw.median_s * 5 / 6)
    assert found.conditions["board_scale"] == pytest.approx(5 / 6)
    assert found.doubts == raw.doubts


def test_rows_of_a_board_that_does_not_agree_are_doubted():
    agreed = agreement("b", "a", several(1.3, 0.005), several(1.0, 0.005))
    assert (
        "boards differ" in rescaled(measured(0.013, 0.005).measurement, 0.005, agreed, Settings(), shared=True).doubts
    )


@pytest.mark.parametrize("reference_s", [0.005, 0.00508, 0.00492, None])
def test_a_board_that_is_what_it_was_is_not_scaled(reference_s):
    raw = measured(0.01, reference_s).measurement
    assert rescaled(raw, 0.005, None, Settings(), shared=False) is raw
    assert rescaled(raw, None, None, Settings(), shared=False) is raw


def test_a_later_session_of_a_board_that_became_slower_is_scaled_to_its_table():
    raw = measured(0.0104, 0.0052).measurement
    found = rescaled(raw, 0.005, None, Settings(), shared=False)
    assert found.median_s == pytest.approx(0.01) and found.rounds == raw.rounds and found.doubts == raw.doubts


@pytest.mark.parametrize("reference_s", [0.0054, 0.0046])
def test_a_later_session_of_a_board_that_is_another_one_is_doubted(reference_s):
    raw = measured(0.01, reference_s).measurement
    found = rescaled(raw, 0.005, None, Settings(), shared=False)
    assert found.median_s == raw.median_s and "drifted" in found.doubts


def test_the_first_board_of_a_later_fleet_is_scaled_to_the_tables_first_one_too():
    raw = measured(0.012, 0.006).measurement
    found = rescaled(raw, 0.005, None, Settings(), shared=True)
    assert found.median_s == pytest.approx(0.01) and found.doubts == raw.doubts
    assert found.reference_s * found.conditions["board_scale"] == pytest.approx(0.005)
