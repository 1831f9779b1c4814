"""The files that a teacher is written in, and what of a project a resolved space depends on."""

from pathlib import Path

import msgspec
import pytest

from qaedge.cli.resolve import Inputs, changed
from qaedge.files import write_json
from qaedge.project import DataConfig, Project, TeacherConfig, Workspace
from qaedge.sources import sources_digest, teacher_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A package whose network imports a neighbor, a parent's part and an installed package."""
    files = {
        "nets/__init__.py": "",
        "nets/small.py": "import torch\nfrom . import layers\nfrom ..nothing import x\nimport alone\n",
        "nets/layers.py": "from nets.deep.part import Part\n",
        "nets/deep/__init__.py": "",
        "nets/deep/part.py": "from nets import small\n",
        "nets/other.py": "",
        "alone.py": "def broken(:\n",
        "space.toml": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_sources_are_followed_through_imports(folder: Path) -> None:
    found = list(teacher_sources(folder, "nets.small:make"))
    deep = ["nets/deep/__init__.py", "nets/deep/part.py"]
    assert found == ["alone.py", "nets/__init__.py", *deep, "nets/layers.py", "nets/small.py"]
    before = sources_digest(folder, "nets.small:make")
    (folder / "nets/other.py").write_text("unused = 1\n")
    assert sources_digest(folder, "nets.small:make") == before
    (folder / "nets/deep/part.py").write_text("from nets import small as it\n")
    assert sources_digest(folder, "nets.small:make") != before


@pytest.mark.parametrize(
    "function", ["torchvision.models:resnet18", "qaedge.nn.deeplab:make", "no-name:x", ":", "..a:b"]
)
def test_installed_functions_have_no_sources(folder: Path, function: str) -> None:
    assert teacher_sources(folder, function) == {} and sources_digest(folder, function) == ""


def test_what_a_space_was_made_from_is_told(folder: Path) -> None:
    project = Project(
        TeacherConfig("nets.small:make", {"a": "a"}), DataConfig("camvid", 32, 48, "photos"), "space.toml"
    )
    workspace = Workspace(folder, project)
    write_json(workspace.space_json.with_name("space.inputs.json"), Inputs.of(workspace))
    assert changed(workspace) == []
    for change, told in (
        ({"mean": (0.1, 0.2, 0.3)}, ["[data]"]),
        ({"path": "others"}, ["[data]"]),
        ({"train_split": "more"}, ["[data]"]),
        ({"height": 64}, ["data.height"]),
        ({"count": 3}, []),  # of generated scenes only
    ):
        data = msgspec.structs.replace(project.data, **change)
        assert changed(Workspace(folder, msgspec.structs.replace(project, data=data))) == told
    (folder / "nets/small.py").write_text("")
    assert changed(workspace) == ["the teacher's code"]


def test_a_space_resolved_by_an_older_version_counts_as_changed(folder: Path) -> None:
    project = Project(TeacherConfig("nets.small:make", {"a": "a"}), DataConfig("scenes", 32, 48), "space.toml")
    workspace = Workspace(folder, project)
    old = {k: v for k, v in msgspec.to_builtins(Inputs.of(workspace)).items() if k not in ("code", "data")}
    write_json(workspace.space_json.with_name("space.inputs.json"), old)
    assert changed(workspace) == ["the teacher's code", "[data]"]
