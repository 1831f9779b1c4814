from __future__ import annotations

import re

import msgspec
import pytest
from scipy.stats import binomtest

from qaedge.errors import InvalidFile
from qaedge.regression.noise import Noise, load_noise, percentile, rate_bound, save_noise

NOISE = Noise("board", {"kernel": "6.1"}, "x", "", 3, (1.0, 0.98, 1.01), (1.04, 0.99), 0, 0, 0, 0.01)


@pytest.mark.parametrize(("events", "tries"), [(0, 1), (0, 1000), (1, 100), (7, 30), (30, 30)])
def test_the_bound_of_a_rate_is_clopper_and_pearsons(events, tries):
    theirs = binomtest(events, tries, alternative="less").proportion_ci(0.95, method="exact").high
    assert rate_bound(events, tries) == pytest.approx(theirs, rel=1e-9)


def test_few_values_have_their_largest_as_floor():
    assert percentile([]) == 0 and percentile([0.2, 0.1]) == 0.2
    assert percentile([number / 100 for number in range(100)]) == 0.95


def test_noise_is_kept_and_read_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_noise("board") is None
    path = save_noise(NOISE)
    assert path.name == "board.noise.json" and load_noise("board") == NOISE
    assert NOISE.floor == pytest.approx(0.02) and NOISE.floor_across == pytest.approx(0.04)


@pytest.mark.parametrize(("old", "new"), [('"version"', 0), ('"comparisons"', 0), ('"format"', '"qaedge baseline"')])
def test_a_file_that_tells_nothing_is_told(old, new, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_noise(NOISE)
    text = re.sub(rf"({old}: ?)[^,}}]+", rf"\g<1>{new}", path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    with pytest.raises(InvalidFile) as found:
        load_noise("board")
    assert "qaedge device noise board" in found.value.hint


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("ratios", (0.0, 1.0), "ratios"), ("false_slower", 9, "false_slower"), ("device", "pi4", "device")],
)
def test_noise_that_no_device_has_is_refused(field, value, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_noise(NOISE)
    wrong = msgspec.structs.replace(NOISE, **{field: value})
    path.write_bytes(msgspec.json.encode(wrong))
    with pytest.raises(InvalidFile, match=said):
        load_noise("board")
