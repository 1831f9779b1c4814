"""The TensorRT side, against stand-ins that follow the documented interfaces; no GPU is here."""

import importlib
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import cudart
import engines
import numpy as np
import onnx
import onnx_files
import pytest
import work
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
PROFILERS = HERE.parents[1] / "profilers"


@pytest.fixture
def fresh(monkeypatch):
    """The stand-ins, as if just installed: nothing is started, nothing is counted."""
    monkeypatch.syspath_prepend(HERE)
    for name in ("cuda_standin", "tensorrt", "tensorrt_standin", "runtime_tensorrt"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    standin = importlib.import_module("tensorrt_standin")
    monkeypatch.setitem(sys.modules, "tensorrt", standin)
    monkeypatch.setattr(cudart, "_load", lambda: standin.cuda_standin.LIBRARY)
    yield standin
    for name in ("cuda_standin", "tensorrt_standin", "runtime_tensorrt"):
        sys.modules.pop(name, None)


@pytest.fixture
def runtime(fresh, monkeypatch, tmp_path):
    """The module, with what it does in another process done in this one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    module = importlib.import_module("runtime_tensorrt")
    monkeypatch.setattr(module, "apart", lambda do: do())
    return module


def save(path, nodes, shape=(1, 4), dtype=TensorProto.FLOAT, initializer=()):
    value = [helper.make_tensor_value_info(name, dtype, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], list(initializer))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return str(path)


def relu(path, shape=(1, 4), **kwargs):
    return save(path, [helper.make_node("Relu", ["x"], ["y"])], shape, **kwargs)


def quantized(path, zero_point):
    constants = [
        numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(np.int8(zero_point), "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    return save(path, nodes, initializer=constants)


def flags_of(engine):
    return json.loads(engine)["flags"]


def test_runs_a_file_with_given_inputs(runtime, tmp_path):
    x = np.arange(4, dtype=np.float32).reshape(1, 4)
    session = runtime.load(relu(tmp_path / "m.onnx"), 1, {}, {"x": x})
    session()
    session.settle()
    assert session.values()["y"].tolist() == x.tolist()
    assert session.inputs == [runtime.Tensor("x", "float32", (1, 4))]
    assert session.outputs == [runtime.Tensor("y", "float32", (1, 4))]


def test_random_inputs_are_the_same_each_time(runtime, tmp_path):
    path = relu(tmp_path / "m.onnx", (3, 50))
    found = []
    for seed in (0, 0, 1):
        session = runtime.load(path, 1, {"seed": seed})
        session()
        found.append(session.values()["y"])
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()


def test_inputs_of_another_shape_are_refused(runtime, tmp_path):
    with pytest.raises(runtime.Unsupported, match=r"'x' takes float32 \[.*\]; given: float64 \["):
        runtime.load(relu(tmp_path / "m.onnx"), 1, {}, {"x": np.zeros(4)})


def test_time_is_what_the_events_say(runtime, fresh, tmp_path):
    session = runtime.load(relu(tmp_path / "m.onnx"), 1, {})
    assert [session.timed(n) for n in (1, 7)] == [fresh.RUN_NS, 7 * fresh.RUN_NS]


def test_a_round_is_timed_by_events_after_a_warm_up_that_a_gpu_needs(runtime, fresh, tmp_path):
    settings = {
        "sample_s": 5e-3,
        "warmup_runs": 3,
        "warmup_s": 0.1,
        "warmup_limit_s": 2.0,
        "warmup_window": 5,
        "warmup_within": 0.02,
        "rewarm_runs": 2,
        "rewarm_s": 0.005,
        "round_samples": 10,
        "round_s": 0.05,
        "overhead_s": 0.001,
        "quiet_share": 4.0,
    }
    order = {"threads": 1, "options": {}, "settings": settings}
    candidate = work.Work(runtime, relu(tmp_path / "m.onnx"), order)
    found = candidate.answer({"type": "round", "overheads": {}, "canary": {}})
    assert found["type"] == "round", found
    assert set(found["samples_ns"]) == {3 * fresh.RUN_NS} and found["repeats"] == 3
    assert sum(found["warmup_ns"]) >= 0.5e9 / 3 and found["warm"]
    assert found["overhead_ns"] == fresh.cuda_standin.COPY_NS
    assert found["canary"] == {}, "a GPU shares no core"
    again = candidate.answer({"type": "round", "overheads": {}, "canary": {}})
    assert set(again["samples_ns"]) == {3 * fresh.RUN_NS}


def test_the_identity_copies_its_tensors(runtime, fresh):
    tensors = [runtime.Tensor("a", "int8", (1, 3)), runtime.Tensor("b", "float16", ())]
    session = runtime.load_identity(tensors, 1, {})
    session()
    assert [t[1:] for t in session.outputs] == [t[1:] for t in tensors]
    assert session.values()["x0_"].any()
    assert session.timed(2) == 2 * 2 * fresh.cuda_standin.COPY_NS
    assert fresh.builds == 0


def test_the_reference_model_is_built_once(runtime, fresh):
    for _ in range(2):
        session = runtime.load_reference(1, {})
        session()
    assert session.inputs[0].shape == (1, 16, 60, 60) and fresh.builds == 1


def test_memory_is_given_back(runtime, fresh, tmp_path):
    session = runtime.load(relu(tmp_path / "m.onnx"), 1, {})
    assert len(fresh.cuda_standin.LIBRARY.memory) == 2
    del session
    assert not fresh.cuda_standin.LIBRARY.memory


def test_too_little_memory_is_told_with_the_function(runtime, fresh, tmp_path):
    path = relu(tmp_path / "m.onnx")
    fresh.cuda_standin.LIBRARY.memory_bytes = 20
    with pytest.raises(cudart.CudaError, match=r"cudaMalloc: out of memory \(2\)"):
        runtime.load(path, 1, {})


def test_an_engine_that_does_not_run_is_told(runtime, fresh, tmp_path, monkeypatch):
    session = runtime.load(relu(tmp_path / "m.onnx"), 1, {})
    monkeypatch.setattr(fresh.Context, "execute_async_v3", lambda self, stream: False)
    with pytest.raises(runtime.Failed, match="did not run"):
        session()


# What is built.


def test_half_precision_is_allowed_unless_told_otherwise(runtime, fresh, tmp_path):
    path = relu(tmp_path / "m.onnx")
    assert flags_of(runtime.prepare(path, 1, {})) == [fresh.BuilderFlag.FP16]
    assert flags_of(runtime.prepare(path, 1, {"fp16": False})) == []
    assert fresh.builds == 2


def test_quantized_files_are_built_in_int8(runtime, fresh, tmp_path):
    found = runtime.prepare(quantized(tmp_path / "q.onnx", 0), 1, {})
    assert flags_of(found) == [fresh.BuilderFlag.FP16, fresh.BuilderFlag.INT8]


def test_from_tensorrt_11_on_there_are_no_precision_flags(runtime, fresh, tmp_path, monkeypatch):
    for owner, name in (
        (fresh.BuilderFlag, "FP16"),
        (fresh.BuilderFlag, "INT8"),
        (fresh.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"),
    ):
        monkeypatch.delattr(owner, name)
    assert flags_of(runtime.prepare(quantized(tmp_path / "q.onnx", 0), 1, {})) == []


def test_a_refused_file_is_told_in_tensorrts_words(runtime, tmp_path):
    words = "cannot read this file: Non-zero zero point is not supported. TensorRT wants .*--runtime onnxruntime"
    with pytest.raises(runtime.Failed, match=words):
        runtime.prepare(quantized(tmp_path / "q.onnx", 3), 1, {})
    path = save(tmp_path / "m.onnx", [helper.make_node("NoSuchOp", ["x"], ["y"])])
    with pytest.raises(runtime.Failed, match="No importer registered for op: NoSuchOp"):
        runtime.prepare(path, 1, {})
    (tmp_path / "n.onnx").write_bytes(b"no network")
    with pytest.raises(runtime.Failed, match="Failed to parse"):
        runtime.prepare(str(tmp_path / "n.onnx"), 1, {})


def test_a_failure_of_the_builder_holds_what_it_logged_as_errors(runtime, tmp_path):
    path = save(tmp_path / "m.onnx", [helper.make_node("Softmax", ["x"], ["y"])])
    with pytest.raises(runtime.Failed, match="cannot build this network: Could not find any implementation") as caught:
        runtime.prepare(path, 1, {})
    assert "optimization time" not in str(caught.value)
    assert not list(Path(engines.Engines().folder).iterdir())


def test_a_dynamic_batch_is_one(runtime, tmp_path):
    session = runtime.load(relu(tmp_path / "m.onnx", ("batch", 3)), 1, {})
    session()
    assert session.inputs[0].shape == session.outputs[0].shape == (1, 3)


def test_other_dynamic_dimensions_are_refused_by_axis(runtime, tmp_path):
    with pytest.raises(runtime.Unsupported, match=r"'x' has dynamic dimensions: axis 2, axis 3\. Export it with fixed"):
        runtime.prepare(relu(tmp_path / "m.onnx", (1, 3, "height", "width")), 1, {})


def test_outputs_that_depend_on_the_data_are_refused(runtime, tmp_path):
    path = save(tmp_path / "m.onnx", [helper.make_node("NonZero", ["x"], ["y"])])
    with pytest.raises(runtime.Unsupported, match="'y' depends on the data"):
        runtime.load(path, 1, {})


def test_types_that_numpy_lacks_are_refused(runtime, tmp_path):
    with pytest.raises(runtime.Unsupported, match="'x' is BF16; known: FLOAT, HALF"):
        runtime.load(relu(tmp_path / "m.onnx", dtype=TensorProto.BFLOAT16), 1, {})


# What is kept.


def test_an_engine_is_kept_and_found_again(runtime, fresh, tmp_path):
    path = relu(tmp_path / "m.onnx")
    first = runtime.prepare(path, 1, {})
    assert runtime.prepare(path, 2, {"seed": 5}) == first
    assert fresh.builds == 1
    (kept,) = (tmp_path / ".cache/qaedge/engines").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.parent.stat().st_mode) == stat.S_IMODE(kept.parents[1].stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["file", "version", "gpu", "capability"])
def test_anything_that_matters_makes_another_engine(runtime, fresh, tmp_path, monkeypatch, what):
    path = relu(tmp_path / "m.onnx")
    runtime.prepare(path, 1, {})
    if what == "file":
        path = relu(tmp_path / "n.onnx", (1, 5))
    elif what == "version":
        monkeypatch.setattr(runtime, "VERSION", "10.3.0")
    elif what == "gpu":
        monkeypatch.setattr(fresh.cuda_standin, "NAME", b"Thor")
    else:
        monkeypatch.setattr(fresh.cuda_standin, "CAPABILITY", (9, 0))
    runtime.prepare(path, 1, {})
    assert fresh.builds == 2


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: b"", lambda d: d[:40] + b"?" + d[41:]])
def test_a_damaged_engine_is_built_again(runtime, fresh, tmp_path, damage):
    path = relu(tmp_path / "m.onnx")
    first = runtime.prepare(path, 1, {})
    (kept,) = (tmp_path / ".cache/qaedge/engines").iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert runtime.prepare(path, 1, {}) == first and fresh.builds == 2
    assert runtime.prepare(path, 1, {}) == first and fresh.builds == 2


def test_an_engine_that_tensorrt_no_longer_takes_is_built_again(runtime, fresh, tmp_path, monkeypatch):
    path = relu(tmp_path / "m.onnx")
    runtime.prepare(path, 1, {})
    monkeypatch.setattr(fresh, "__version__", "8.6.3")  # a library was updated, and the package not
    assert json.loads(runtime.prepare(path, 1, {}))["version"] == "8.6.3"


def test_a_full_disk_does_not_stop_measuring(tmp_path, monkeypatch):
    kept = engines.Engines(str(tmp_path))

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert not kept.write("k", b"engine")
    assert kept.read("k") is None and not list(Path(kept.folder).iterdir())


def test_engines_that_were_not_used_for_longest_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "LIMIT", 3 * (100 + 32))
    kept = engines.Engines(str(tmp_path))
    for number, name in enumerate("abc"):
        assert kept.write(name, bytes(100))
        os.utime(Path(kept.folder) / f"{name}.engine", (number, number))
    assert kept.read("a") is not None  # now the newest
    assert kept.write("d", bytes(100))
    assert sorted(path.stem for path in Path(kept.folder).iterdir()) == ["a", "c", "d"]


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    engines.Engines(str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(engines.Refused, match=r"\.cache/qaedge is not a folder of the user's own"):
        engines.Engines(str(tmp_path))


def test_a_link_in_its_place_is_refused(tmp_path):
    (tmp_path / ".cache").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".cache/qaedge").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(engines.Refused, match="not a folder of the user's own"):
        engines.Engines(str(tmp_path))


def test_a_folder_that_others_may_write_to_is_closed(tmp_path):
    folder = Path(engines.Engines(str(tmp_path)).folder)
    folder.chmod(0o777)
    engines.Engines(str(tmp_path))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_where_no_folder_can_be_made_it_is_told(tmp_path):
    (tmp_path / ".cache").write_text("a file")
    with pytest.raises(engines.Refused, match=r"\.cache/qaedge cannot be made"):
        engines.Engines(str(tmp_path))


# Processes: in an interpreter of its own, because a fork wants no other threads.


SCRIPT = """
import os, sys
sys.path[:0] = [{here!r}, {profilers!r}]
import tensorrt_standin
sys.modules["tensorrt"] = tensorrt_standin
import cudart, runtime_tensorrt
library = tensorrt_standin.cuda_standin.LIBRARY
cudart._load = lambda: library
assert library.started_by is None, "CUDA was started by an import"
"""


def script(tmp_path, text):
    whole = SCRIPT.format(here=str(HERE), profilers=str(PROFILERS)) + text
    environment = {**os.environ, "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_building_starts_cuda_in_a_process_of_its_own(tmp_path):
    path = relu(tmp_path / "m.onnx")
    said = script(
        tmp_path,
        f"""
for _ in range(2):
    engine = runtime_tensorrt.prepare({path!r}, 1, {{}})
    assert library.started_by is None, "CUDA was started before a fork"
session = runtime_tensorrt.load({path!r}, 1, {{}}, None, engine)
session()
print(tensorrt_standin.builds, session.timed(3), library.started_by == os.getpid())
""",
    )
    assert said.split() == ["0", "6000000", "True"]
    assert len(list((tmp_path / ".cache/qaedge/engines").iterdir())) == 1


def test_the_stand_in_notices_cuda_that_was_started_before_a_fork(tmp_path):
    path = relu(tmp_path / "m.onnx")
    said = script(
        tmp_path,
        f"""
cudart.Cuda().device()
try:
    runtime_tensorrt.prepare({path!r}, 1, {{}})
except runtime_tensorrt.Failed as error:
    print(error)
""",
    )
    assert "initialization error" in said


def test_what_building_raises_keeps_its_kind_and_text(tmp_path):
    dynamic = relu(tmp_path / "d.onnx", (1, "n"))
    refused = save(tmp_path / "r.onnx", [helper.make_node("Softmax", ["x"], ["y"])])
    said = script(
        tmp_path,
        f"""
for path in ({dynamic!r}, {refused!r}):
    try:
        runtime_tensorrt.prepare(path, 1, {{}})
    except Exception as error:
        print(type(error).__name__, error)
try:
    runtime_tensorrt.apart(lambda: os.kill(os.getpid(), 9))
except runtime_tensorrt.Failed as error:
    print(error)
""",
    ).splitlines()
    assert said[0].startswith("Unsupported The input 'x' has dynamic dimensions")
    assert said[1].startswith("Failed TensorRT cannot build this network: Could not find")
    assert said[2] == "The process that builds the engine ended: wait status 9. Memory may have run out."


def test_building_ends_with_the_process_that_waits_for_it(tmp_path):
    said = script(
        tmp_path,
        """
import signal, time
source, sink = os.pipe()
middle = os.fork()
if middle == 0:
    def work():
        os.write(sink, str(os.getpid()).encode())
        time.sleep(60)
    runtime_tensorrt.apart(work)
builder = int(os.read(source, 20))
os.kill(middle, signal.SIGKILL)
os.waitpid(middle, 0)
for _ in range(100):
    try:
        if open("/proc/%d/stat" % builder).read().rpartition(")")[2].split()[0] == "Z":
            break
    except OSError:
        break
    time.sleep(0.05)
else:
    print("alive")
print("gone")
""",
    )
    assert said.split() == ["gone"]


def test_a_board_without_it_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.delitem(sys.modules, "runtime_tensorrt", raising=False)
    with pytest.raises(ImportError, match=r"sudo apt install python3-libnvinfer; .* --system-site-packages"):
        importlib.import_module("runtime_tensorrt")


def test_the_gpu_is_asked_by_either_name(fresh):
    class Later(fresh.cuda_standin.Library):
        cudaGetDeviceProperties_v2 = fresh.cuda_standin.Library.cudaGetDeviceProperties

        def __getattribute__(self, name):
            if name == "cudaGetDeviceProperties":
                raise AttributeError(name)
            return super().__getattribute__(name)

    for library in (fresh.cuda_standin.Library(), Later()):
        assert cudart.Cuda(library).device() == ("Orin", "8.7")


def test_a_board_without_cudas_library_is_told(monkeypatch):
    monkeypatch.setattr(cudart, "PLACES", ("libnowhere.so.99",))
    with pytest.raises(cudart.CudaError, match=r"not here \(libnowhere\.so\.99\)"):
        cudart.Cuda()


def test_the_reference_is_a_file_that_the_stand_in_reads():
    onnx.checker.check_model(onnx.load_from_string(onnx_files.reference()))
