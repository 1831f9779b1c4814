import pytest

from qaedge.errors import InvalidFile, MissingFile, QaedgeError
from qaedge.project import Workspace

TEXT = """
space = "space.toml"
[teacher]
function = "qaedge.nn.deeplab:build"
weights = "$WEIGHTS_FOLDER/teacher.safetensors"
blocks = { stage1 = "backbone.features[0:2]", head = "classifier" }
arguments = { classes = 11 }
[data]
layout = "camvid"
path = "data"
height = 360
width = 480
[limits]
latency = "75%"
size = "1.2MiB"
[distill]
steps = 100
[finetune]
epochs = 3
"""
DEVICE = "the name of a device, as `qaedge devices` lists them"
SCALES = "two numbers above 0, the lesser one first"
DATA = "a known key (layout, height, width, path, classes, void, mean, std, train_split, val_split, count)"


def write(tmp_path, text=TEXT):
    path = tmp_path / "qaedge.toml"
    path.write_text(text)
    return path


def test_files_lie_beside_the_project_file(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTS_FOLDER", "weights")
    work = Workspace.open(write(tmp_path))
    root = tmp_path.resolve()
    assert work.root == root
    assert work.path(work.project.teacher.weights) == root / "weights" / "teacher.safetensors"
    assert work.space_file == root / "space.toml"
    assert work.results == root / "results"
    assert work.space_json == root / "results" / "space.json"
    assert work.loss_file("abc") == root / "results" / "abc" / "loss.jsonl"
    assert work.weights_folder("abc") == root / "results" / "abc" / "weights"
    assert work.latency_file("pi4") == root / "results" / "pi4" / "latency.jsonl"
    assert work.artifacts.parent == work.cache.parent == work.results
    assert list(root.iterdir()) == [root / "qaedge.toml"], "opening a project creates nothing"


def test_the_project_in_the_current_folder_is_the_default(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert Workspace.open().project.data.height == 360
    monkeypatch.chdir("/")
    with pytest.raises(MissingFile, match="Write one with: qaedge init"):
        Workspace.open()


def test_paths_outside_and_of_the_environment(tmp_path, monkeypatch):
    work = Workspace.open(write(tmp_path))
    monkeypatch.delenv("WEIGHTS_FOLDER", raising=False)
    with pytest.raises(QaedgeError, match="names an environment variable that is not set"):
        work.path("$WEIGHTS_FOLDER/a")
    with pytest.raises(QaedgeError, match="names a home folder that is not known"):
        work.path("~nobody-of-that-name/a")
    assert str(work.path("/data/a")) == "/data/a"
    monkeypatch.setenv("HOME", "/home/one")
    assert str(work.path("~/a")) == "/home/one/a"


@pytest.mark.parametrize(
    ("old", "new", "key", "expected", "found"),
    [
        (
            'space = "space.toml"',
            'space = "space.toml"\ndevcie = "pi4"',
            "devcie",
            "a known key (teacher, data, space, device, results, limits, distill, finetune, quantize)",
            "'devcie'",
        ),
        ("height = 360", "hight = 360", "data.hight", DATA, "'hight'"),
        (
            "function",
            "fonction",
            "teacher.fonction",
            "a known key (function, blocks, weights, arguments)",
            "'fonction'",
        ),
        ('latency = "75%"', 'lateny = "75%"', "limits.lateny", "a known key (latency, size)", "'lateny'"),
        (
            "steps = 100",
            "step = 100",
            "distill.step",
            "a known key (steps, batch, learning_rate, workers, cache, calibration_images, seed)",
            "'step'",
        ),
        (
            "epochs = 3",
            "epoch = 3",
            "finetune.epoch",
            "a known key (epochs, quantized_epochs, quantized_learning_rate, batch, learning_rate, crop, scales, "
            "guidance, block_guidance, freeze_batch_norm, bfloat16, seed)",
            "'epoch'",
        ),
        ("height = 360", "", "data.height", "a value", "nothing"),
        ("height = 360", 'height = "tall"', "data.height", "a whole number", "text"),
        ("height = 360", "height = 0", "data.height", "a number from 1", "0"),
        ('layout = "camvid"', 'layout = "kitti"', "data.layout", "one of camvid, cityscapes, scenes", "'kitti'"),
        ('path = "data"', "", "data.path", "the folder of the camvid images", "nothing"),
        ("width = 480", "width = 480\nstd = [1.0, 0.0, 1.0]", "data.std", "numbers above 0", "[1.0, 0.0, 1.0]"),
        ("width = 480", "width = 480\nmean = [1.0]", "data.mean", "a list of length 3", "1"),
        ("qaedge.nn.deeplab:build", "deeplab", "teacher.function", "module:function", "'deeplab'"),
        (
            '{ stage1 = "backbone.features[0:2]", head = "classifier" }',
            "{}",
            "teacher.blocks",
            "at least one block",
            "none",
        ),
        ('latency = "75%"', 'latency = "75"', "limits.latency", "a quantity with a unit", "'75'"),
        ('size = "1.2MiB"', 'size = "20ms"', "limits.size", "a quantity with a unit", "'20ms'"),
        ("steps = 100", 'cache = "75%"', "distill.cache", "a quantity with a unit", "'75%'"),
        ('space = "space.toml"', 'space = ""', "space", "the path of the space file", "''"),
        ("[teacher]", 'device = ""\n[teacher]', "device", DEVICE, "''"),
        ("[teacher]", 'device = "pi4-a,"\n[teacher]', "device", DEVICE, "'pi4-a,'"),
        ("[teacher]", 'results = ""\n[teacher]', "results", "the folder for everything that qaedge writes", "''"),
        ("steps = 100", "steps = 0", "distill.steps", "a number from 1", "0"),
        ("steps = 100", "workers = -1", "distill.workers", "a number from 0", "-1"),
        ("steps = 100", "learning_rate = 0.0", "distill.learning_rate", "a number above 0", "0.0"),
        ("epochs = 3", "epochs = -1", "finetune.epochs", "a number from 0", "-1"),
        ("epochs = 3", "learning_rate = nan", "finetune.learning_rate", "a number above 0", "nan"),
        ("epochs = 3", "quantized_learning_rate = nan", "finetune.quantized_learning_rate", "a number above 0", "nan"),
        ("epochs = 3", "quantized_learning_rate = inf", "finetune.quantized_learning_rate", "a number above 0", "inf"),
        ("epochs = 3", "quantized_learning_rate = 0.0", "finetune.quantized_learning_rate", "a number above 0", "0.0"),
        (
            "epochs = 3",
            "quantized_learning_rate = -1.0",
            "finetune.quantized_learning_rate",
            "a number above 0",
            "-1.0",
        ),
        ("epochs = 3", "guidance = nan", "finetune.guidance", "a number from 0", "nan"),
        ("epochs = 3", "crop = [0, 4]", "finetune.crop", "numbers from 1", "[0, 4]"),
        ("epochs = 3", "scales = [1.5, 1.0]", "finetune.scales", SCALES, "[1.5, 1.0]"),
        ("epochs = 3", "scales = [0.0, 1.0]", "finetune.scales", SCALES, "[0.0, 1.0]"),
        ("epochs = 3", "scales = [0.5, inf]", "finetune.scales", SCALES, "[0.5, inf]"),
        ("epochs = 3", "seed = -1", "finetune.seed", "a number from 0", "-1"),
        ("epochs = 3", "guidance = inf", "finetune.guidance", "a number from 0", "inf"),
        ("epochs = 3", "learning_rate = inf", "finetune.learning_rate", "a number above 0", "inf"),
        ("steps = 100", "seed = -1", "distill.seed", "a number from 0", "-1"),
        (
            "[distill]",
            '[quantize]\nfew_bit = ["rounding", "ranges"]\n\n[distill]',
            "quantize.few_bit",
            "steps of ranges, equalize, biases, rounding, reconstruct, in that order, each once",
            "['rounding', 'ranges']",
        ),
        ("[distill]", "[quantize]\nimages = 0\n\n[distill]", "quantize.images", "a number from 1", "0"),
        ("steps = 100", "learning_rate = inf", "distill.learning_rate", "a number above 0", "inf"),
        ("steps = 100", 'cache = "0B"', "distill.cache", "more than 0", "'0B'"),
        ("width = 480", "width = 480\nmean = [nan, 0.0, 1.0]", "data.mean", "numbers", "[nan, 0.0, 1.0]"),
        ("width = 480", "width = 480\nstd = [nan, 1.0, 1.0]", "data.std", "numbers above 0", "[nan, 1.0, 1.0]"),
        ('latency = "75%"', 'latency = "0%"', "limits.latency", "more than 0", "'0%'"),
        ('size = "1.2MiB"', 'size = "0KiB"', "limits.size", "more than 0", "'0KiB'"),
    ],
)
def test_a_wrong_key_is_told_with_file_key_expected_and_found(tmp_path, old, new, key, expected, found):
    assert old in TEXT
    path = write(tmp_path, TEXT.replace(old, new, 1))
    with pytest.raises(InvalidFile) as caught:
        Workspace.open(path)
    assert caught.value.message == f"{path}: {key}: expected {expected}, found {found}."


def test_generated_scenes_need_no_path(tmp_path):
    text = TEXT.replace('layout = "camvid"', 'layout = "scenes"').replace('path = "data"', "")
    assert Workspace.open(write(tmp_path, text)).project.data.path == ""


@pytest.mark.parametrize(
    ("old", "new", "key", "read"),
    [
        ("[teacher]", 'results = "$NOPE/x"\n[teacher]', "results", lambda work: work.results),
        ('"space.toml"', '"$NOPE/space.toml"', "space", lambda work: work.space_file),
        ('path = "data"', 'path = "$NOPE"', "data.path", lambda work: work.path(work.project.data.path)),
        ("$WEIGHTS_FOLDER", "$NOPE", "teacher.weights", lambda work: work.weights_file),
    ],
)
def test_a_variable_that_is_not_set_is_told_with_file_and_key(tmp_path, monkeypatch, old, new, key, read):
    monkeypatch.delenv("NOPE", raising=False)
    path = write(tmp_path, TEXT.replace(old, new, 1))
    with pytest.raises(QaedgeError) as caught:
        read(Workspace.open(path))
    assert caught.value.message.startswith(f"{path}: {key}: the path '$NOPE")
