"""Whom we believe, and who believes us: host keys, private keys, algorithms, over a real sshd."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import msgspec
import paramiko
import pytest
from sshd import Sshd, make_key

from qaedge.device import Device, Ssh
from qaedge.errors import HostKeyChanged, HostKeyUnknown, InvalidFile, LoginRefused, MissingFile, Unreachable
from qaedge.hil.address import Address, address_of, parse_address
from qaedge.hil.connect import target_for
from qaedge.hil.ssh import SshTarget, connect


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of one's own, with an empty .ssh."""
    folder = tmp_path / "home"
    (folder / ".ssh").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


@pytest.fixture
def ssh_agent(tmp_path, monkeypatch):
    """A running ssh-agent: ssh_agent(key files)."""
    if not shutil.which("ssh-agent"):
        pytest.skip("no ssh-agent here (Debian, Ubuntu: apt install openssh-client)")
    socket = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)

    def start(*keys):
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        for key in keys:
            for _ in range(100):  # until it listens
                if not subprocess.run(["ssh-add", "-q", str(key)], capture_output=True).returncode:
                    break
            else:
                pytest.fail("ssh-add does not reach ssh-agent")

    yield start
    process.send_signal(signal.SIGTERM)
    process.wait()


def runs(target: SshTarget) -> bool:
    """Whether a command runs there; ends the connection."""
    try:
        process = target.run(["echo", "here"])
        return process.read(10.0) == b"here\n"
    finally:
        target.close()


def address(sshd: Sshd, **changes) -> Address:
    return msgspec.structs.replace(address_of(sshd.device("pi")), **changes)


# Who the board is.


def test_an_unknown_key_is_refused_and_shown(sshd, home):
    with pytest.raises(HostKeyUnknown) as info:
        target_for(sshd.device("pi", host_key=""))
    assert sshd.fingerprint in info.value.message
    assert "qaedge device add pi" in info.value.hint
    assert "userauth-request" not in sshd.said()  # nobody logged in to a stranger
    assert list((home / ".ssh").iterdir()) == []  # and nothing was added


def test_a_known_key_is_believed(sshd, home):
    (home / ".ssh" / "known_hosts").write_text(sshd.known_hosts.read_text())
    assert runs(target_for(sshd.device("pi", host_key="")))


def test_a_hashed_known_key_is_believed(sshd, home):
    known = home / ".ssh" / "known_hosts"
    known.write_text(sshd.known_hosts.read_text())
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", str(known)], check=True, capture_output=True)
    assert "|1|" in known.read_text() and sshd.host not in known.read_text()
    assert runs(target_for(sshd.device("pi", host_key="")))
    sshd.rekey()
    with pytest.raises(HostKeyChanged):
        target_for(sshd.device("pi", host_key=""))


@pytest.mark.parametrize("pinned", [True, False])
def test_a_changed_key_stops_hard(sshd, home, pinned):
    (home / ".ssh" / "known_hosts").write_text(sshd.known_hosts.read_text())
    before = sshd.fingerprint
    device = sshd.device("pi", **({} if pinned else {"host_key": ""}))
    sshd.rekey()
    with pytest.raises(HostKeyChanged) as info:
        target_for(device)
    assert sshd.fingerprint in info.value.message and before in info.value.message
    assert ("its description" if pinned else "known_hosts") in info.value.message
    assert "Nothing was sent" in info.value.hint and "--replace" in info.value.hint
    assert not isinstance(info.value, Unreachable)  # which is what is tried again
    assert "userauth-request" not in sshd.said()


def test_one_of_several_known_keys_is_enough(sshd, home):
    old, new = sshd.known_hosts.read_text(), sshd.rekey() or sshd.known_hosts.read_text()
    (home / ".ssh" / "known_hosts").write_text(old + new)
    assert runs(target_for(sshd.device("pi", host_key="")))


def test_the_kind_of_key_that_is_known_is_asked_for(start_sshd, home, tmp_path):
    # Most boards have keys of three kinds; somebody may know only the RSA one.
    key = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(key)], check=True)
    sshd = start_sshd(f"HostKey {key}")
    kind, text = (tmp_path / "rsa.pub").read_text().split()[:2]
    (home / ".ssh" / "known_hosts").write_text(f"[{sshd.host}]:{sshd.port} {kind} {text}\n")
    assert runs(target_for(sshd.device("pi", host_key="")))


def test_a_pinned_key_that_is_not_the_first_one_shown_is_asked_for(start_sshd, home, tmp_path):
    key = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(key)], check=True)
    sshd = start_sshd(f"HostKey {key}")
    said = subprocess.run(["ssh-keygen", "-lf", str(key)], check=True, capture_output=True, text=True).stdout
    pinned = said.split()[1]
    assert pinned != sshd.fingerprint
    assert runs(target_for(sshd.device("pi", host_key=pinned)))
    assert runs(target_for(sshd.device("pi")))


def test_a_machine_that_lost_the_known_kind_of_key_is_told_as_that(sshd, home, tmp_path):
    key = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(key)], check=True)
    kind, text = (tmp_path / "rsa.pub").read_text().split()[:2]
    (home / ".ssh" / "known_hosts").write_text(f"[{sshd.host}]:{sshd.port} {kind} {text}\n")
    with pytest.raises(HostKeyChanged, match=r"offers another kind of key.* shows ssh-ed25519 .*\(ssh-rsa\)") as info:
        target_for(sshd.device("pi", host_key=""))
    assert "Nothing was sent" in info.value.hint
    assert "userauth-request" not in sshd.said()


@pytest.mark.parametrize("pinned", [True, False])
def test_a_revoked_key_is_never_believed(sshd, home, pinned):
    known = sshd.known_hosts.read_text()
    device = sshd.device("pi", **({} if pinned else {"host_key": ""}))
    for names in (known.split()[0], "*"):
        (home / ".ssh" / "known_hosts").write_text(f"{known}@revoked {names} {known.split(maxsplit=1)[1]}")
        with pytest.raises(HostKeyChanged, match=r"revoked in .*known_hosts"):
            target_for(device)


def test_a_line_that_cannot_be_read_is_passed_over(sshd, home):
    bad = "pi ssh-ed25519 ###\nonly\n|1|x ssh-ed25519 AAAA\n@revoked * ssh-ed25519 AAAA\n\xff\n"
    (home / ".ssh" / "known_hosts").write_bytes(bad.encode("latin-1") + sshd.known_hosts.read_bytes())
    assert runs(target_for(sshd.device("pi", host_key="")))


# What is negotiated.


def test_nothing_weak_is_negotiated(sshd):
    (transport,) = connect(address(sshd))
    try:
        assert transport.local_cipher == transport.remote_cipher == "aes128-gcm@openssh.com"
        options = transport.get_security_options()
        offered = " ".join([*options.ciphers, *options.digests, *options.kex, *options.key_types])
    finally:
        transport.close()
    assert not [word for word in ("cbc", "3des", "md5", "sha1", "ssh-rsa", "ssh-dss", "arcfour") if word in offered]
    assert "aes128-gcm@openssh.com MAC: <implicit>" in sshd.said()


@pytest.mark.parametrize(
    "line",
    [
        "Ciphers aes128-cbc",
        "Ciphers aes128-ctr\nMACs hmac-sha1",
        "KexAlgorithms diffie-hellman-group14-sha1",
        "HostKeyAlgorithms ssh-rsa",
    ],
)
def test_a_weak_server_is_refused(start_sshd, tmp_path, line):
    key = tmp_path / "rsa"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", str(key)], check=True)
    sshd = start_sshd(f"HostKey {key}", line)
    with pytest.raises(Unreachable, match="no way of talking that is safe") as info:
        target_for(sshd.device("pi"))
    assert "OpenSSH" in info.value.hint
    assert sshd.logins() == []


def test_paramiko_is_new_enough():
    assert int(paramiko.__version__.split(".")[0]) >= 5


# Who we are.


def test_only_the_named_key_is_offered(sshd, home, ssh_agent, tmp_path):
    other, default = tmp_path / "other", home / ".ssh" / "id_ed25519"
    make_key(other)
    make_key(default)
    ssh_agent(other)
    assert runs(target_for(sshd.device("pi")))
    assert sshd.logins() == [_fingerprint(sshd.key)]
    assert sshd.said().count("userauth-request for user") == 1


def test_keys_of_ssh_agent_are_offered_when_asked(sshd, home, ssh_agent):
    ssh_agent(sshd.key)
    with pytest.raises(LoginRefused, match="no key was named"):
        target_for(sshd.device("pi", identity_file=""))
    assert sshd.logins() == []
    assert runs(target_for(sshd.device("pi", identity_file="", agent=True)))


def test_a_refused_key_is_offered_once(sshd, tmp_path):
    make_key(tmp_path / "wrong")
    with pytest.raises(LoginRefused, match="1 key was offered") as info:
        target_for(sshd.device("pi", identity_file=str(tmp_path / "wrong")))
    assert "ssh-copy-id" in info.value.hint
    assert sshd.logins() == [_fingerprint(tmp_path / "wrong")]
    assert sshd.said().count("method publickey") == sshd.said().count("Connection from") == 1


def test_too_many_keys_are_no_reason_to_try_again(start_sshd, home, ssh_agent, tmp_path):
    sshd = start_sshd("MaxAuthTries 2")
    keys = [tmp_path / f"key{number}" for number in range(4)]
    for key in keys:
        make_key(key)
    ssh_agent(*keys)
    with pytest.raises(LoginRefused, match="4 keys were offered"):
        target_for(sshd.device("pi", identity_file="", agent=True))
    assert sshd.said().count("Connection from") == 1


def test_a_private_key_that_others_may_read_is_not_used(sshd):
    sshd.key.chmod(0o644)
    with pytest.raises(LoginRefused, match="can be read by others") as info:
        target_for(sshd.device("pi"))
    assert f"chmod 600 {sshd.key}" in info.value.hint
    assert sshd.logins() == []


def test_a_private_key_with_a_passphrase_or_of_no_kind(sshd, tmp_path):
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(locked)], check=True)
    with pytest.raises(LoginRefused, match="has a passphrase") as info:
        target_for(sshd.device("pi", identity_file=str(locked)))
    assert "ssh-add" in info.value.hint
    broken = tmp_path / "broken"
    broken.touch(0o600)
    for text in ("", "rubbish", sshd.key.read_text()[:120]):
        broken.write_text(text)
        with pytest.raises(LoginRefused, match="cannot be read"):
            target_for(sshd.device("pi", identity_file=str(broken)))
    with pytest.raises(MissingFile, match="the private key for pi"):
        target_for(sshd.device("pi", identity_file=str(tmp_path / "none")))


def test_no_secret_is_said(sshd, caplog, capfd, tmp_path):
    secret = "".join(sshd.key.read_text().splitlines()[1:-1])
    with caplog.at_level("DEBUG"):
        assert runs(target_for(sshd.device("pi")))
    said = caplog.text + "".join(capfd.readouterr()) + sshd.said()
    assert secret[100:140] not in said.replace("\n", "")
    assert secret[100:140] not in repr(address_of(sshd.device("pi")))


# Where the board is.


def test_an_alias_of_ssh_config(sshd, home):
    known = home / "known"
    known.write_text(sshd.known_hosts.read_text())
    (home / ".ssh" / "config").write_text(
        f"Host pi\n  HostName {sshd.host}\n  Port {sshd.port}\n  User {sshd.user}\n"
        f"  IdentityFile {sshd.key}\n  UserKnownHostsFile {known}\n"
    )
    assert runs(target_for(Device(name="pi", description="", connection="ssh")))
    assert runs(SshTarget(parse_address("board", "pi")))
    with pytest.raises(Unreachable, match="Nobody has said where pi2 is"):
        target_for(Device(name="pi2", description="", connection="ssh"))


def test_a_match_in_ssh_config_is_borne_and_none_is_run(sshd, home):
    file = home / ".ssh" / "config"
    alias = f"Host pi\n  HostName {sshd.host}\n  Port {sshd.port}\n  User {sshd.user}\n  IdentityFile {sshd.key}\n"
    file.write_text("Match host *.corp.example\n  User corp\n" + alias)
    (home / ".ssh" / "known_hosts").write_text(sshd.known_hosts.read_text())
    pi = Device(name="pi", description="", connection="ssh")
    assert runs(target_for(pi))
    with pytest.raises(Unreachable, match="Nobody has said where pi2 is"):
        target_for(Device(name="pi2", description="", connection="ssh"))
    file.write_text(f'Match exec "touch {home}/ran"\n  User x\n{alias}')
    with pytest.raises(InvalidFile, match="line 1: expected no `Match exec`"):
        target_for(pi)
    assert not (home / "ran").exists()
    file.write_text(alias.replace(f"Port {sshd.port}", "Port abc"))
    with pytest.raises(InvalidFile, match="Port: expected a number from 1 to 65535, found 'abc'"):
        target_for(pi)


def test_a_jump_through_another_machine(start_sshd, home):
    gate, board = start_sshd(), start_sshd()
    (home / ".ssh" / "known_hosts").write_text(gate.known_hosts.read_text() + board.known_hosts.read_text())
    (home / ".ssh" / "config").write_text(
        f"Host gate\n  HostName {gate.host}\n  Port {gate.port}\n  User {gate.user}\n  IdentityFile {gate.key}\n"
        f"Host pi\n  HostName {board.host}\n  Port {board.port}\n  User {board.user}\n  IdentityFile {board.key}\n"
        "  ProxyJump gate\n"
    )
    device = Device(name="pi", description="", connection="ssh")
    assert runs(target_for(device))
    assert "direct-tcpip" in gate.said() and "Starting session" not in gate.said()
    assert "Starting session" in board.said()
    # Each of the two has to be known.
    (home / ".ssh" / "known_hosts").write_text(gate.known_hosts.read_text())
    with pytest.raises(HostKeyUnknown) as info:
        target_for(device)
    assert board.fingerprint in info.value.message
    (home / ".ssh" / "known_hosts").write_text(board.known_hosts.read_text())
    with pytest.raises(HostKeyUnknown) as info:
        target_for(device)
    assert gate.fingerprint in info.value.message
    board.stop()
    (home / ".ssh" / "known_hosts").write_text(gate.known_hosts.read_text())
    with pytest.raises(Unreachable, match="through the machine before it"):
        target_for(device)


def test_jumps_in_a_circle(home):
    (home / ".ssh" / "config").write_text("Host a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    with pytest.raises(Unreachable, match="go through each other"):
        target_for(Device(name="a", description="", connection="ssh"))


def test_a_proxy_command_is_not_run(home, tmp_path):
    (home / ".ssh" / "config").write_text(f"Host pi\n  ProxyCommand touch {tmp_path}/ran\n")
    with pytest.raises(Unreachable, match="ProxyCommand"):
        target_for(Device(name="pi", description="", connection="ssh"))
    assert not (tmp_path / "ran").exists()


def test_nobody_there(sshd):
    device = sshd.device("pi")
    sshd.stop()
    with pytest.raises(Unreachable, match="Connection refused"):
        target_for(device)
    wrong = Ssh(host="no.such.machine.invalid", user="pi", host_key="SHA256:x")
    with pytest.raises(Unreachable, match="No machine is called"):
        target_for(msgspec.structs.replace(device, ssh=wrong))


def _fingerprint(key: os.PathLike[str]) -> str:
    done = subprocess.run(["ssh-keygen", "-lf", str(key)], capture_output=True, check=True, text=True)
    return done.stdout.split()[1]
