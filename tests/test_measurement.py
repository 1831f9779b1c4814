import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_measurement

from qaedge.errors import MeasurementError
from qaedge.measurement import Measurement

times = st.floats(1e-6, 10.0)


@given(st.lists(st.lists(times, min_size=1, max_size=20), min_size=1, max_size=9))
def test_summaries_agree_with_numpy(rounds):
    measurement = make_measurement(rounds=tuple(tuple(samples) for samples in rounds))
    samples = np.concatenate(rounds)
    assert measurement.samples_s == tuple(samples)
    assert measurement.median_s == pytest.approx(np.median(samples))
    assert measurement.quantile(0.25) == pytest.approx(np.quantile(samples, 0.25))
    assert measurement.round_medians_s == pytest.approx([np.median(samples) for samples in rounds])
    assert measurement.p90_s == (pytest.approx(np.quantile(samples, 0.9)) if len(samples) >= 64 else None)


def test_high_quantiles_need_many_samples():
    assert make_measurement(rounds=((0.01,) * 63,)).p90_s is None
    assert make_measurement(rounds=((0.01,) * 64,)).p90_s == pytest.approx(0.01)
    assert make_measurement(rounds=((0.01,) * 661,)).p99_s is None
    assert make_measurement(rounds=((0.01,) * 662,)).p99_s == pytest.approx(0.01)


def test_the_error_is_the_spread_of_rounds():
    measurement = make_measurement(rounds=((1.0,), (2.0,), (3.0,), (4.0,)))
    assert measurement.error_s == pytest.approx(1.2533 * np.std([1, 2, 3, 4], ddof=1) / 2)
    assert make_measurement(rounds=((0.5, 0.5),)).error_s == pytest.approx(0.01)


def test_outliers_are_counted_and_stay():
    measurement = make_measurement(rounds=((1.0, 1.01, 0.99, 1.02, 0.98, 5.0),))
    assert measurement.outliers == 1
    assert 5.0 in measurement.samples_s
    assert make_measurement(rounds=((1.0, 1.0, 9.0),)).outliers == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"rounds": ()},
        {"rounds": ((),)},
        {"rounds": ((0.01, 0.0),)},
        {"rounds": ((0.01, -1.0),)},
        {"rounds": ((0.01, math.nan),)},
        {"rounds": ((math.inf,),)},
        {"load_s": 0.0},
        {"first_run_s": -1.0},
    ],
)
def test_what_cannot_be_a_time_is_never_a_measurement(changed):
    with pytest.raises(MeasurementError, match="A measurement of 000000000000 on local"):
        make_measurement(**changed)


def test_a_measurement_survives_json():
    measurement = make_measurement(doubts=("unstable",), peak_memory_bytes=1000)
    assert msgspec.json.decode(msgspec.json.encode(measurement), type=Measurement) == measurement


def test_rounds_are_scaled_for_summaries_and_kept_raw():
    row = make_measurement(rounds=((2.0, 2.0), (4.0, 4.0)), scales=(1.0, 0.5))
    assert row.rounds == ((2.0, 2.0), (4.0, 4.0))
    assert row.round_medians_s == (2.0, 2.0) and row.median_s == 2.0 and row.samples_s == (2.0,) * 4
    with pytest.raises(MeasurementError, match="2 rounds and 1 scales"):
        make_measurement(rounds=((2.0,), (4.0,)), scales=(1.0,))


@given(
    st.lists(st.tuples(st.lists(times, min_size=1, max_size=4), st.sampled_from([1.0, 0.5])), min_size=2, max_size=5)
)
def test_samples_of_several_loads_all_count(loads):
    found = [make_measurement(rounds=(tuple(samples),), scales=(scale,)) for samples, scale in loads]
    joined = found[0]
    for other in found[1:]:
        joined = joined.with_load(other)
    assert joined.loads == len(loads)
    assert joined.samples_s == tuple(sample * scale for samples, scale in loads for sample in samples)
    assert joined.rounds == tuple(tuple(samples) for samples, _ in loads)


def test_what_is_doubted_of_one_load_is_doubted_of_all():
    one = make_measurement(doubts=("waited",), peak_memory_bytes=None, retries=1)
    joined = one.with_load(make_measurement(doubts=("unstable", "waited"), peak_memory_bytes=7, retries=2))
    assert (joined.doubts, joined.peak_memory_bytes, joined.retries) == (("waited", "unstable"), 7, 3)


def test_rows_of_earlier_versions_still_load():
    new = {"scales", "reference_s", "tainted_rounds", "instructions", "cycles", "energy_j", "energy_samples"}
    data = msgspec.to_builtins(make_measurement())
    old = msgspec.convert({key: value for key, value in data.items() if key not in new}, Measurement)
    assert old == make_measurement()
    assert old.scales == () and old.energy_j is None and old.instructions is None


@pytest.mark.parametrize("name", ["reference_s", "instructions", "cycles", "energy_j"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_what_cannot_be_is_refused(name, value):
    with pytest.raises(MeasurementError, match=name):
        make_measurement(**{name: value})


@pytest.mark.parametrize("value", [0, -0.1, float("nan"), "x", None])
def test_what_loads_took_is_a_time(value):
    found = make_measurement(0.01)
    with pytest.raises(MeasurementError, match="repeated_s"):
        msgspec.structs.replace(found, conditions={**found.conditions, "repeated_s": [0.01, value]})
