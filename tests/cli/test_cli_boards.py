"""`profile` over real SSH: two boards of one kind, one of them cut off in the middle."""

from __future__ import annotations

import json
import re
import sys

import pytest
from sshd import wait_for
from tiny_scenes import SPACE, space_of, write_project

from qaedge.tables import LatencyTable, table_keys


@pytest.fixture
def boards(tmp_path, monkeypatch, start_sshd):
    """A project and two boards, lo-a and lo-b, each with an sshd of its own; the current folder is the project's."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    workspace = write_project(tmp_path, space=SPACE.replace("expansions = [2, 6]", "expansions = [1, 2, 3, 4, 5, 6]"))
    (tmp_path / "devices").mkdir()
    servers = {}
    for name in ("lo-a", "lo-b"):
        folder = tmp_path / f"tmp-{name}"
        folder.mkdir()
        servers[name] = start_sshd(environment={"TMPDIR": str(folder), "OMP_NUM_THREADS": "1"})
        ssh = servers[name].ssh()
        (tmp_path / "devices" / f"{name}.toml").write_text(
            f'name = "{name}"\ndescription = "a test"\nbase = "generic_aarch64"\narch = "any"\nconnection = "ssh"\n'
            f"pin = false\npython = {json.dumps(sys.executable)}\n\n[ssh]\n"
            f'host = "{ssh.host}"\nport = {ssh.port}\nuser = "{ssh.user}"\n'
            f'host_key = "{ssh.host_key}"\nidentity_file = "{ssh.identity_file}"\n'
        )
    return workspace, servers


def test_all_rows_are_there_and_each_share_is_printed(boards, spawn):
    workspace, servers = boards
    file = workspace.latency_file("generic_aarch64")
    process = spawn("profile", "--device", "lo-a,lo-b", cwd=workspace.root)

    def rows() -> int:
        return max(0, file.read_text().count("\n") - 1) if file.exists() else 0

    wait_for(lambda: rows() >= 3 or process.poll() is not None, 120, "the shared files")
    servers["lo-b"].stop()
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    found = list(LatencyTable.store(file).rows())
    keys = [row.key for row in found]
    assert sorted(keys) == sorted(table_keys(space_of(workspace))), "every row, and each once"
    shares = dict(re.findall(r"^(lo-[ab]): (\d+) of ", out, re.MULTILINE))
    assert sum(map(int, shares.values())) == len(found)
    assert {row.measurement.device for row in found} <= {"lo-a", "lo-b"}
    assert re.search(r"lo-b: \d+ of \d+ rows, lost \d+ times?, then given up", out), out
    assert "lo-b is lost" in err or "lo-b ended" in err or "No connection to" in err
    assert "lo-b takes" in err and "3 shared files" in err


def test_boards_without_a_common_base_share_no_table(boards, qaedge):
    workspace, _ = boards
    file = workspace.root / "devices" / "lo-b.toml"
    file.write_text(file.read_text().replace('base = "generic_aarch64"\n', ""))
    ran = qaedge("profile", "--device", "lo-a,lo-b")
    assert ran.status == 2
    assert "based on different descriptions: generic_aarch64, lo-b" in ran.err
    assert qaedge("profile", "--device", "lo-a,lo-a").status == 2
