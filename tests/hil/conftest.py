"""A device of one's own, a private TMPDIR, small ONNX files, and an agent whose runtime misbehaves on demand."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from pathlib import Path

import msgspec
import onnx
import pytest
from onnx import TensorProto, helper

from qaedge.artifact import Artifact
from qaedge.device import Device
from qaedge.hil.bootstrap import profilers_folder
from qaedge.hil.settings import Settings
from qaedge.hil.target import LocalTarget

#: A runtime that does what the file's content says; ships in place of the real one.
STUB = '''
"""A stub."""
import os, signal, sys, time
VERSION = "stub 1"
class Session:
    inputs = outputs = []
    def __init__(self, word):
        self.word, self.calls = word, 0
    def __call__(self):
        self.calls += 1
        if self.word == "abort": os.abort()
        if self.word == "segv": os.kill(os.getpid(), signal.SIGSEGV)
        if self.word == "exit": os._exit(3)
        if self.word == "sleep": time.sleep(3600)
        if self.word == "spin":
            while True: pass
        if self.word == "late" and self.calls > 200: os.abort()
        if self.word == "flood" and self.calls < 60:
            os.write(1, b"0" * 100000); os.write(2, b"0" * 100000)
        if self.word == "print" and self.calls < 60: print("I am a runtime")
        time.sleep(0.0002)
    def settle(self):
        pass
def load(path, threads, options):
    word = open(path).read().split()[0]
    if word == "refuse": raise RuntimeError("no such operator \\x1b[31mred")
    if word == "memory": Session.kept = bytearray(1 << 40)
    if word == "once":
        mark = os.path.join(os.environ["TMPDIR"], "once")
        if not os.path.exists(mark):
            open(mark, "w").close()
            os.abort()
    if word == "files": Session.kept = [open(path) for _ in range(1000)]
    return Session(word)
def load_identity(tensors, threads, options):
    return Session("run")
'''

QUICK = Settings(
    warmup_s=0.002,
    warmup_limit_s=0.02,
    rewarm_s=0.001,
    round_s=0.002,
    round_samples=4,
    rounds_min=2,
    rounds_max=3,
    sample_s=2e-4,
    overhead_s=0.001,
    deadline_s=10.0,
    interleaved_rounds=4,
    reference_s=0.005,
    drift_pause_s=0.0,
    quiet_share=0.0,  # how many rounds count would hang on who else uses this machine
)


@pytest.fixture
def quick() -> Settings:
    """Settings that measure little, and fast."""
    return QUICK


@pytest.fixture
def device() -> Device:
    """A device whose lock nobody else takes."""
    return Device(name=f"test-{uuid.uuid4().hex[:8]}", description="a test", pin=False)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """An empty folder that is the agent's TMPDIR; must be empty again at the end of the test."""
    folder = tmp_path / "tmp"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def target(private: Path) -> LocalTarget:
    """This machine, with a TMPDIR of its own."""
    return LocalTarget(environment={"TMPDIR": str(private), "QAEDGE_LOCKS": str(private)})


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """The agent's files with a runtime that does what each file says."""
    folder = tmp_path / "profilers"
    shutil.copytree(profilers_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "runtime_onnx.py").write_text(STUB)
    return folder


@pytest.fixture
def word(tmp_path: Path):
    """Make a file for the stub: word(what it does)."""

    def make(text: str) -> Artifact:
        path = tmp_path / f"{text.replace(' ', '_')}.onnx"
        path.write_text(text)
        return Artifact.of(path)

    return make


@pytest.fixture
def relu(tmp_path: Path):
    """Make a real ONNX file: relu(size)."""

    def make(size: int, name: str = "") -> Artifact:
        path = tmp_path / f"{name or f'relu{size}'}.onnx"
        value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, size]) for n in "xy"]
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, path)
        return Artifact.of(path)

    return make


@pytest.fixture
def some(tmp_path: Path):
    """Make files of different sizes that no runtime has to read: some(count)."""

    def make(count: int) -> list[Artifact]:
        paths = [tmp_path / f"file{i}.onnx" for i in range(count)]
        for i, path in enumerate(paths):
            path.write_bytes(b"x" * (5000 + 1000 * i))
        return [Artifact.of(path) for path in paths]

    return make


def processes_with(text: str) -> list[int]:
    """Return the processes whose environment holds `text`: the agent's and its children's, by their TMPDIR."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
                zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if text.encode() in environment and not zombie:
                found.append(int(entry.name))
    return found


@pytest.fixture
def nothing_left(private: Path):
    """Assert, within the promised 5 s, that no process and no file of the agent is left."""

    def check(but: tuple[str, ...] = ()) -> None:
        until = time.monotonic() + 5.0
        while True:
            processes = processes_with(f"TMPDIR={private}")
            files = [path.name for path in private.iterdir() if path.name not in but]
            if not processes and not files:
                return
            if time.monotonic() > until:
                pytest.fail(f"left: processes {processes}, files {files}")
            time.sleep(0.05)

    return check


@pytest.fixture
def endless(quick):
    """Settings that never end by themselves."""
    return msgspec.structs.replace(quick, rounds_min=10_000, rounds_max=10_000)


@pytest.fixture
def board(sshd, device):
    """The device, behind sshd."""
    return sshd.device(device.name)
