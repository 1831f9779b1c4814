"""The recipes for CI: the script as it stands, on a branch and a fake board; the workflow by its text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
CI = ROOT / "examples" / "ci"
SUITE = """\
devices = ["board"]
limits = ["slower_than_baseline < 3%"]
[[model]]
file = "one.onnx"
[[model]]
file = "two.onnx"
"""


def git(*words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "qaedge", *words], capture_output=True, text=True, env=environment())


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GITHUB_", "GIT_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "QAEDGE": f"{sys.executable} -m qaedge", **more}


def recipe(**more: str) -> subprocess.CompletedProcess[str]:
    words = ["bash", str(CI / "regression.sh"), "nets/benchmarks.toml", "main"]
    return subprocess.run(words, capture_output=True, text=True, env=environment(**more), check=False)


@pytest.fixture
def branch(tmp_path, monkeypatch):
    """A repository whose suite lies in a folder of its own; the branch `mine` is checked out, and has no commit yet."""
    monkeypatch.chdir(tmp_path)
    for folder in ("devices", "nets"):
        Path(folder).mkdir()
    Path("devices/board.toml").write_text('name = "board"\nbase = "fake"\n')
    for name in ("one", "two"):
        Path(f"nets/{name}.onnx").write_bytes(b"x" * 100_000)
    Path("nets/benchmarks.toml").write_text(SUITE)
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    git("checkout", "--quiet", "-b", "mine")


def test_a_file_that_is_slower_than_that_of_the_base_is_told(branch):
    Path("nets/two.onnx").write_bytes(b"y" * 130_000)
    ran = recipe(HISTORY="history.jsonl", GITHUB_ACTIONS="true")
    assert ran.returncode == 3, ran.stderr
    root = ElementTree.parse("regression/suite.xml").getroot()
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("2", "1", "0")
    assert "SLOWER" in Path("regression/suite.md").read_text() and "::error title=two on board" in ran.stderr
    assert "board" in ran.stdout and len(Path("history.jsonl").read_text().splitlines()) == 3
    assert {path.name for path in Path("nets").iterdir()} == {"benchmarks.toml", "one.onnx", "two.onnx", "results"}

    Path("nets/two.onnx").write_bytes(b"x" * 100_000)
    ran = recipe()
    assert ran.returncode == 0 and "2 measured" in ran.stdout, ran.stdout + ran.stderr


def test_what_did_not_change_is_held_against_saved_results(branch):
    ran = command("bench", "--suite", "nets/benchmarks.toml", "--save-baseline", "main")
    assert ran.returncode == 0, ran.stderr
    Path("nets/two.onnx").write_bytes(b"y" * 70_000)
    ran = recipe()
    assert ran.returncode == 0 and "1 SAME" in ran.stdout and "1 FASTER" in ran.stdout, ran.stdout + ran.stderr


def test_a_suite_that_names_its_baselines_is_taken_as_it_is(branch):
    Path("nets/old.onnx").write_bytes(b"x" * 130_000)
    text = SUITE.replace('file = "two.onnx"', 'file = "two.onnx"\nbaseline = "old.onnx"')
    Path("nets/benchmarks.toml").write_text(text)
    ran = recipe()
    assert ran.returncode == 0 and "1 FASTER" in ran.stdout, ran.stdout + ran.stderr


def test_a_base_that_git_does_not_know_is_an_error(branch):
    git("branch", "-D", "main")
    ran = recipe()
    assert ran.returncode == 2 and ran.stderr.count("error:") == 1 and "git knows no main here" in ran.stderr
    assert not Path("regression/suite.xml").exists()


#: The same suite as TOML may be written, too.
WRITTEN = """\
devices = [  # a comment ["with brackets"]
  'board',
]
limits = ["slower_than_baseline < 3%"]
model = [{ file = 'one.onnx' }, { name = "two # 2", "file" = "two.onnx" }]
"""


def test_a_suite_is_read_as_toml_and_not_line_by_line(branch):
    Path("nets/benchmarks.toml").write_text(WRITTEN)
    Path("nets/two.onnx").write_bytes(b"y" * 130_000)
    ran = recipe()
    assert ran.returncode == 3 and "1 SLOWER" in ran.stdout and "two # 2 on board" in ran.stdout, (
        ran.stdout + ran.stderr
    )
    assert "beside main: differs: two # 2; the same: one" in ran.stderr


def test_a_model_that_the_base_has_not_is_new(branch):
    Path("nets/new.onnx").write_bytes(b"n" * 50_000)
    Path("nets/benchmarks.toml").write_text(SUITE + '[[model]]\nfile = "new.onnx"\n')
    ran = recipe()
    assert ran.returncode == 0 and "the same: one, two; not there: new" in ran.stderr, ran.stdout + ran.stderr


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 130000\n".format("4" * 64)


def test_a_pointer_of_git_lfs_is_one_error(branch):
    Path("nets/two.onnx").write_text(POINTER)
    git("commit", "--quiet", "-am", "fetched without git-lfs")
    ran = recipe()
    assert ran.returncode == 1 and ran.stderr.count("error:") == 1, ran.stderr
    assert "nets/two.onnx: expected a network, found a pointer of Git LFS to one." in ran.stderr
    assert "git lfs pull" in ran.stderr and "measuring" not in ran.stderr
    git("branch", "-f", "main", "mine")
    Path("nets/two.onnx").write_bytes(b"y" * 130_000)
    ran = recipe()
    assert ran.returncode == 1 and ran.stderr.count("error:") == 1, ran.stderr
    assert "nets/two.onnx of main: expected a network, found a pointer" in ran.stderr
    assert not list(Path("nets/results/suites").glob("base-*")) and "measuring" not in ran.stderr


def test_a_filter_of_git_gives_the_file_of_the_base(branch):
    # As git-lfs does: what is kept is short, and a checkout makes the file of it.
    Path(".gitattributes").write_text("*.onnx filter=long\n")
    git("config", "filter.long.clean", "head -c 10")
    git("config", "filter.long.smudge", "cat; head -c 99990 /dev/zero | tr '\\0' x")
    git("add", "--renormalize", ".")
    git("commit", "--quiet", "-am", "short")
    git("branch", "-f", "main", "mine")
    ran = recipe()
    assert ran.returncode == 0 and "beside main: the same: one, two" in ran.stderr, ran.stdout + ran.stderr


def test_a_board_that_is_not_fit_is_told_first(branch):
    Path("devices/board.toml").write_text('name = "board"\nbase = "fake"\nscript = "script.toml"\n')
    Path("script.toml").write_text("memory_bytes = 1000000\n")
    ran = recipe()
    assert "warning: board: free memory" in ran.stderr, ran.stderr


def test_the_workflow_measures_with_the_script_and_refuses_forks():
    yaml = pytest.importorskip("yaml")
    flow = yaml.safe_load((CI / "github.yml").read_text())
    (job,) = flow["jobs"].values()
    assert "head.repo.full_name == github.repository" in job["if"] and "self-hosted" in job["runs-on"]
    runs = {step["name"]: step["run"] for step in job["steps"] if "run" in step}
    assert "examples/ci/regression.sh benchmarks.toml" in runs["Measure and compare"]
    for text in runs.values():
        assert "${{ github.event.pull_request.title" not in text and "head_ref" not in text, (
            "no stranger's text in a shell"
        )
        subprocess.run(["bash", "-n", "-c", text], check=True)
