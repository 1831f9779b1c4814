"""Packed weights unpacked by hand, against the `onnx` package."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import unpack
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

KINDS = {4: TensorProto.INT4, 2: TensorProto.INT2}


def model(tensors, opset=25, ir=13):
    graph = helper.make_graph(
        [helper.make_node("Identity", [t.name], [f"{t.name}_out"]) for t in tensors],
        "g",
        [],
        [helper.make_tensor_value_info(f"{t.name}_out", t.data_type, list(t.dims)) for t in tensors],
        initializer=tensors,
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    )
    made.ir_version = ir
    return made


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([2, 4]), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.randoms(use_true_random=False))
def test_integers_come_out_as_they_went_in(bits, shape, random):
    count = int(np.prod(shape))
    limit = 2 ** (bits - 1)
    values = np.array([random.randint(-limit, limit - 1) for _ in range(count)], np.int8).reshape(shape)
    few = helper.make_tensor("few", KINDS[bits], shape, values.ravel().tolist())
    raw = TensorProto(name="few", data_type=KINDS[bits], dims=shape, raw_data=b"")
    per = 8 // bits
    padded = np.zeros(-(-count // per) * per, np.int64)
    padded[:count] = values.ravel() & (2**bits - 1)
    raw.raw_data = bytes(int(sum(v << (bits * i) for i, v in enumerate(row))) for row in padded.reshape(-1, per))
    assert (numpy_helper.to_array(raw).astype(np.int8) == numpy_helper.to_array(few).astype(np.int8)).all()
    plain = numpy_helper.from_array(np.arange(6, dtype=np.float32), "plain")
    found = onnx.load_from_string(unpack.unpacked(model([raw, plain]).SerializeToString()))
    given_, kept = found.graph.initializer
    assert given_.data_type == TensorProto.INT8 and (numpy_helper.to_array(given_) == values).all()
    assert kept == plain and given_.name == "few"
    assert found.ir_version == 10 and {o.domain: o.version for o in found.opset_import} == {"": 21, "com.microsoft": 1}


def test_a_file_without_them_is_the_same_bytes():
    data = model([numpy_helper.from_array(np.arange(6, dtype=np.int8), "plain")], 21, 10).SerializeToString()
    assert unpack.unpacked(data) is data


@pytest.mark.parametrize("cut", [1, 7, 40, 90])
def test_what_is_cut_off_is_left_to_the_runtime(cut):
    raw = TensorProto(name="few", data_type=KINDS[4], dims=[5], raw_data=b"\x01\x02\x03")
    data = model([raw]).SerializeToString()
    assert unpack.unpacked(data[:-cut]) == data[:-cut]


def test_too_few_bytes_for_the_shape_are_left_to_the_runtime():
    raw = TensorProto(name="few", data_type=KINDS[4], dims=[50], raw_data=b"\x01\x02\x03")
    data = model([raw]).SerializeToString()
    assert unpack.unpacked(data) == data
