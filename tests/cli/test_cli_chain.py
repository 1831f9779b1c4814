"""The chain through the command line, on a tiny teacher: distill, profile, search, build, export, bench."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import onnx
import pytest
from PIL import Image
from test_cli_distill import until
from tiny_scenes import write_project

from qaedge import cli
from qaedge.architecture import Architecture
from qaedge.files import only_one
from qaedge.nn.build import build_student
from qaedge.nn.manifest import Manifest
from qaedge.nn.onnx_session import OnnxSession
from qaedge.nn.parity import BOUNDS, Bounds
from qaedge.nn.student import StudentReport, file_miou, is_built, open_splits, student_folder
from qaedge.nn.teacher import load_teacher
from qaedge.project import Workspace
from qaedge.space import SearchSpace

EPOCHS = 15


class Project(msgspec.Struct):
    """A project with its chain run, or a copy of one."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "qaedge.toml"

    @property
    def workspace(self) -> Workspace:
        return Workspace.open(self.file)

    @property
    def space(self) -> SearchSpace:
        return SearchSpace.load(self.workspace.space_json)

    def student(self, name: str) -> Path:
        return student_folder(self.workspace, self.space, name)


def command(project: Project, *arguments: object) -> None:
    assert cli.run([*map(str, arguments), "--project", str(project.file), "--quiet"]) == 0


def save_architecture(project: Project, path: Path, indices: tuple[int, ...]) -> None:
    """Write an architecture by hand: candidate numbers per block."""
    own = Architecture.own(project.space)
    choices = tuple(
        msgspec.structs.replace(c, spec=str((k := b.candidates[i]).spec), scheme=str(k.scheme), index=i)
        for c, b, i in zip(own.choices, project.space.blocks, indices, strict=True)
    )
    msgspec.structs.replace(own, choices=choices, loss=0.5).save(path)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Every command once; the tests below look at what is there then."""
    project = Project(tmp_path_factory.mktemp("chain"))
    write_project(project.folder)
    command(project, "distill")
    command(project, "profile", "--device", "local", "--wait", "4min")
    command(project, "search", "--latency", "none", "--output", project.folder / "best.json")
    save_architecture(project, project.folder / "small.json", (1, 2, 1))
    command(project, "build", "--teacher")
    command(project, "build", project.folder / "small.json")
    for name in ("teacher", "small"):
        command(project, "export", name, "--output", project.folder / f"{name}.onnx")
    return project


@pytest.fixture
def copy(chain: Project, tmp_path: Path) -> Project:
    """The same project in a folder that a test may spoil."""
    shutil.copytree(chain.folder, tmp_path / "copy")
    return Project(tmp_path / "copy")


@pytest.mark.slow
def test_the_student_is_what_was_chosen(chain):
    report = msgspec.json.decode((chain.student("small") / "student.json").read_bytes(), type=StudentReport)
    assert (report.name, report.epochs, report.scheme) == ("small", 1, "w7a8")
    assert report.after is not None and report.kept in ("before", "after")
    assert all(0 <= v <= 1 for s in (report.before, report.after) for v in (s.miou, s.float_miou))
    assert report.miou == max(report.before.miou, report.after.miou)
    assert len(report.calibration_images) == 4 and report.form_reason.startswith("as it was measured on local")

    teacher = msgspec.json.decode((chain.student("teacher") / "student.json").read_bytes(), type=StudentReport)
    assert report.size_bytes < teacher.size_bytes
    _, val = open_splits(chain.workspace)
    *_, last = file_miou(chain.folder / "small.onnx", val)
    assert last.result.miou == pytest.approx(report.miou)


def test_the_manifest_says_what_the_file_is(chain):
    path = chain.folder / "small.onnx"
    found = msgspec.json.decode(Path(f"{path}.json").read_bytes(), type=Manifest)
    data = path.read_bytes()
    assert (found.file, found.sha256, found.size_bytes) == (
        "small.onnx",
        hashlib.sha256(data).hexdigest(),
        len(data),
    )
    graph = onnx.load(path).graph
    for end, said in ((graph.input[0], found.input), (graph.output[0], found.output)):
        shape = tuple(d.dim_value for d in end.type.tensor_type.shape.dim)
        assert (end.name, shape, said.type) == (said.name, said.shape, "float32")
        assert end.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert found.input.mean == (0.5, 0.5, 0.5) and found.output.void == 255
    assert found.output.classes[0] == "sky" and len(found.output.classes) == found.output.shape[1] == 8
    assert (found.scheme, found.format, found.space_hash) == ("w7a8", "onnx", chain.space.hash)
    assert list(found.architecture) == ["stage1", "stage3", "head"]
    assert found.machine.processor and {"qaedge", "python", "torch", "onnxruntime"} <= found.versions.keys()
    assert found.architecture["head"] == "poolcontext_k1_c8+logits_c8 w7a8"
    assert found.teacher == load_teacher(chain.workspace).digest
    # How many classes are as good as even is the network's, and that differs from machine to machine.
    assert found.parity.same_decided is not None and found.parity.same_decided >= 0.995
    assert found.parity.same_class is not None and found.parity.same_class >= 0.97 and found.parity.images == 4
    assert found.predicted.loss == 0.5 and found.predicted.latency_s is None
    assert len(found.calibration_images) == 4 and "torch" in found.versions
    assert OnnxSession(path).dtype == "float32"


def test_predicted_and_measured_stand_side_by_side(chain, qaedge, tmp_path):
    project = ("--project", chain.file)
    assert qaedge("build", chain.folder / "best.json", "--epochs", "0", *project, "--quiet").status == 0
    ran = qaedge("export", chain.folder / "best.json", "--output", tmp_path / "best.onnx", *project, "--json")
    assert ran.status == 0, ran.err
    (row,) = json.loads(ran.out)
    assert row["same_class"] >= 0.97 and Path(row["file"]).is_file() and Path(row["manifest"]).is_file()
    ran = qaedge("bench", chain.folder / "teacher.onnx", tmp_path / "best.onnx", *project, "--json", "--quiet")
    assert ran.status == 0, ran.err
    teacher, best = json.loads(ran.out)
    assert best["predicted_s"] > 0 and best["median_s"] > 0 and teacher["predicted_s"] is None


def test_building_again_repeats_nothing(chain, qaedge):
    before = (chain.student("small") / "after.safetensors").read_bytes()
    ran = qaedge("build", chain.folder / "small.json", "--project", chain.file)
    assert ran.status == 0 and "epoch 1/1" not in ran.err
    assert "small, after fine-tuning" in ran.out and "Next: qaedge export small" in ran.err
    assert (chain.student("small") / "after.safetensors").read_bytes() == before
    assert len(list(chain.student("small").glob("finetune-*.pt"))) == 1


def test_a_student_is_built_by_one_at_a_time(copy, qaedge):
    with only_one(copy.student("small") / "build.lock", "building"):
        ran = qaedge("build", copy.folder / "small.json", "--project", copy.file)
    assert ran.status == 1 and "is building small in" in " ".join(ran.err.split())


def test_another_architecture_of_the_same_name_starts_anew(copy, qaedge):
    save_architecture(copy, copy.folder / "small.json", (0, 4, 0))
    before = (copy.student("small") / "after.safetensors").read_bytes()
    ran = qaedge("build", copy.folder / "small.json", "--project", copy.file, "--json")
    assert ran.status == 0, ran.err
    assert (copy.student("small") / "after.safetensors").read_bytes() != before
    assert qaedge("export", "small", "-o", copy.folder / "other.onnx", "--project", copy.file).status == 0
    found = json.loads((copy.folder / "other.onnx.json").read_text())
    assert found["architecture"]["stage3"] == "ir_k3_s2_e6_c8 w7a8"
    assert found["size_bytes"] == json.loads(ran.out)[0]["size_bytes"]


def test_other_settings_are_another_student(copy):
    folder, config = copy.student("small"), copy.workspace.project.finetune
    chosen = Architecture.load(copy.folder / "small.json", copy.space)
    assert is_built(folder, chosen, config)
    assert not is_built(folder, Architecture.own(copy.space), config)
    assert not is_built(folder, chosen, msgspec.structs.replace(config, learning_rate=1e-4))
    assert not is_built(copy.student("nobody"), chosen, config)
    report = json.loads((folder / "student.json").read_text())
    del report["finetune"]  # as older builds wrote it
    (folder / "student.json").write_text(json.dumps(report))
    assert not is_built(folder, chosen, config)


def test_mixed_bits_reach_the_file(copy, qaedge, monkeypatch, tmp_path):
    """stage3 in 4 bits, the rest in 7: each block keeps its own."""
    index = next(i for i, c in enumerate(copy.space.block("stage3").candidates) if str(c.scheme) == "w4a8")
    save_architecture(copy, copy.folder / "mixed.json", (0, index, 0))
    assert qaedge("build", copy.folder / "mixed.json", "--epochs", 0, "--project", copy.file, "--quiet").status == 0
    weights = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load(copy.student("mixed") / "before.onnx").graph.initializer
        if t.name.endswith("weight/q")
    }
    assert {abs(w.astype(int)).max() for name, w in weights.items() if name.startswith("features_3_")} == {7}
    assert {abs(w.astype(int)).max() for name, w in weights.items() if not name.startswith("features_3_")} == {63}

    pytest.importorskip("ai_edge_litert", reason="needs the extra tflite")
    monkeypatch.chdir(tmp_path)
    words = ("export", "mixed", "--format", "onnx,tflite", "--project", copy.file)
    ran = qaedge(*words, "--json")
    assert ran.status == 0, ran.err
    few = len([name for name in weights if name.startswith("features_3_")])
    sizes = {row["format"]: row["size_bytes"] for row in json.loads(ran.out)}
    for row, (stored, executed) in zip(json.loads(ran.out), (("INT4", "INT8"), ("INT4", "INT4")), strict=True):
        manifest = msgspec.json.decode(Path(row["manifest"]).read_bytes(), type=Manifest)
        assert [msgspec.to_builtins(group) for group in manifest.weights] == row["weights"]
        assert manifest.smallest_bytes == row["smallest_bytes"] == sizes
        four = {group.stored: group for group in manifest.weights if group.bits == 4}
        assert four[stored].executed == executed and sum(group.layers for group in four.values()) == few
        assert ("profilers/unpack.py" in manifest.loading) == (row["format"] == "onnx")
    assert {group.stored for group in manifest.weights if group.bits == 4} == {"INT4", "INT8"}, "depthwise: a byte each"
    ran = qaedge(*words)
    shown = " ".join(ran.out.split())
    total = len(weights)
    assert f"mixed.onnx: 4-bit weights: {few} of {total} layers, stored packed, unpacked to INT8 on load for" in shown
    assert f"mixed.tflite: 4-bit weights: 1 of {total} layers, stored as INT8, a byte each (TFLite packs" in shown
    assert "the smallest file that holds these weights:" in shown


# What goes wrong


def spoiled(project: Project, path: str, change: Callable[[bytes], bytes]) -> None:
    file = project.folder / path
    file.write_bytes(change(file.read_bytes()))


def test_an_architecture_of_another_space_is_refused(copy, qaedge):
    spoiled(copy, "space.toml", lambda b: b.replace(b"[2, 6]", b"[2, 3]"))
    ran = qaedge("build", copy.folder / "small.json", "--project", copy.file)
    assert ran.status == 1 and "small.json: space_hash: expected" in ran.err and "qaedge search" in ran.err


def test_blocks_that_were_not_distilled_are_named(copy, qaedge):
    shutil.rmtree(copy.workspace.weights_folder(copy.space.origin))
    ran = qaedge("build", copy.folder / "small.json", "--project", copy.file)
    assert ran.status == 1 and "Run: qaedge distill" in ran.err
    assert all(text in ran.err for text in ("stage1 conv_k3", "stage3 ir_k3", "head poolcontext"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "nobody"), "Make it with: qaedge build"),
        (("build", "--teacher", "--name", "../../../evil"), "'../../../evil' is no name of a student"),
        (("build", "--teacher", "--name", ".hidden"), "is no name of a student"),
        (("build", "--teacher", "--name", ""), "is no name of a student"),
        (("export", "../small"), "is no name of a student"),
        (("build",), "Name an architecture or ask for --teacher"),
        (("build", "nothing.json"), "No file nothing.json"),
        (("build", "--teacher", "--device", "pi9"), "No device 'pi9'"),
        (("search", "--latency", "1ns"), "No network"),
        (("search", "--size", "1B"), "No network"),
    ],
)
def test_what_is_not_there_is_said(arguments, said, chain, qaedge):
    ran = qaedge(*arguments, "--project", chain.file)
    assert ran.status in (1, 2) and ran.out == "" and said in ran.err, ran.err
    assert ran.err.count("error:") == 1


def test_export_refuses_a_file_that_was_not_scored(copy, qaedge):
    """Other calibration images, other ranges: the mIoU of the build is another file's."""
    kept = {p.name: p.read_bytes() for p in copy.folder.glob("small.onnx*")}
    spoiled(copy, "qaedge.toml", lambda b: b.replace(b"calibration_images = 4", b"calibration_images = 3"))
    ran = qaedge("export", "small", "--output", copy.folder / "small.onnx", "--project", copy.file)
    assert ran.status == 2 and "since small was built: calibration images 4, now 3." in ran.err
    assert "Run qaedge build again" in ran.err
    assert {p.name: p.read_bytes() for p in copy.folder.glob("small.onnx*")} == kept
    assert not list(copy.folder.glob(".small*"))


def test_export_gives_away_the_file_that_was_scored(copy, qaedge):
    report = msgspec.json.decode((copy.student("small") / "student.json").read_bytes(), type=StudentReport)
    built = copy.student("small") / report.file
    assert (copy.folder / "small.onnx").read_bytes() == built.read_bytes()
    built.write_bytes(built.read_bytes()[:-1] + b"x")
    ran = qaedge("export", "small", "--output", copy.folder / "new.onnx", "--project", copy.file)
    assert ran.status == 1 and f"{built}: expected the file that was scored" in ran.err
    assert not (copy.folder / "new.onnx").exists()


def test_a_build_that_is_interrupted_leaves_an_earlier_one_whole(copy, qaedge, monkeypatch):
    from qaedge.nn import build

    folder, real = copy.student("small"), build._score
    kept = {p.name: p.read_bytes() for p in folder.iterdir() if p.name in ("student.json", "after.onnx")}
    assert len(kept) == 2

    def interrupted(*arguments):
        if arguments[-1] == "after":
            raise KeyboardInterrupt
        return (yield from real(*arguments))

    monkeypatch.setattr(build, "_score", interrupted)
    ran = qaedge("build", folder / "architecture.json", "--name", "small", "--project", copy.file)
    assert ran.status == 130
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    ran = qaedge("export", "small", "--output", copy.folder / "again.onnx", "--project", copy.file)
    assert ran.status == 0, ran.err


def test_a_good_file_survives_an_export_that_fails(copy, qaedge, monkeypatch):
    kept = {p.name: p.read_bytes() for p in copy.folder.glob("small.onnx*")}
    assert len(kept) == 2
    monkeypatch.setitem(BOUNDS, "onnx", Bounds(0.9, 1.1, 1.1))  # no file can be that good
    ran = qaedge("export", "small", "--output", copy.folder / "small.onnx", "--project", copy.file)
    assert ran.status == 1 and "pixels of the same class" in ran.err
    assert {p.name: p.read_bytes() for p in copy.folder.glob("small.onnx*")} == kept
    assert not list(copy.folder.glob(".small*"))


def test_damaged_weights_of_a_student_are_named(copy, qaedge):
    for path in copy.student("small").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:1000])
    ran = qaedge("export", "small", "--output", copy.folder / "x.onnx", "--project", copy.file)
    assert ran.status == 1 and "expected a quantized network" in ran.err and "qaedge build again" in ran.err
    assert not (copy.folder / "x.onnx").exists()


def test_weights_of_another_shape_between_blocks_are_refused(copy, qaedge):
    folder = copy.workspace.weights_folder(copy.space.origin)
    one, other = next((folder / "stage1").iterdir()), next((folder / "head").iterdir())
    one.write_bytes(other.read_bytes())
    ran = qaedge("build", copy.folder / "small.json", "--project", copy.file)
    assert ran.status == 1 and f"{one}: expected the weights of conv_k3" in ran.err


def camvid(project: Project, label: int = 1) -> None:
    """Let the project read images from files."""
    draw = iter(range(1000))
    for split in ("train", "val"):
        for name in ("images", "labels"):
            (project.folder / "photos" / split / name).mkdir(parents=True)
        for number in range(4):
            color = tuple((next(draw) * 37) % 256 for _ in range(3))
            Image.new("RGB", (48, 32), color).save(project.folder / f"photos/{split}/images/{number}.png")
            Image.new("L", (48, 32), label).save(project.folder / f"photos/{split}/labels/{number}.png")
    classes = ", ".join(f'"class{n}"' for n in range(8))
    spoiled(
        project,
        "qaedge.toml",
        lambda b: b.replace(
            b'layout = "scenes"', f'layout = "camvid"\npath = "photos"\nclasses = [{classes}]'.encode()
        ),
    )


@pytest.mark.parametrize("command", [("distill",), ("build", "--teacher")])
def test_images_that_are_all_black_are_named_before_any_work(command, copy, qaedge):
    camvid(copy)
    images = sorted((copy.folder / "photos/train/images").iterdir())
    for path in images:
        Image.new("RGB", (48, 32)).save(path)
    ran = qaedge(*command, "--project", copy.file)
    assert ran.status == 1 and ran.out == "" and ran.err.count("error:") == 1, ran.err
    assert "one color, (0, 0, 0)" in ran.err and str(images[0]) in ran.err and "data.path" in ran.err


def test_labels_outside_the_classes_are_named(copy, qaedge):
    camvid(copy, label=8)
    ran = qaedge("build", "--teacher", "--project", copy.file)
    assert ran.status == 1 and "holds id 8, which is no class" in ran.err and "7 class7" in ran.err


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("command", [("build", "--teacher"), ("teacher", "train", "--epochs", 1), ("teacher", "check")])
def test_an_unreadable_image_is_named_at_once(split, command, copy, qaedge):
    camvid(copy)
    path = copy.folder / f"photos/{split}/images/2.png"
    path.write_bytes(b"no image")
    ran = qaedge(*command, "--project", copy.file)
    if split == "train" and command[-1] == "check":
        assert ran.status == 0
        return
    assert ran.status == 1 and f"Cannot read the image {path}" in ran.err and "Traceback" not in ran.err


def test_an_unknown_key_of_a_device_is_named(copy, qaedge, monkeypatch):
    monkeypatch.chdir(copy.folder)
    (copy.folder / "devices").mkdir()
    text = 'name = "mine"\ndescription = "a board"\nvoltage = 5\n'
    (copy.folder / "devices/mine.toml").write_text(text)
    ran = qaedge("build", "--teacher", "--device", "mine")
    assert ran.status == 1 and "mine.toml: voltage: expected a known key" in ran.err


# A full disk, kill -9


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """Let no file grow beyond a size, as a disk does that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("arguments", "limit", "said"),
    [
        (("build", "small.json"), 20_000, "before.onnx"),
        (("build", "small.json"), None, "before.safetensors"),
        (("build", "small.json", "--epochs", "2"), 0.0, "finetune-"),
        (("export", "small", "-o", "full.onnx"), 20_000, "full.onnx"),
        (("teacher", "train", "--epochs", "1"), 20_000, "finetune-"),
    ],
)
def test_a_full_disk_is_one_error_and_loses_nothing(arguments, limit, said, copy, qaedge, monkeypatch, small_files):
    monkeypatch.chdir(copy.folder)
    folder = copy.student("small")
    sizes = {p.name: p.stat().st_size for p in folder.iterdir()}
    if limit is None:  # the file fits, its weights do not
        limit = (sizes["before.onnx"] + sizes["before.safetensors"]) // 2
    elif limit == 0:  # the weights fit, the checkpoint does not
        limit = sizes["before.safetensors"] + 1000
    weights = (copy.folder / "teacher.safetensors").read_bytes()
    small_files(int(limit))
    ran = qaedge(*arguments)
    small_files(resource.RLIM_INFINITY)
    assert ran.status == 1, (ran.out, ran.err)
    assert "No space left while writing" in ran.err and said in ran.err, ran.err
    assert ran.err.count("error:") == 1 and "Traceback" not in ran.err
    assert not [p for p in copy.folder.rglob(".*") if p.is_file()], "no torn files"
    assert not (copy.folder / "full.onnx").exists()
    assert (copy.folder / "teacher.safetensors").read_bytes() == weights
    if arguments[0] in ("build", "export"):
        again = qaedge(*arguments)
        assert again.status == 0, again.err


@pytest.mark.slow
def test_a_killed_build_goes_on(copy, spawn, qaedge):
    folder = copy.student("killed")
    shutil.copy(copy.folder / "small.json", copy.folder / "killed.json")
    arguments = ("build", copy.folder / "killed.json", "--epochs", EPOCHS, "--project", copy.file)
    process = spawn(*arguments)
    until(lambda: list(folder.glob("finetune-*.pt")), process)
    process.kill()
    process.communicate()
    assert qaedge("export", "killed", "--project", copy.file).status == 1, "nothing was built yet"

    teacher, space = load_teacher(copy.workspace), copy.space
    chosen = Architecture.load(copy.folder / "killed.json", space)
    steps = build_student(copy.workspace, teacher, space, chosen, "killed", lambda bits: ("u8s8", "a test"), EPOCHS)
    seen = list(steps)
    epochs = [s.what for s in seen if s.what.startswith("epoch")]
    assert 0 < len(epochs) < EPOCHS * 3 and not epochs[0].startswith("epoch 1/")
    assert seen[-1].result.epochs == EPOCHS and len(list(folder.glob("finetune-*.pt"))) == 1
    ran = qaedge("export", "killed", "-o", copy.folder / "killed.onnx", "--project", copy.file)
    assert ran.status == 0, ran.err
