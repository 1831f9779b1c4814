"""The TFLite side, on real files, with whichever of both packages is here."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tflite_files

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed (the extra tflite)")
import runtime_tflite

#: Baselines of different sessions compare only while this is the same model.
REFERENCE_SHA256 = "069ca2d1987b19100116c19e637ceda2768245ea34f15740d6f0bee67fc24a21"
PROFILERS = str(Path(runtime_tflite.__file__).parent)
DTYPES = sorted(tflite_files.CODES)
SHAPES = [(1, 3, 4, 4), (), (7,), (1, 300), (1, 2, 3, 2, 2)]
#: The session options of both ways.
WAYS = [{}, {"xnnpack": False}]


@pytest.fixture
def model(qaedge_data):
    """The path of a third party's file: model(name)."""

    def path(name):
        found = qaedge_data / "models" / f"{name}.tflite"
        if not found.exists():
            pytest.skip(f"QAEDGE_DATA holds no models/{name}.tflite")
        return str(found)

    return path


def written(path, shape=(1, 2, 2, 1), dynamic=()):
    """Write a file that gives back what goes in; `dynamic` axes are open."""
    graph = tflite_files._Graph()
    fields = {7: ("int32s", [-1 if axis in dynamic else size for axis, size in enumerate(shape)])} if dynamic else {}
    source, sink = (graph.tensor(name, tflite_files.CODES["float32"], shape) for name in ("x", "y"))
    for tensor in graph._tensors:
        tensor.update(fields)
    graph.operator(98, [source], sink, 75, {0: ("float32", 0.5)})  # LEAKY_RELU
    graph.inputs.append(source)
    graph.outputs.append(sink)
    path.write_bytes(graph.file("test"))
    return str(path)


@pytest.mark.parametrize("way", WAYS, ids=["xnnpack", "alone"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_identity_gives_back_what_goes_in(shape, dtype, way):
    tensor = runtime_tflite.Tensor("a", dtype, shape)
    session = runtime_tflite.load_identity([tensor, tensor], 1, way)
    value = np.asarray(runtime_tflite.draw(np.random.RandomState(0), shape, dtype)).astype(dtype)
    for found in session._interpreter.get_input_details():
        session._interpreter.set_tensor(found["index"], value)
    session()
    session.settle()
    session()
    assert [t[1:] for t in session.outputs] == [(dtype, shape)] * 2
    assert set(session.values()) == {"x0_", "x1_"}
    for found in session.values().values():
        np.testing.assert_array_equal(found, value)


def test_the_reference_model_is_the_same_everywhere():
    assert hashlib.sha256(tflite_files.reference()).hexdigest() == REFERENCE_SHA256


@pytest.mark.parametrize(("way", "delegate"), [(WAYS[0], "XNNPACK, 3 of 3 operators"), (WAYS[1], "none")])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_reference_model_runs_and_does_the_work_of_the_onnx_one(threads, way, delegate):
    session = runtime_tflite.load_reference(threads, way)
    session()
    session.settle()
    session()
    (values,) = session.values().values()
    assert values.shape == (1, 30, 30, 64) and session.delegate == delegate
    assert np.isfinite(values).all() and 0.1 < values.std() < 10


def test_the_reference_model_computes_what_a_convolution_is():
    torch = pytest.importorskip("torch")
    x = np.random.RandomState(0).standard_normal((1, 60, 60, 16)).astype(np.float32)
    session = runtime_tflite.load_reference(1, {})
    session._interpreter.set_tensor(0, x)
    session()
    (found,) = session.values().values()
    y = torch.from_numpy(x.transpose(0, 3, 1, 2))
    for fan_in, fan_out, stride in tflite_files.REFERENCE:
        data = np.frombuffer(tflite_files.numbers(9 * fan_in * fan_out, 9 * fan_in), np.float32)
        weight = torch.from_numpy(data.reshape(fan_out, 3, 3, fan_in).transpose(0, 3, 1, 2).copy())
        # SAME pads an even size at its end alone, where the stride is 2.
        y = torch.nn.functional.pad(y, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        y = torch.relu(torch.nn.functional.conv2d(y, weight, stride=stride))
    np.testing.assert_allclose(found, y.numpy().transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-3)


def test_runs_a_file_with_given_inputs_that_stay_as_they_are(tmp_path):
    x = np.array([-2.0, -1.0, 0.0, 4.0], np.float32).reshape(1, 2, 2, 1)
    for name in ("x", ""):  # an only input needs no name
        session = runtime_tflite.load(written(tmp_path / "m.tflite"), 1, {}, {name: x})
        session()
        session.settle()
        session()
        assert session.values()["y"].ravel().tolist() == [-1.0, -0.5, 0.0, 4.0]
        assert session.outputs == [runtime_tflite.Tensor("y", "float32", (1, 2, 2, 1))]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"z": np.zeros((1, 2, 2, 1), np.float32)}, r"No values for the input 'x'. .*inputs: x; given: z"),
        ({}, r"No values for the input 'x'.*given: none"),
        ({"x": np.zeros((1, 2, 2, 1))}, r"'x' takes float32 \[1, 2, 2, 1\]; given: float64 \[1, 2, 2, 1\]"),
        ({"x": np.zeros((1, 2, 2), np.float32)}, r"float32 \[1, 2, 2, 1\]; given: float32 \[1, 2, 2\]"),
        ({"x": np.zeros((1, 2, 3, 1), np.float32)}, r"float32 \[1, 2, 2, 1\]; given: float32 \[1, 2, 3, 1\]"),
    ],
)
def test_inputs_that_do_not_fit_are_told_with_what_would(inputs, says, tmp_path):
    with pytest.raises(runtime_tflite.Unsupported, match=says):
        runtime_tflite.load(written(tmp_path / "m.tflite"), 1, {}, inputs)


def test_a_dynamic_batch_is_one_and_other_dimensions_are_named_or_given(tmp_path):
    path = written(tmp_path / "b.tflite", dynamic=(0,))
    assert runtime_tflite.load(path, 1, {}).inputs[0].shape == (1, 2, 2, 1)
    path = written(tmp_path / "d.tflite", (1, 1, 1, 1), dynamic=(0, 1, 2))
    with pytest.raises(runtime_tflite.Unsupported, match=r"'x' has dynamic dimensions: x\[1\], x\[2\]"):
        runtime_tflite.load(path, 1, {})
    session = runtime_tflite.load(path, 1, {"sizes": {"x[1]": 4, "x[2]": 5}})
    session()
    session.settle()
    assert session.inputs[0].shape == session.outputs[0].shape == (1, 4, 5, 1)
    session = runtime_tflite.load(path, 1, {}, {"x": np.zeros((2, 3, 4, 1), np.float32)})
    assert session.inputs[0].shape == (2, 3, 4, 1)
    with pytest.raises(runtime_tflite.Unsupported, match=r"\[any, any, any, 1\]; given: float32 \[2, 3, 4, 2\]"):
        runtime_tflite.load(path, 1, {}, {"x": np.zeros((2, 3, 4, 2), np.float32)})


def test_the_seed_draws_the_inputs(tmp_path):
    found = []
    for seed in (0, 0, 1):
        session = runtime_tflite.load(written(tmp_path / "m.tflite"), 1, {"seed": seed})
        session()
        found.append(session.values()["y"])
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "delegate"),
    [
        ("mobilenet_v1_0.25_128_quant", "XNNPACK, 29 of 31 operators in 2 parts; not AVERAGE_POOL_2D, SOFTMAX"),
        ("tf2_mobilenet_v2_1.0_224_ptq", "XNNPACK, 65 of 68 operators; not QUANTIZE (2), SOFTMAX"),
    ],
)
def test_what_the_delegate_took_is_told(name, delegate, model):
    if not runtime_tflite.VERSION.startswith("ai-edge-litert 2.3"):
        pytest.skip("another version delegates otherwise")
    session = runtime_tflite.load(model(name), 1, {})
    session()
    assert session.delegate == delegate and session.inputs[0].dtype == "uint8"
    assert runtime_tflite.load(model(name), 1, {"xnnpack": False}).delegate == "none"


@pytest.mark.data
@pytest.mark.parametrize("way", WAYS, ids=["xnnpack", "alone"])
@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "tf2_mobilenet_v2_1.0_224_ptq"])
def test_an_input_outlives_a_hundred_runs(name, way, model):
    session = runtime_tflite.load(model(name), 1, way)
    index = session._interpreter.get_input_details()[0]["index"]
    before = session._interpreter.get_tensor(index)
    session()
    (first,) = session.values().values()
    for _ in range(100):
        session()
    (last,) = session.values().values()
    np.testing.assert_array_equal(before, session._interpreter.get_tensor(index))
    np.testing.assert_array_equal(first, last)
    assert len(np.unique(before)) > 200


@pytest.mark.data
def test_an_operator_that_is_not_there_is_named_once(model):
    with pytest.raises(runtime_tflite.Unsupported) as caught:
        runtime_tflite.load(model("model_invoking_error"), 1, {})
    text = str(caught.value)
    assert text.count("fake-op-double") == 1 and runtime_tflite.VERSION in text and "\n" not in text


def test_words_come_once_and_in_one_line():
    error = RuntimeError("one\nSee instructions: http://x\ntwo\none\n")
    assert runtime_tflite._words(error) == "one; two"
    assert runtime_tflite._words(RuntimeError()) == "RuntimeError"
    told = runtime_tflite._reason("Unsupported data type 19 in tensor")
    assert "FULLY_CONNECTED" in told and "INT2" in told


def test_an_import_starts_no_thread_that_a_fork_would_lose():
    code = "import os, runtime_tflite; print(len(os.listdir('/proc/self/task')))"
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": PROFILERS}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "1"


def stand_in(folder, name, version):
    """A package whose interpreter can only be imported."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"__version__ = {version!r}\n")
    (folder / name / "interpreter.py").write_text("Interpreter = OpResolverType = None\n")


@pytest.mark.parametrize(
    ("packages", "numpy", "says"),
    [
        (("ai_edge_litert", "tflite_runtime"), "2.4.6", "ai-edge-litert 7"),
        (("tflite_runtime",), "1.26.4", "tflite-runtime 7"),
        (("tflite_runtime",), "2.4.6", "tflite-runtime needs numpy below 2, and here is 2.4.6"),
        ((), "1.26.4", "pip install ai-edge-litert (Python 3.10 or newer), or pip install tflite-runtime"),
    ],
)
def test_whichever_package_is_there_is_used_and_named(packages, numpy, says, tmp_path):
    for package in packages:
        stand_in(tmp_path, package, "7")
    (tmp_path / "numpy.py").write_text(f"__version__ = {numpy!r}\n")
    paths = [str(tmp_path), PROFILERS]
    code = f"import sys; sys.path[:0] = {paths!r}\nimport runtime_tflite; print(runtime_tflite.VERSION)"
    ran = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    assert says in ran.stdout + ran.stderr
