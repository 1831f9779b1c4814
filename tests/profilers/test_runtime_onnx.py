"""The ONNX Runtime side, on real files."""

import hashlib

import numpy as np
import onnx
import onnx_files
import pytest
import runtime_onnx
from onnx import TensorProto, helper

#: Baselines of different sessions compare only while this is the same model.
REFERENCE_SHA256 = "90e375bc91118daf7c5cf3afeaa2cc32eb36776d88a37c36f4544dcbf6bcf729"
DTYPES = ["float32", "float16", "float64", "uint8", "int8", "uint16", "int16", "int32", "int64", "bool"]


def relu(path, shape):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return str(path)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (), (7,), (1, 300)])
def test_identity_gives_back_what_goes_in(dtype, shape):
    tensor = runtime_onnx.Tensor("a", dtype, shape)
    onnx.checker.check_model(onnx.load_from_string(runtime_onnx.identity([tensor])))
    session = runtime_onnx.load_identity([tensor, tensor], 1, {})
    session()
    session.settle()
    session()
    assert [t[1:] for t in session.outputs] == [(dtype, shape)] * 2
    assert set(session.values()) == {"x0_", "x1_"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_inputs_have_type_and_shape(dtype):
    value = runtime_onnx.draw(np.random.RandomState(0), (4, 50), dtype)
    assert value.dtype == dtype and value.shape == (4, 50)
    assert len(np.unique(value)) >= 2


def test_runs_a_file_with_given_inputs_into_the_same_memory(tmp_path):
    x = np.array([[-1.0, 2.0]], np.float32)
    session = runtime_onnx.load(relu(tmp_path / "m.onnx", [1, 2]), 1, {}, {"x": x})
    session()
    session.settle()
    session()
    assert session.values()["y"].tolist() == [[0.0, 2.0]]
    assert session.outputs == [runtime_onnx.Tensor("y", "float32", (1, 2))]


def test_a_dynamic_batch_is_one(tmp_path):
    session = runtime_onnx.load(relu(tmp_path / "m.onnx", ["batch", 3]), 1, {})
    assert session.inputs[0].shape == (1, 3)


def test_other_dynamic_dimensions_are_named_or_given(tmp_path):
    path = relu(tmp_path / "m.onnx", [1, 3, "height", "width"])
    with pytest.raises(runtime_onnx.Unsupported, match=r"'x'.*height \(axis 2\), width \(axis 3\)"):
        runtime_onnx.load(path, 1, {})
    session = runtime_onnx.load(path, 1, {"sizes": {"height": 4, "width": 5}})
    assert session.inputs[0].shape == (1, 3, 4, 5)


def test_a_provider_that_is_not_there_is_named(tmp_path):
    with pytest.raises(runtime_onnx.Unsupported, match="CoreML"):
        runtime_onnx.load(relu(tmp_path / "m.onnx", [1]), 1, {"providers": ["CoreMLExecutionProvider"]})


def test_the_reference_model_is_the_same_everywhere():
    data = onnx_files.reference()
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    work = 0
    for node, weight in zip([n for n in model.graph.node if n.op_type == "Conv"], model.graph.initializer, strict=True):
        size = 60 if weight.name == "w0" else 30
        work += int(np.prod(weight.dims)) * size * size
        values = onnx.numpy_helper.to_array(weight)
        assert values.std() == pytest.approx((2 / np.prod(weight.dims[1:])) ** 0.5, rel=0.05)
        assert node.input[1] == weight.name
    assert 35e6 < work < 45e6
    assert hashlib.sha256(data).hexdigest() == REFERENCE_SHA256


@pytest.mark.parametrize("threads", [1, 2])
def test_the_reference_model_runs(threads):
    session = runtime_onnx.load_reference(threads, {})
    session()
    session.settle()
    session()
    (values,) = session.values().values()
    assert values.shape == (1, 64, 30, 30)
    assert np.isfinite(values).all() and 0.1 < values.std() < 10


class Recorded:
    """A binding that notes the order of calls."""

    def __init__(self):
        self.calls = []

    def synchronize_outputs(self):
        self.calls.append("wait")


@pytest.mark.parametrize(
    ("providers", "calls"),
    [
        (["CPUExecutionProvider"], ["run"]),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], ["run", "wait"]),
        (["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"], ["run", "wait"]),
    ],
)
def test_outputs_of_a_gpu_are_waited_for(providers, calls):
    class Inner:
        def get_providers(self):
            return providers

        def run_with_iobinding(self, binding):
            binding.calls.append("run")

    binding = Recorded()
    runtime_onnx.Session(Inner(), [], binding)()
    assert binding.calls == calls


def test_waiting_for_outputs_gives_the_same_on_the_processor(tmp_path):
    x = np.array([[-1.0, 2.0]], np.float32)
    session = runtime_onnx.load(relu(tmp_path / "m.onnx", [1, 2]), 1, {}, {"x": x})
    session.on_gpu = True  # the call exists, and works with outputs in the processor's memory
    session()
    session.settle()
    session()
    assert session.values()["y"].tolist() == [[0.0, 2.0]]


def test_a_gpu_is_warmed_up_longer():
    assert runtime_onnx.warmup_s({}) == runtime_onnx.warmup_s({"providers": ["CPUExecutionProvider"]}) == 0.0
    assert runtime_onnx.warmup_s({"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}) == 0.5
