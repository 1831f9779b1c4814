"""Setting a board up over a real sshd: with a pip and runtimes made for the test, never the real ones."""

from __future__ import annotations

import sys
import threading
import time
import zipfile
from pathlib import Path

import msgspec
import pytest

from qaedge.device import Device
from qaedge.errors import DeviceBusy, DiskFull, QaedgeError, SetupFailed, UsageError
from qaedge.hil import install, pins
from qaedge.hil.install import SetUp, set_up
from qaedge.hil.wheels import Wheel, fetch
from qaedge.runtime import RUNTIMES

#: A pip that unpacks what it is given, says so, and asks no index.
PIP = """
import sys, time, zipfile
wheels = [word for word in sys.argv if word.endswith(".whl")]
if not wheels:
    print("ERROR: no index answers")
    sys.exit(1)
place = next(path for path in sys.path if path.endswith("site-packages"))
for wheel in wheels:
    print("Processing", wheel)
    zipfile.ZipFile(wheel).extractall(place)
    if zipfile.ZipFile(wheel).namelist()[0].startswith("slow"):
        print("waiting", flush=True)
        time.sleep(3600)
"""


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def device(tmp_path, home, start_sshd):
    (tmp_path / "tmp").mkdir()
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    server = start_sshd(environment={"HOME": str(home), "TMPDIR": str(tmp_path / "tmp"), "PATH": path})
    return Device(name="board", description="a test", connection="ssh", ssh=server.ssh())


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """What the host fetches: the test's own runtimes (name: source; may be changed), and what was asked for."""
    sources = {"numpy": '__version__ = "1.2"', "onnxruntime": '__version__ = "3.4"'}
    asked: list[tuple[str, ...]] = []

    def make(name: str, member: str, text: str) -> Wheel:
        path = tmp_path / f"{name}-1-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(member, text)
        return Wheel.of(path)

    def fetch(requirements, board):
        asked.append(tuple(requirements))
        if requirements[0].startswith("pip=="):
            return [make("pip", "pip/__main__.py", PIP)]
        return [make(name.replace("/", "_"), f"{name}/__init__.py", text) for name, text in sources.items()]

    monkeypatch.setattr(install, "fetch", fetch)
    return sources, asked


def finish(steps) -> SetUp:
    return list(steps)[-1].result


def environments(home: Path) -> list[str]:
    return sorted(path.name for path in (home / ".qaedge").glob("venv*"))


def test_the_runtimes_come_from_this_machine_and_a_second_run_does_nothing(device, home, wheels):
    done = finish(set_up(device, offline=True))
    assert done.done and done.versions == {"numpy": "1.2", "onnxruntime": "3.4"}
    assert (home / ".qaedge/venv").is_symlink()
    folder = (home / ".qaedge/venv").resolve()
    assert (folder / "bin/python").exists() and not (folder / "scratch").exists()
    assert environments(home) == ["venv", folder.name]
    _, asked = wheels
    asked.clear()
    again = finish(set_up(device, offline=True))
    assert not again.done and again.versions == done.versions
    assert (home / ".qaedge/venv").resolve() == folder and asked == []


def test_where_its_own_index_does_not_answer_this_machine_sends(device, home, wheels, monkeypatch):
    texts = [step.what for step in set_up(device)]
    assert finish(set_up(device)).versions == {"numpy": "1.2", "onnxruntime": "3.4"}
    assert any("ERROR: no index answers" in text for text in texts) or not _has_route()
    assert len(environments(home)) == 2


def test_what_does_not_import_leaves_what_was_there(device, home, wheels):
    sources, _ = wheels
    finish(set_up(device, offline=True))
    before = environments(home)
    folder = (home / ".qaedge/venv").resolve()
    (folder / "qaedge.json").unlink()  # as if it were of another version
    sources["onnxruntime"] = 'raise ImportError("libfoo.so is missing")'
    with pytest.raises(SetupFailed, match=r"(?s)what was there before still is.*libfoo\.so is missing"):
        finish(set_up(device, offline=True))
    assert environments(home) == before and (home / ".qaedge/venv").resolve() == folder
    sources["onnxruntime"] = '__version__ = "5.6"'
    assert finish(set_up(device, offline=True)).versions["onnxruntime"] == "5.6"
    assert len(environments(home)) == 2 and not folder.exists()


def test_too_little_space_is_told_with_path_and_bytes_before_anything_is_made(device, home, wheels, monkeypatch):
    monkeypatch.setattr(install, "_needed", lambda _: 1 << 48)
    with pytest.raises(DiskFull, match=rf"\d+ bytes free in {home}/\.qaedge, {1 << 48} needed"):
        finish(set_up(device, offline=True))
    assert environments(home) == []


def test_an_installation_that_is_cut_off_leaves_nothing_running_and_the_next_one_works(device, home, wheels):
    sources, _ = wheels
    sources["slow"] = ""
    raised: list[BaseException] = []

    def work():
        steps = set_up(device, offline=True)
        try:
            for step in steps:
                if step.what == "waiting":
                    with pytest.raises(DeviceBusy):  # one at a time
                        finish(set_up(device, offline=True))
                    steps.close()  # as Ctrl-C does
        except QaedgeError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and raised == []
    until = time.monotonic() + 10
    while environments(home) and time.monotonic() < until:
        time.sleep(0.1)
    assert environments(home) == []
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(home).encode() in _read(p)]
    del sources["slow"]
    assert finish(set_up(device, offline=True)).done


def test_an_environment_made_by_hand_is_put_aside(device, home, wheels):
    (home / ".qaedge/venv").mkdir(parents=True)
    (home / ".qaedge/venv/mine").write_text("kept")
    finish(set_up(device, offline=True))
    (kept,) = (home / ".qaedge").glob("venv.before-*")
    assert (kept / "mine").read_text() == "kept"


def test_an_unknown_runtime_is_wrong_usage(device):
    with pytest.raises(UsageError, match="No runtime 'abacus'"):
        finish(set_up(device, ["abacus"]))


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (("3.6.9", "aarch64", "glibc", "2.27"), "has Python 3.6.9, and runtimes are pinned for 3.8"),
        (("3.11.2", "armv7l", "glibc", "2.36"), "64-bit system"),
        (("3.11.2", "aarch64", "musl", "1.2"), "built for glibc"),
        (("3.11.2", "aarch64", "", ""), "built for glibc"),
        (("3.8.10", "aarch64", "glibc", "2.27"), "need 2.28 or newer"),
    ],
)
def test_a_board_for_which_there_is_nothing_is_told(facts, says):
    with pytest.raises(SetupFailed) as caught:
        pins.board_of("pi", *facts)
    assert says in str(caught.value)


def test_wheels_fit_the_c_library():
    board = pins.board_of("pi", "3.11.2", "aarch64", "glibc", "2.31")
    assert board.tags[0] == "manylinux_2_31_aarch64" and board.tags[-1] == "manylinux2014_aarch64"
    assert "manylinux_2_32_aarch64" not in board.tags
    assert board.abis == ("cp311", "abi3", "none")
    assert pins.requirements(["onnxruntime"], board) == ("numpy==2.4.6", "onnxruntime==1.32.0")
    assert pins.requirements(["tensorrt"], board) == ()
    assert pins.imports(["tensorrt", "onnxruntime"]) == ("numpy", "tensorrt", "onnxruntime")


@pytest.mark.parametrize(
    ("python", "arch", "glibc", "package"),
    [
        ("3.8.10", "aarch64", "2.31", "tflite-runtime==2.13.0"),
        ("3.8.10", "aarch64", "2.35", "tflite-runtime==2.14.0"),
        ("3.8.10", "x86_64", "2.31", "tflite-runtime==2.14.0"),
        ("3.9.2", "aarch64", "2.31", "ai-edge-litert==2.1.0"),
        ("3.10.12", "aarch64", "2.35", "ai-edge-litert==2.3.0"),
        ("3.14.0", "aarch64", "2.41", "ai-edge-litert==2.3.0"),
    ],
)
def test_tflite_is_the_package_that_there_is_for_the_board(python, arch, glibc, package):
    board = pins.board_of("pi", python, arch, "glibc", glibc)
    both = pins.requirements(["onnxruntime", "tflite"], board)
    assert both[0] == f"numpy=={pins.PINS[board.python]['numpy']}" and both[2:] == (package,)
    if package.startswith("tflite-runtime"):
        assert both[0].startswith("numpy==1."), "it does not take numpy 2"


def test_pinned_versions_are_named_as_an_agent_names_them():
    assert pins.pinned("onnxruntime", (3, 11)) == "1.32.0"
    assert pins.pinned("tflite", (3, 11)) == "ai-edge-litert 2.3.0"
    assert pins.pinned("tflite", (3, 8)) is pins.pinned("tensorrt", (3, 11)) is pins.pinned("onnxruntime", (3,)) is None


@pytest.mark.parametrize("module", ["ai_edge_litert", "tflite_runtime"])
def test_of_two_packages_one_is_enough(module, device, home, wheels):
    sources, _ = wheels
    sources[module] = '__version__ = "2.5"'
    sources[f"{module}/interpreter"] = ""
    done = finish(set_up(device, ["onnxruntime", "tflite"], offline=True))
    assert done.versions == {"numpy": "1.2", "onnxruntime": "3.4", module: "2.5"}


def test_of_two_packages_that_do_not_import_both_reasons_are_told(device, home, wheels):
    sources, _ = wheels
    sources["ai_edge_litert"] = 'raise ImportError("libfoo.so is missing")'
    with pytest.raises(SetupFailed, match=r"(?s)libfoo.so is missing.*No module named 'tflite_runtime'"):
        finish(set_up(device, ["tflite"], offline=True))


def test_what_cannot_be_fetched_leaves_no_cache(tmp_path):
    board = pins.Board((3, 11), "aarch64", 36)
    with pytest.raises(SetupFailed, match=r"could not fetch /nowhere/qaedge-0-py3-none-any.whl"):
        fetch(["/nowhere/qaedge-0-py3-none-any.whl"], board, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _has_route() -> bool:
    return any(line.split()[1] == "00000000" for line in Path("/proc/net/route").read_text().splitlines())


def test_what_comes_with_the_system_is_seen_and_not_installed(device, home, wheels, monkeypatch):
    there = msgspec.structs.replace(RUNTIMES["tensorrt"], imports=("json",))
    monkeypatch.setitem(RUNTIMES, "tensorrt", there)  # a module that the board's own Python has
    messages = []
    whole = install.AgentSession.follow
    monkeypatch.setattr(
        install.AgentSession, "follow", lambda s, m, *kinds: (messages.append(m), whole(s, m, *kinds))[1]
    )
    done = finish(set_up(device, ["tensorrt"], offline=True))
    assert list(done.versions) == ["json"]
    assert messages[0]["wheels"] == [] and messages[0]["system_site_packages"] is True
    assert "include-system-site-packages = true" in (home / ".qaedge/venv/pyvenv.cfg").read_text()
