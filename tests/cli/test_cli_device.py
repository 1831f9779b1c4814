"""`qaedge device ...` and `qaedge devices`, against a real sshd on loopback."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import sys
from pathlib import Path

import pytest

from qaedge.cli.device_file import quoted
from qaedge.device import load_device
from qaedge.files import decode_toml
from qaedge.hil import agent, bootstrap
from qaedge.hil.doctor import HEADINGS, PAGE

ROOT = Path(__file__).parents[2]
#: A fingerprint of no key of ours.
OTHER = "SHA256:" + "A" * 43


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of one's own, here and on the board, and an empty current folder."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path / "work")
    return folder


@pytest.fixture
def board(home, tmp_path, start_sshd):
    """A running sshd whose sessions have this Python, a home and a TMPDIR of their own."""
    (tmp_path / "tmp").mkdir()
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    return start_sshd(environment={"HOME": str(home), "TMPDIR": str(tmp_path / "tmp"), "PATH": path})


@pytest.fixture
def added(board, qaedge):
    """The same, known as `lo`."""
    ran = qaedge("device", "add", "lo", where(board), "--identity", board.key, "--fingerprint", board.fingerprint)
    assert ran.status == 0, ran.err
    return board


def where(server) -> str:
    return f"{server.user}@{server.host}:{server.port}"


def mine() -> Path:
    return Path("devices/lo.toml")


def test_a_key_is_shown_and_not_taken_without_a_terminal(board, qaedge):
    ran = qaedge("device", "add", "lo", where(board), "--identity", board.key)
    assert ran.status == 1
    assert f"ssh-ed25519 {board.fingerprint}" in ran.err
    assert f"--fingerprint {board.fingerprint}" in ran.err
    assert not mine().exists()
    assert board.logins() == []


def test_another_key_than_the_one_that_was_read_stops_hard(board, qaedge):
    ran = qaedge("device", "add", "lo", where(board), "--identity", board.key, "--fingerprint", OTHER)
    assert ran.status == 1
    assert "is not the one that was named" in ran.err and OTHER in ran.err and board.fingerprint in ran.err
    assert not mine().exists()
    assert board.logins() == []


@pytest.mark.parametrize(
    ("fingerprint", "said"),
    [
        ("MD5:12:f8:7e:78:61:b4:bf:e2:de:24:15:96:4e:d4:72:53", "MD5 is broken"),
        ("12:f8:7e:78:61:b4:bf:e2:de:24:15:96:4e:d4:72:53", "MD5 is broken"),
        ("SHA256:short", "its length or its letters are wrong"),
        ("A" * 43, 'it does not begin with "SHA256:"'),
    ],
)
def test_what_is_no_fingerprint_is_told_before_anybody_is_asked(home, qaedge, fingerprint, said):
    ran = qaedge("device", "add", "lo", "pi@127.0.0.1:1", "--fingerprint", fingerprint)
    assert ran.status == 2 and said in ran.err and "ssh-keygen -lf" in ran.err
    assert not mine().exists()


def test_one_broken_description_does_not_hide_the_others(home, qaedge):
    Path("devices").mkdir()
    Path("devices/broken.toml").write_text('name = "broken"\nbase = "pi4"\nthreads = "many"\n')
    ran = qaedge("devices")
    assert ran.status == 1
    assert "pi5" in ran.out and "broken" in ran.out and "(cannot be read)" in ran.out
    assert "1 description cannot be read: broken." in ran.err and "threads" in ran.err and "broken.toml" in ran.err
    ran = qaedge("devices", "--json")
    assert ran.status == 1
    found = {row["name"]: row for row in json.loads(ran.out)}
    assert "threads" in found["broken"]["error"] and found["pi4"]["error"] is None


@pytest.mark.parametrize("command", [("bench", "x.onnx", "--device"), ("device", "check"), ("device", "lock")])
def test_what_works_on_one_device_says_so(home, qaedge, command):
    ran = qaedge(*command, "pi4,pi5")
    assert ran.status == 2
    assert "'pi4,pi5' names several devices, and this works on one at a time" in ran.err
    assert "Only `qaedge profile`" in ran.err


@pytest.mark.parametrize(("answer", "status"), [(b"y\n", 0), (b"\n", 1), (b"n\n", 1)])
def test_on_a_terminal_it_asks_and_only_yes_pins(board, spawn, answer, status):
    ours, its = pty.openpty()
    try:
        process = spawn("device", "add", "lo", where(board), "--identity", str(board.key), stdin=its)
        os.write(ours, answer)
        _, err = process.communicate(timeout=60)
    finally:
        os.close(ours)
        os.close(its)
    assert process.returncode == status, err
    assert "Is this the board's? [y/N]" in err
    assert mine().exists() == (status == 0)
    assert bool(board.logins()) == (status == 0)


def test_what_is_written_reaches_the_board_and_holds_no_secret(added):
    device = load_device("lo")
    assert device.connection == "ssh" and device.ssh is not None
    assert (device.ssh.host, device.ssh.port, device.ssh.user) == (added.host, added.port, added.user)
    assert device.ssh.host_key == added.fingerprint
    assert device.ssh.identity_file == str(added.key)
    secret = [line for line in added.key.read_text().splitlines() if "-----" not in line]
    assert secret and not any(line in mine().read_text() for line in secret)


def test_the_usual_key_is_found_where_none_is_named(board, home, qaedge):
    usual = home / ".ssh" / "id_ed25519"
    usual.write_bytes(board.key.read_bytes())
    usual.chmod(0o600)
    ran = qaedge("device", "add", "lo", where(board), "--fingerprint", board.fingerprint)
    assert ran.status == 0, ran.err
    assert decode_toml(mine(), dict)["ssh"]["identity_file"] == "~/.ssh/id_ed25519"


def test_what_ssh_config_says_is_left_to_it(board, home, qaedge):
    (home / ".ssh" / "config").write_text(
        f"Host desk\n HostName {board.host}\n Port {board.port}\n User {board.user}\n IdentityFile {board.key}\n"
    )
    ran = qaedge("device", "add", "lo", "desk", "--fingerprint", board.fingerprint)
    assert ran.status == 0, ran.err
    ssh = decode_toml(mine(), dict)["ssh"]
    assert ssh["host"] == "desk" and "identity_file" not in ssh


def test_a_refused_login_writes_nothing(board, qaedge):
    board.authorized_keys.write_text("")
    ran = qaedge("device", "add", "lo", where(board), "--identity", board.key, "--fingerprint", board.fingerprint)
    assert ran.status == 1
    assert "does not let us in" in ran.err and "ssh-copy-id" in ran.err
    assert not mine().exists()


def test_what_known_hosts_contradicts_is_not_asked_but_refused(board, home, qaedge):
    known = board.known_hosts.read_text()
    board.rekey()
    (home / ".ssh" / "known_hosts").write_text(known)
    ran = qaedge("device", "add", "lo", where(board), "--identity", board.key)
    assert ran.status == 1
    assert "is not the one that was pinned" in ran.err and "known_hosts" in ran.err
    assert not mine().exists()


def test_an_existing_description_is_only_replaced_when_told_and_keeps_the_rest(added, qaedge):
    text = mine().read_text()
    mine().write_text(text.replace("[ssh]", '# the one on the shelf\ngovernor = "ondemand"\n\n[ssh]\nagent = true'))
    kept = mine().read_text()
    added.rekey()
    arguments = ("device", "add", "lo", where(added), "--identity", added.key, "--fingerprint", added.fingerprint)
    refused = qaedge(*arguments)
    assert refused.status == 1 and "--replace" in refused.err and mine().read_text() == kept
    unasked = qaedge(*arguments[:-2], "--replace")
    assert unasked.status == 1 and "another key than the one that" in unasked.err and "--fingerprint" in unasked.err
    assert mine().read_text() == kept
    ran = qaedge(*arguments, "--replace")
    assert ran.status == 0, ran.err
    found = decode_toml(mine(), dict)
    assert found["governor"] == "ondemand" and "# the one on the shelf" in mine().read_text()
    assert found["ssh"]["host_key"] == added.fingerprint and found["ssh"]["agent"] is True


@pytest.mark.parametrize("name", ["../lo", "a/b", "", ".hidden", "lo\n", "a b"])
def test_a_name_is_no_path(home, qaedge, name):
    ran = qaedge("device", "add", name, "pi@127.0.0.1:1")
    assert ran.status == 2
    assert not Path("devices").exists()


def test_an_unknown_base_is_told_before_anybody_is_asked(home, qaedge):
    ran = qaedge("device", "add", "lo", "pi@127.0.0.1:1", "--base", "pi99")
    assert ran.status == 2 and "No description 'pi99'." in ran.err and "local" in ran.err


@pytest.mark.parametrize("text", ['a"b', "a\\b", "é", "tab\there", "\x7f", "# no comment", "new\nline"])
def test_text_in_a_description_is_written_as_toml_reads_it(tmp_path, text):
    path = tmp_path / "x.toml"
    path.write_text(f"key = {quoted(text)}\n", encoding="utf-8")
    assert decode_toml(path, dict) == {"key": text}


def test_check_finds_nothing_bad_and_says_what_it_found(added, qaedge):
    ran = qaedge("device", "check", "lo", "--json")
    found = {finding["what"]: finding for finding in json.loads(ran.out)}
    assert added.fingerprint in found["host key"]["found"]
    assert found["Python"]["found"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    assert {"connection", "onnxruntime", "cores", "memory", "governor", "temperature", "load", "in use"} <= set(found)
    bad = [name for name, finding in found.items() if finding["verdict"] == "bad"]
    assert set(bad) <= {"load", "temperature"} and ran.status == (1 if bad else 0)
    assert all(bool(finding["advice"]) == bool(finding["see"]) for finding in found.values())


@pytest.mark.parametrize(
    ("spoil", "heading"),
    [
        (lambda board: board.stop(), "Not reachable"),
        (lambda board: board.rekey(), "Key changed"),
        (lambda board: board.authorized_keys.write_text(""), "Login refused"),
    ],
    ids=["gone", "another key", "refused"],
)
def test_check_says_in_one_row_why_it_gets_no_further(added, qaedge, spoil, heading):
    spoil(added)
    ran = qaedge("device", "check", "lo", "--json")
    assert ran.status == 1
    (finding,) = json.loads(ran.out)
    assert (finding["what"], finding["verdict"], finding["see"]) == ("connection", "bad", heading)
    shown = qaedge("device", "check", "lo")
    assert shown.status == 1 and f"{PAGE}, {heading!r}" in shown.out and "not fit for measuring" in shown.out


def test_check_works_on_this_machine(home, qaedge):
    ran = qaedge("device", "check", "local", "--json")
    found = {finding["what"]: finding["found"] for finding in json.loads(ran.out)}
    assert found["connection"] == "this machine" and "host key" not in found


def test_every_warning_of_check_is_explained():
    page = (ROOT / PAGE).read_text()
    section = page.partition("## What each warning means")[2].partition("\n## ")[0]
    assert set(re.findall(r"^### (.+)$", section, re.MULTILINE)) >= set(HEADINGS)
    source = (ROOT / "qaedge/hil/doctor.py").read_text()
    assert all(source.count(f'"{heading}"') >= 2 for heading in HEADINGS), "a heading that no finding points to"


def test_a_leased_board_is_told_to_others_until_it_is_given_back(added, qaedge, monkeypatch, relu_file):
    assert qaedge("device", "lock", "lo", "--for", "5min").status == 0
    assert qaedge("device", "lock", "lo", "--for", "10min").status == 0  # by the same: for longer
    bench = qaedge("bench", relu_file, "--device", "lo")
    assert bench.status == 0, bench.err  # one's own
    me = agent.owner()
    state = {row["name"]: row for row in json.loads(qaedge("devices", "--state", "--json").out)}
    assert (state["lo"]["state"], state["lo"]["why"]) == ("free", "locked by you, for another 10 min")
    monkeypatch.setenv("LOGNAME", "somebody-else")
    refused = qaedge("device", "lock", "lo")
    assert refused.status == 1 and f"{me} has lo for himself, for another 10 min" in refused.err
    assert qaedge("device", "unlock", "lo").status == 1
    state = {row["name"]: row for row in json.loads(qaedge("devices", "--state", "--json").out)}
    assert state["lo"]["state"] == "busy" and me in state["lo"]["why"]
    forced = qaedge("device", "unlock", "lo", "--force")
    assert forced.status == 0 and me in forced.out
    assert qaedge("bench", relu_file, "--device", "lo").status == 0
    assert "Nobody had lo" in qaedge("device", "unlock", "lo").out


@pytest.mark.parametrize("time", ["0s", "8000000min", "soon"])
def test_a_lease_has_an_end(added, qaedge, time):
    assert qaedge("device", "lock", "lo", "--for", time).status == 2


def test_tune_has_nothing_to_do_where_the_kernel_offers_nothing(added, qaedge):
    if Path("/sys/devices/system/cpu/cpufreq/policy0").exists():
        pytest.skip("this kernel lets its clocks be set, and a test does not")
    ran = qaedge("device", "tune", "lo", "--yes")
    assert ran.status == 0 and "Nothing to do on lo." in ran.out and "no cpufreq" in ran.err
    assert "Nothing to do on lo." in qaedge("device", "reset", "lo").out


def test_devices_uses_no_network_unless_asked(added, qaedge):
    before = added.said().count("Connection from")
    row = next(row for row in json.loads(qaedge("devices", "--json").out) if row["name"] == "lo")
    assert (row["connection"], row["address"], row["state"]) == ("ssh", where(added), None)
    assert added.said().count("Connection from") == before
    Path("devices/gone.toml").write_text(
        mine().read_text().replace('"lo"', '"gone"').replace(f"port = {added.port}", "port = 1")
    )
    rows = {row["name"]: row for row in json.loads(qaedge("devices", "--state", "--json").out)}
    assert rows["lo"]["state"] == "free"
    assert rows["gone"]["state"] == "unreachable" and "refused" in rows["gone"]["why"]
    assert added.said().count("Connection from") == before + 1


def test_setup_says_where_there_is_nothing_to_do(home, qaedge):
    ran = qaedge("device", "setup", "local")
    assert ran.status == 0 and "nothing to set up" in ran.err


def test_setup_leaves_a_python_of_ones_own_alone(added, qaedge):
    mine().write_text(mine().read_text().replace("[ssh]", 'python = "/opt/python"\n\n[ssh]'))
    ran = qaedge("device", "setup", "lo")
    assert ran.status == 2 and "/opt/python" in ran.err


@pytest.fixture
def relu_file(tmp_path):
    onnx = pytest.importorskip("onnx")
    value = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 8]) for n in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    path = tmp_path / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.fixture
def governed(added, tmp_path, monkeypatch):
    """Let the agent see a tree with one governor, which the tests may read."""
    governor = tmp_path / "root/sys/devices/system/cpu/cpufreq/policy0/scaling_governor"
    governor.parent.mkdir(parents=True)
    governor.write_text("ondemand\n")
    folder = tmp_path / "profilers"
    shutil.copytree(bootstrap.profilers_folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    change(folder / "agent.py", 'ROOT = "/"', f"ROOT = {str(tmp_path / 'root')!r}")
    monkeypatch.setattr(bootstrap, "profilers_folder", lambda: folder)
    return governor


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_tune_shows_its_commands_asks_and_reset_restores(governed, home, qaedge):
    asked = qaedge("device", "tune", "lo")
    assert asked.status == 2 and "--yes" in asked.err  # nobody is there to be asked
    assert f"  echo performance | tee {governed}" in asked.out and governed.read_text() == "ondemand\n"
    assert qaedge("device", "tune", "lo", "--yes").out.splitlines()[-1] == "lo is tuned."
    assert governed.read_text() == "performance\n"
    assert json.loads((home / ".qaedge/tuned.json").read_text())["governor"] == {"policy0": "ondemand"}
    assert "Nothing to do on lo." in qaedge("device", "tune", "lo", "--yes").out
    assert qaedge("device", "reset", "lo", "--yes").out.splitlines()[-1] == "lo is as it was."
    assert governed.read_text() == "ondemand\n"


def test_a_sudo_that_wants_a_password_leads_to_the_commands_to_type(governed, tmp_path, qaedge):
    folder = tmp_path / "profilers"
    fake = tmp_path / "sudo"
    fake.write_text('#!/bin/sh\necho "sudo: a password is required" >&2\nexit 1\n')
    fake.chmod(0o755)
    change(folder / "tune.py", "os.access(path, os.W_OK)", "False")
    change(folder / "tune.py", '"argv": ["sudo", "-n", "tee", path]', f'"argv": [{str(fake)!r}, "-n", "tee", path]')
    ran = qaedge("device", "tune", "lo", "--yes")
    assert ran.status == 1 and "sudo on lo wants a password" in ran.err
    assert f"    echo performance | sudo tee {governed}" in ran.err
    assert governed.read_text() == "ondemand\n"
