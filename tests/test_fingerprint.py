"""Fingerprints: what differs is named with both values, and the newest row is the measure."""

from __future__ import annotations

import msgspec
import pytest
from synthetic import make_measurement

from qaedge.fingerprint import Difference, differences, fingerprint_of, strangers


def test_what_differs_is_named_with_both_values():
    one, other = {"a": 1, "b": "x", "c": ""}, {"a": 2, "b": "x", "d": (1, 2)}
    assert differences(one, other) == (Difference("a", 1, 2), Difference("d", None, [1, 2]))
    assert differences(one, other, ["d"]) == (Difference("d", None, [1, 2]),)
    assert [str(d) for d in differences(one, other)] == ["a is 1, and not 2", "d is nothing, and not [1, 2]"]


@pytest.mark.parametrize("empty", ["", {}, [], (), None])
def test_what_is_empty_is_absent(empty):
    assert differences({"governor": empty}, {}) == ()


def test_the_newest_row_is_the_measure():
    old = make_measurement()
    new = msgspec.structs.replace(old, started_at="2099-01-01T00:00:00+00:00", threads=old.threads + 1)
    assert strangers({"a": old, "b": new, "c": old}) == {
        key: (Difference("threads", old.threads, new.threads),) for key in "ac"
    }
    assert strangers({"a": old, "c": old}) == strangers({}) == {}


def test_pinning_belongs_to_it():
    pinned = msgspec.structs.replace(make_measurement(), settings={"pin": True, "seed": 3})
    assert fingerprint_of(pinned)["pin"] is True and "seed" not in fingerprint_of(pinned)
