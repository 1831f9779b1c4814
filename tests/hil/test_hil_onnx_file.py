"""External tensors are found wherever a file may hide one."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qaedge.hil.onnx_file import external_tensor


def tensor(external):
    found = numpy_helper.from_array(np.ones((2, 2), np.float32), "hidden")
    if external:
        found.ClearField("raw_data")
        found.data_location = TensorProto.EXTERNAL
        entry = found.external_data.add()
        entry.key, entry.value = "location", "../../etc/passwd"
    return found


def initializer(t):
    return helper.make_model(helper.make_graph([], "g", [], [], [t]))


def constant(t):
    return helper.make_model(helper.make_graph([helper.make_node("Constant", [], ["y"], value=t)], "g", [], []))


def inner_graph(t):
    inner = helper.make_graph([], "inner", [], [], [t])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    return helper.make_model(helper.make_graph([node], "g", [], []))


def function(t):
    node = helper.make_node("Constant", [], ["y"], value=t)
    made = helper.make_function("d", "F", [], ["y"], [node], [helper.make_opsetid("", 17)])
    return helper.make_model(helper.make_graph([], "g", [], []), functions=[made])


def sparse(t):
    model = helper.make_model(helper.make_graph([], "g", [], []))
    model.graph.sparse_initializer.add().values.CopyFrom(t)
    return model


@pytest.mark.parametrize("make", [initializer, constant, inner_graph, function, sparse])
def test_external_tensors_are_found(make):
    assert external_tensor(make(tensor(True)).SerializeToString()) == "hidden"
    assert external_tensor(make(tensor(False)).SerializeToString()) is None


def test_a_file_saved_in_two_is_found(tmp_path):
    onnx.save(
        initializer(tensor(False)), tmp_path / "m.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    assert external_tensor((tmp_path / "m.onnx").read_bytes()) == "hidden"


@given(st.binary(max_size=300))
def test_any_bytes_are_looked_at(data):
    external_tensor(data)


@given(st.integers(min_value=0, max_value=10**6))
def test_a_cut_file_is_looked_at(at):
    data = inner_graph(tensor(True)).SerializeToString()
    external_tensor(data[: at % len(data)])
