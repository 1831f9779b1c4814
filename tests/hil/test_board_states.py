"""A board that throttles, drifts, heats up or has a meter: the real agent on a board's tree of files."""

import importlib.util
import sys
import time
from pathlib import Path

import msgspec
import pytest

from qaedge.artifact import Artifact
from qaedge.errors import MeasurementError
from qaedge.hil.agent import AgentSession
from qaedge.hil.profile import Measured, measure

TESTS = Path(__file__).parents[1]
#: Runs on the board: what a candidate does to it is in the file's name, how fast it is in `pace`.
RUNTIME = '''
"""A stub whose board can be made slower, and whose candidates can make it throttle."""
import os, time
VERSION = "stub 1"
ROOT = "ROOT"
#: The clock of the measuring process goes on by what a run should take: a busy machine is not seen.
NOW = [10**9]
EXACT = True
if EXACT:
    time.perf_counter_ns = lambda: NOW[0]
class Session:
    inputs = outputs = []
    def __init__(self, word, seconds):
        self.word, self.seconds, self.calls = word, seconds, 0
    def __call__(self):
        self.calls += 1
        with open(os.path.join(ROOT, "pace")) as file:
            seconds = self.seconds * float(file.read() or 1)
        NOW[0] += round(seconds * 1e9)
        until = time.perf_counter() + (0 if EXACT else seconds)
        if self.calls == 12 and self.word.startswith("write"):
            _, mark, path, text = self.word.split()
            mark = os.path.join(ROOT, mark)
            if not os.path.exists(mark):
                open(mark, "w").close()
                with open(os.path.join(ROOT, path), "w") as file:
                    file.write(text)
        while time.perf_counter() < until:
            pass
    def settle(self):
        pass
def load(path, threads, options):
    NOW[0] += 10**6
    with open(path) as file:
        return Session(file.read(), 0.0005)
def load_identity(tensors, threads, options):
    return Session("", 0.0001)
def load_reference(threads, options):
    return Session("", 0.001)
'''


def _boards():
    spec = importlib.util.spec_from_file_location("boards", TESTS / "profilers" / "boards.py")
    found = sys.modules.get("boards") or importlib.util.module_from_spec(spec)
    if "boards" not in sys.modules:
        sys.modules["boards"] = found
        spec.loader.exec_module(found)
    return found


boards = _boards()


@pytest.fixture
def root(tmp_path):
    """A board's files; `pace` is how slow it is."""
    folder = tmp_path / "board"
    boards.lay(folder, {"pace": "1"})
    return folder


@pytest.fixture
def profilers(stub, root):
    """The agent's files, for that board."""
    (stub / "runtime_onnx.py").write_text(RUNTIME.replace('ROOT = "ROOT"', f"ROOT = {str(root)!r}"))
    agent = (stub / "agent.py").read_text()
    assert 'ROOT = "/"' in agent
    (stub / "agent.py").write_text(agent.replace('ROOT = "/"', f"ROOT = {str(root)!r}"))
    return stub


@pytest.fixture
def session(device, target, profilers, root):
    def start(files, exact=True):
        boards.lay(root, files)
        runtime = profilers / "runtime_onnx.py"
        runtime.write_text(runtime.read_text().replace("EXACT = True", f"EXACT = {exact}"))
        return AgentSession(device, target, folder=profilers)

    return start


@pytest.fixture
def settings(quick):
    """Little time, but the drift that is allowed otherwise, too."""
    return msgspec.structs.replace(
        quick, temperature_start_c=65.0, temperature_pause_c=75.0, rounds_min=3, rounds_max=3, drift_pause_s=0.3
    )


def run(steps, on_step=lambda step: None):
    """Return measurements by name, and what was said on the way."""
    found, said = {}, []
    for step in steps:
        said.append(step.what)
        on_step(step)
        if step.result is not None:
            assert isinstance(step.result, Measured), step.result.error
            found[step.result.artifact.name] = step.result.measurement
    return found, said


def repair_when_cooling(root, files):
    """Return what brings the board back as soon as the agent says that it cools."""

    def act(step):
        if step.what.startswith("cooling"):
            boards.lay(root, files)

    return act


def test_a_board_at_its_usual_pace_is_left_alone(session, settings, word):
    with session(boards.pi4()) as agent:
        found, said = run(measure(agent, [word("run 1"), word("run 2")], settings, threads=1))
    for row in found.values():
        assert row.scales == () and row.tainted_rounds == ()
        assert not set(row.doubts) & {"throttled", "drifted", "hot", "under-voltage", "unreferenced"}
        assert row.reference_s == pytest.approx(0.001)
        assert row.settings["drift_limit"] == settings.drift_limit
        assert row.conditions["before"]["throttle_bits"] == 0
    assert not any("cooling" in what or "again" in what for what in said)


@pytest.mark.parametrize(
    ("files", "path", "bad", "good", "reason"),
    [
        (boards.pi4(), boards.PI4_BITS, "4", "0", "throttled"),
        (boards.pi4(), boards.PI4_BITS, "50005", "0", "under-voltage"),
        (boards.pi4(), boards.PI4_BITS, "40000", "0", "throttled"),
        (boards.pi5(), boards.PI5_BITS, "2", "0", "throttled"),
        (boards.orin_nano(), f"{boards.OVER_CURRENT}/oc3_event_cnt", "28", "28", "throttled"),
    ],
)
@pytest.mark.parametrize("interleave", [False, True])
def test_a_round_in_which_the_board_throttled_is_taken_again(
    session, root, settings, word, files, path, bad, good, reason, interleave
):
    with session(files) as agent:
        artifacts = [word("run"), _artifact(root, path, bad)]
        steps = measure(agent, artifacts, settings, threads=1, interleave=interleave)
        found, said = run(steps, repair_when_cooling(root, {path: good}))
    assert (root / "mark").exists()
    for row in found.values():
        assert len(row.tainted_rounds) == 1
        assert len(row.rounds) == (settings.interleaved_rounds if interleave else 3)
        assert not set(row.doubts) & {"throttled", "under-voltage", "drifted"}  # what is stored is good
    assert sum("again" in what and reason in what for what in said) == 1
    assert any(what.startswith("cooling") and reason in what for what in said)


def _artifact(root, path, text):
    """Return a candidate that writes a text into a board's file, once."""
    file = root / "bad.onnx"
    file.write_text(f"write mark {path} {text}")
    return Artifact.of(file)


def test_a_board_that_stays_throttled_is_never_stored_as_good(session, settings, word):
    short = msgspec.structs.replace(settings, cool_limit_s=0.5)
    with session({**boards.pi4(), boards.PI4_BITS: "4\n"}) as agent:
        found, said = run(measure(agent, [word("run 1"), word("run 2")], short, threads=1))
    for row in found.values():
        assert "throttled" in row.doubts
        assert len(row.tainted_rounds) == short.retakes
    assert any("cooling" in what and "throttled" in what for what in said)


@pytest.mark.parametrize("pace", [1.03, 0.97])
def test_a_little_drift_is_scaled_and_raw_samples_are_kept(session, root, settings, word, pace):
    with session(boards.pi4()) as agent:
        first, _ = run(measure(agent, [word("run")], settings, threads=1))
        boards.lay(root, {"pace": str(pace)})
        second, _ = run(measure(agent, [word("run")], settings, threads=1))
    before, after = first["run"], second["run"]
    assert after.scales == pytest.approx([1 / pace] * len(after.rounds))
    assert after.rounds[0][0] == pytest.approx(0.0005 * pace)
    assert after.median_s == pytest.approx(before.median_s) == pytest.approx(0.0005)
    assert after.reference_s == before.reference_s
    assert "drifted" not in after.doubts


def test_drift_that_is_accepted_changes_nothing(session, root, settings, word):
    with session(boards.pi4()) as agent:
        run(measure(agent, [word("run")], settings, threads=1))
        boards.lay(root, {"pace": "1.015"})
        found, _ = run(measure(agent, [word("run")], settings, threads=1))
    assert found["run"].scales == () and found["run"].median_s == pytest.approx(0.0005 * 1.015)


def test_much_drift_is_waited_for_and_then_doubted(session, root, settings, word):
    with session(boards.pi4()) as agent:
        run(measure(agent, [word("run")], settings, threads=1))
        boards.lay(root, {"pace": "1.06"})
        found, said = run(measure(agent, [word("run")], settings, threads=1))
        assert "drifted" in found["run"].doubts
        assert len(found["run"].tainted_rounds) == settings.retakes
        assert found["run"].scales == ()
        assert sum("again: drifted" in what for what in said) == settings.retakes

        def mend(step):
            if "again" in step.what:
                boards.lay(root, {"pace": "1"})

        found, _ = run(measure(agent, [word("run")], settings, threads=1), mend)
        assert "drifted" not in found["run"].doubts
        assert len(found["run"].tainted_rounds) >= 1


def test_without_a_reference_model_nothing_is_scaled(session, root, settings, word):
    off = msgspec.structs.replace(settings, reference=False)
    with session(boards.pi4()) as agent:
        run(measure(agent, [word("run")], off, threads=1))
        boards.lay(root, {"pace": "2"})
        found, _ = run(measure(agent, [word("run")], off, threads=1))
    assert found["run"].reference_s is None and found["run"].scales == ()
    assert not set(found["run"].doubts) & {"drifted", "unreferenced"}


def test_a_reference_model_that_does_not_run_is_a_doubt(session, profilers, settings, word):
    text = (profilers / "runtime_onnx.py").read_text()
    (profilers / "runtime_onnx.py").write_text(text.replace('return Session("", 0.001)', 'raise ValueError("no conv")'))
    with session(boards.pi4()) as agent:
        found, _ = run(measure(agent, [word("run")], settings, threads=1))
    assert "unreferenced" in found["run"].doubts
    assert "no conv" in found["run"].conditions["during"]["unreferenced"]
    assert found["run"].reference_s is None


ZONE = "sys/class/thermal/thermal_zone0/temp"


def test_a_hot_board_cools_before_it_starts(session, root, settings, word):
    with session({**boards.pi4(), ZONE: "71000\n"}) as agent:
        steps = measure(agent, [word("run")], settings, threads=1)
        found, said = run(steps, repair_when_cooling(root, {ZONE: "64000\n"}))
    assert said[0] == "cooling at 71 °C, for 0 s: hot"
    assert "hot" not in found["run"].doubts
    assert found["run"].conditions["before"]["temperature_c"] == {"thermal_zone0 cpu-thermal": 64.0}


def test_a_board_that_gets_hot_pauses_between_rounds(session, root, settings, word):
    hot = _artifact(root, ZONE, "75000")
    with session(boards.pi4()) as agent:
        found, said = run(measure(agent, [hot], settings, threads=1), repair_when_cooling(root, {ZONE: "60000\n"}))
    paused = next(number for number, what in enumerate(said) if what.startswith("cooling at 75 °C"))
    assert any(what.startswith("round 1") for what in said[:paused])
    assert "hot" not in found["bad"].doubts


def test_a_board_that_stays_hot_is_doubted(session, settings, word):
    short = msgspec.structs.replace(settings, cool_limit_s=0.4)
    start = time.monotonic()
    with session({**boards.pi4(), ZONE: "80000\n"}) as agent:
        found, _ = run(measure(agent, [word("run")], short, threads=1))
    assert "hot" in found["run"].doubts
    assert time.monotonic() - start < 10


def test_cooling_beats_and_can_be_cancelled(device, target, profilers, root, settings, word, nothing_left):
    boards.lay(root, {**boards.pi4(), ZONE: "80000\n"})
    with AgentSession(device, target, folder=profilers, heartbeat_s=0.1) as agent:
        start, said = time.monotonic(), []
        for _step in measure(agent, [word("run")], settings, threads=1):
            said.append(time.monotonic())
            if said[-1] > start + 2.5:
                break
        assert 3 <= len(said) <= 4  # at most one a second
        boards.lay(root, {ZONE: "50000\n"})
        found, _ = run(measure(agent, [word("run")], settings, threads=1))
        assert found["run"].doubts == () or "hot" not in found["run"].doubts
    nothing_left()


def test_a_board_of_one_kind_says_all_it_knows(session, root):
    boards.tool(root, "usr/sbin/nvpmodel", "NV Power Mode: 15W\n0")
    with session(boards.orin_nano()) as agent:
        found = agent.conditions()
        assert agent.hello.power_mode == "15W (0)" and agent.hello.power_rails == "VDD_IN"
        assert agent.hello.libc and agent.hello.bits in (32, 64)
    assert found["facts"]["power_mode"] == "15W (0)"
    assert "asimd" in found["facts"]["cpu_flags"]
    assert found["readings"]["rails_w"]["VDD_SOC"] == pytest.approx(1.524864)
    assert found["readings"]["power_mode"] == "15W (0)"


CURRENT = f"{boards.INA}/curr1_input"


def energetic(settings):
    return msgspec.structs.replace(settings, energy=True, energy_s=1.0, energy_idle_s=0.5, energy_interval_s=0.05)


def at_phase(write, idle, busy):
    """Return what makes a candidate's loop take more power than rest."""

    def act(step):
        if step.what.startswith("power"):
            write(busy if "busy" in step.what else idle)

    return act


def test_energy_from_the_boards_own_sensor(session, root, settings, word):
    def write(milliamperes):
        (root / CURRENT).write_text(str(milliamperes))

    files = {**boards.orin_nano(), f"{boards.INA}/in1_input": "5000\n", CURRENT: "1000\n"}
    with session(files, exact=False) as agent:
        artifacts = [word("run 1"), word("run 2")]
        found, _ = run(measure(agent, artifacts, energetic(settings), threads=1), at_phase(write, idle=1000, busy=1400))
    for row in found.values():
        read = row.conditions["energy"]
        assert read["idle_w"] == pytest.approx(5.0) and read["busy_w"] == pytest.approx(7.0, rel=0.06)
        assert read["seconds"] >= 1.0 and row.energy_samples >= 10
        assert row.energy_j == pytest.approx((read["busy_w"] - 5.0) * read["seconds"] / read["runs"])
        assert row.energy_j > 1.8 * min(row.samples_s)


def test_throttling_in_the_loop_that_power_is_read_in_is_seen(session, root, settings, word):
    counter = f"{boards.OVER_CURRENT}/oc3_event_cnt"

    def act(step):
        if step.what.startswith("power"):
            busy = "busy" in step.what
            (root / CURRENT).write_text("1400" if busy else "1000")
            if busy:
                (root / counter).write_text("28\n")

    files = {**boards.orin_nano(), f"{boards.INA}/in1_input": "5000\n", CURRENT: "1000\n", counter: "27\n"}
    with session(files, exact=False) as agent:
        found, _ = run(measure(agent, [word("run 1")], energetic(settings), threads=1), act)
    assert "throttled" in found["run_1"].doubts


def test_a_board_without_a_sensor_says_what_was_looked_for(session, settings, word):
    with session(boards.pi4()) as agent, pytest.raises(MeasurementError) as info:
        list(measure(agent, [word("run")], energetic(settings), threads=1))
    assert "/sys/class/hwmon/hwmon*/name says ina3221" in info.value.message
    assert "--meter" in info.value.hint


def test_energy_that_is_lost_in_the_noise_is_no_number(session, settings, word):
    with session(boards.orin_nano(), exact=False) as agent:
        found, _ = run(measure(agent, [word("run")], energetic(settings), threads=1))
    assert found["run"].energy_j is None and "no energy" in found["run"].doubts


METER = """
import json, sys, time
while True:
    with open(sys.argv[1]) as file:
        print(json.dumps({"watts": float(file.read() or "nan")}), flush=True)
    time.sleep(0.02)
"""


def test_energy_from_a_meter_at_the_supply(session, root, settings, word, tmp_path):
    watts = tmp_path / "watts"

    def write(value):
        (tmp_path / "new").write_text(str(value))
        (tmp_path / "new").replace(watts)

    write(3.0)
    metered = msgspec.structs.replace(energetic(settings), meter=(sys.executable, "-c", METER, str(watts)))
    with session(boards.pi4(), exact=False) as agent:
        found, _ = run(measure(agent, [word("run")], metered, threads=1), at_phase(write, idle=3.0, busy=4.5))
    row = found["run"]
    assert row.conditions["energy"]["idle_w"] == pytest.approx(3.0)
    assert row.energy_samples >= 10
    read = row.conditions["energy"]
    assert read["busy_w"] == pytest.approx(4.5, rel=0.06)
    assert row.energy_j == pytest.approx((read["busy_w"] - read["idle_w"]) * read["seconds"] / read["runs"])
    assert row.settings["meter"][1] == "-c"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("", "ended with exit status 0"),
        ("raise SystemExit(3)", "ended with exit status 3"),
        ("print('3.2 W')", "3.2 W"),
        ("print('{\"watts\": -1}')", "-1"),
    ],
)
def test_a_meter_that_is_none(session, settings, word, code, said):
    metered = msgspec.structs.replace(energetic(settings), meter=(sys.executable, "-c", code))
    with session(boards.pi4()) as agent, pytest.raises(MeasurementError, match=said):
        list(measure(agent, [word("run")], metered, threads=1))


def test_a_meter_that_cannot_be_run(session, settings, word):
    metered = msgspec.structs.replace(energetic(settings), meter=("/no/meter",))
    with session(boards.pi4()) as agent, pytest.raises(MeasurementError, match="Cannot run the meter /no/meter"):
        list(measure(agent, [word("run")], metered, threads=1))


def test_what_the_kernel_counts_comes_with_the_row(session, profilers, settings, word):
    # Hardware events are rare in virtual machines: the kernel's software events take the same way.
    text = (profilers / "counters.py").read_text()
    events = 'EVENTS = {"instructions": (HARDWARE, 1), "cycles": (HARDWARE, 0)}'
    assert events in text
    (profilers / "counters.py").write_text(text.replace(events, 'EVENTS = {"instructions": (SOFTWARE, 1)}'))
    with session(boards.pi4(), exact=False) as agent:
        found, _ = run(measure(agent, [word("run")], settings, threads=1))
    row = found["run"]
    assert row.cycles is None
    if row.instructions is None:
        pytest.skip("the kernel refuses perf_event_open")
    assert 0.05 < row.instructions * 1e-9 / row.median_s < 5  # the task clock, in ns per inference
