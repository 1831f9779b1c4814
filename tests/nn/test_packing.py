"""Packed integers come back as they were, and lie where files have them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qaedge.errors import UsageError
from qaedge.nn.packing import BITS, pack, packed_size, unpack


@st.composite
def integers(draw):
    bits = draw(st.sampled_from(BITS))
    limit = 2 ** (bits - 1)
    return bits, np.array(draw(st.lists(st.integers(-limit, limit - 1), max_size=37)), np.int8)


@given(integers())
def test_packing_and_back_is_the_identity(drawn):
    bits, values = drawn
    packed = pack(values, bits)
    assert packed.dtype == np.uint8 and len(packed) == packed_size(len(values), bits)
    back = unpack(packed, bits, len(values))
    assert back.dtype == np.int8 and np.array_equal(back, values)


@given(integers())
def test_bytes_are_those_of_onnx(drawn):
    bits, values = drawn
    kind = onnx.TensorProto.INT4 if bits == 4 else onnx.TensorProto.INT2
    tensor = onnx.TensorProto(data_type=kind, dims=[len(values)], raw_data=pack(values, bits).tobytes())
    assert np.array_equal(onnx.numpy_helper.to_array(tensor).astype(int), values.astype(int))


def test_the_first_lies_lowest_and_the_rest_is_zero():
    assert pack(np.array([1, -1, -8]), 4).tolist() == [0xF1, 0x08]
    assert pack(np.array([1, -1, 0, -2, -2]), 2).tolist() == [0b10_00_11_01, 0b10]
    assert pack(np.array([[-8, 7], [-1, 0]]), 4).tolist() == [0x78, 0x0F]
    assert pack(np.array([], np.int8), 2).tolist() == []


@pytest.mark.parametrize(("values", "bits"), [([8], 4), ([-9], 4), ([2], 2), ([-3], 2)])
def test_what_does_not_fit_is_refused(values, bits):
    with pytest.raises(UsageError, match=f"do not fit in {bits} bits"):
        pack(np.array(values), bits)


def test_other_widths_and_too_few_bytes_are_refused():
    with pytest.raises(UsageError, match="Integers of 3 bits are not packed"):
        pack(np.array([1]), 3)
    with pytest.raises(UsageError, match="2 bytes hold 4 integers of 4 bits, not 5"):
        unpack(np.zeros(2, np.uint8), 4, 5)
    assert [packed_size(5, bits) for bits in (2, 4, 7, 8)] == [2, 3, 5, 5]
