"""OpenSSH's own server as a fixture: on 127.0.0.1 or behind a virtual cable, with throw-away keys.

Fixtures, for every test below `tests/`:

* `sshd`: one that runs. Agents that are started through it have `tmp_path / "tmp"` as their TMPDIR.
* `start_sshd(*lines, environment=...)`: another one, with more lines of sshd_config, which win.
* `netns_sshd(*lines, environment=...)`: one in a network namespace behind a veth pair, whose cable `link("down")` cuts.

Each is stopped at the end of its test with all of its sessions. Where no sshd is found, tests that need one are
skipped; `make test` says so at the end.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from qaedge.device import Device, Ssh

NO_SSHD = "no sshd here"
#: Where distributions put it; it is on no ordinary user's PATH.
_PLACES = ("/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd")
_CONFIG = """\
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
HostKey {folder}/host_key
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
PrintMotd no
PermitUserRC no
X11Forwarding no
MaxStartups 64
MaxSessions 64
LogLevel DEBUG1
Subsystem sftp internal-sftp
"""
#: Newer versions shut out addresses whose logins fail; other tests come from the same address.
_NO_PENALTIES = "PerSourcePenalties no\n"


def find_sshd() -> str:
    """Return the server's path; skip the test where there is none, or it cannot run."""
    found = shutil.which("sshd") or next((place for place in _PLACES if os.access(place, os.X_OK)), "")
    if not found:
        pytest.skip(f"{NO_SSHD} (Debian, Ubuntu: apt install openssh-server)")
    if not shutil.which("ssh-keygen"):
        pytest.skip("no ssh-keygen here (Debian, Ubuntu: apt install openssh-client)")
    if os.geteuid() == 0:  # as root it insists on its folder for separated privileges, which a boot makes
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    return found


def wait_for(what: Callable[[], object], seconds: float, why: str) -> None:
    """Return as soon as `what()` holds; fail where it does not within so many seconds."""
    until = time.monotonic() + seconds
    while not what():
        if time.monotonic() > until:
            pytest.fail(f"not within {seconds:g} s: {why}")
        time.sleep(0.02)


def make_key(file: Path) -> None:
    """Make a private key without a passphrase, and its public half beside it."""
    for old in (file, file.with_name(file.name + ".pub")):
        old.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", file.name, "-f", file], check=True)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Sshd:
    """A server of one's own.

    Attributes:
        host, port, user: where, and as whom to log in.
        key: the private key that it lets in.
        known_hosts: a file that knows its host key.
        authorized_keys: the public keys that it lets in; may be changed while it runs.
        log: what it says.
    """

    def __init__(
        self, folder: Path, *lines: str, environment: Mapping[str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        """Make its keys; `start` starts it."""
        self.program = find_sshd()
        folder.mkdir(mode=0o700, parents=True)
        self.folder, self.host = folder, host
        self.port = free_port() if host == "127.0.0.1" else 2222
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.key = folder / "user_key"
        self.known_hosts = folder / "known_hosts"
        self.authorized_keys = folder / "authorized_keys"
        self.log = folder / "log"
        self._before: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        make_key(self.key)
        self.authorized_keys.write_text(self.key.with_suffix(".pub").read_text())
        self._new_host_key()
        settings = [f"Port {self.port}", f"ListenAddress {host}", *lines]
        if environment:
            settings.append("SetEnv " + " ".join(f"{name}={value}" for name, value in environment.items()))
        # Of most settings the first line counts, of some the last.
        named = {word.split()[0] for line in settings for word in line.splitlines()} - {"HostKey"}
        settings += [line for line in _CONFIG.format(folder=folder).splitlines() if line.split()[0] not in named]
        text = "\n".join(settings) + "\n"
        self._config = folder / "sshd_config"
        self._config.write_text(text + _NO_PENALTIES)
        if subprocess.run([self.program, "-t", "-f", self._config], capture_output=True).returncode:
            self._config.write_text(text)

    @property
    def pid(self) -> int:
        """The process that listens."""
        assert self._process is not None
        return self._process.pid

    @property
    def fingerprint(self) -> str:
        """Its host key's, "SHA256:..."."""
        done = subprocess.run(["ssh-keygen", "-lf", self.folder / "host_key.pub"], capture_output=True, check=True)
        return done.stdout.decode().split()[1]

    def ssh(self, **changes: object) -> Ssh:
        """How to reach it, pinned."""
        wanted = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "host_key": self.fingerprint,
            "identity_file": str(self.key),
        }
        return Ssh(**{**wanted, **changes})

    def device(self, name: str, python: str = sys.executable, **changes: object) -> Device:
        """A device behind it; `changes` are to `ssh`."""
        return Device(
            name=name, description="a test", connection="ssh", pin=False, python=python, ssh=self.ssh(**changes)
        )

    def start(self) -> None:
        """Listen."""
        known = self.said().count("Server listening on")
        self._process = subprocess.Popen(
            [*self._before, self.program, "-D", "-f", str(self._config), "-E", str(self.log)],
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
            start_new_session=True,
        )
        wait_for(
            lambda: self.said().count("Server listening on") > known or self._process.poll() is not None, 20, "sshd"
        )
        if self._process.poll() is not None:
            pytest.fail(f"sshd did not start:\n{self.said()}")

    def stop(self) -> None:
        """End it, and its sessions."""
        if self._process is None:
            return
        self.drop()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def drop(self) -> None:
        """End the open connections without a word; go on listening."""
        for pid in self.connections():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def rekey(self) -> None:
        """Show another host key from now on, as a machine does that was installed anew."""
        self.stop()
        self._new_host_key()
        self.start()

    def connections(self) -> list[int]:
        """The processes of the open connections; what runs in their sessions is not among them."""
        return [pid for pid in _below(self.pid) if _title(pid).startswith("sshd")]

    def said(self) -> str:
        """Everything that it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def logins(self) -> list[str]:
        """The fingerprints of the keys that it was shown proof of, or refused, in order."""
        return re.findall(r"^(?:Accepted|Failed) publickey for .* (SHA256:\S+)$", self.said(), re.MULTILINE)

    def _new_host_key(self) -> None:
        make_key(self.folder / "host_key")
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {kind} {key}\n")


class NetnsSshd(Sshd):
    """A server behind a cable of its own: a veth pair into a network namespace. Needs root."""

    def __init__(self, folder: Path, number: int, *lines: str, environment: Mapping[str, str] | None = None) -> None:
        """Lay the cable."""
        self._space, self.cable = f"qe{os.getpid()}n{number}", f"qe{os.getpid()}v{number}"
        inner = f"{self.cable}i"
        high, low = divmod((os.getpid() * 8 + number) % 16384, 64)
        net = f"10.231.{high}"
        ours, its = f"{net}.{low * 4 + 1}", f"{net}.{low * 4 + 2}"
        _ip("netns", "add", self._space)
        try:
            _ip("link", "add", self.cable, "type", "veth", "peer", "name", inner, "netns", self._space)
            _ip("address", "add", f"{ours}/30", "dev", self.cable)
            _ip("link", "set", self.cable, "up")
            _ip("-n", self._space, "address", "add", f"{its}/30", "dev", inner)
            _ip("-n", self._space, "link", "set", inner, "up")
            _ip("-n", self._space, "link", "set", "lo", "up")
            super().__init__(folder, *lines, environment=environment, host=its)
        except BaseException:
            self.remove()
            raise
        self._before = [shutil.which("ip") or "ip", "netns", "exec", self._space]

    def link(self, state: str) -> None:
        """Cut the cable ("down"), or mend it ("up")."""
        _ip("link", "set", self.cable, state)

    def remove(self) -> None:
        """Take the cable away."""
        subprocess.run(["ip", "link", "delete", self.cable], capture_output=True)
        subprocess.run(["ip", "netns", "delete", self._space], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")


def _below(pid: int) -> list[int]:
    """Every process that descends from this one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found, look = [], [pid]
    while look:
        children = parents.get(look.pop(), [])
        found += children
        look += children
    return found


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _end_sessions(server: Sshd) -> None:
    """End what runs in its sessions, too: stopped processes do not notice that their connection is gone."""
    if server._process is None:
        return
    sessions = _below(server.pid)
    server.stop()
    for pid in sessions:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.fixture
def start_sshd(tmp_path: Path) -> Iterator[Callable[..., Sshd]]:
    """Start a server: start_sshd("MaxSessions 2", environment={"TMPDIR": ...})."""
    servers: list[Sshd] = []

    def start(*lines: str, environment: Mapping[str, str] | None = None) -> Sshd:
        server = Sshd(tmp_path / f"sshd{len(servers)}", *lines, environment=_environment(tmp_path, environment))
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        _end_sessions(server)


@pytest.fixture
def sshd(start_sshd: Callable[..., Sshd]) -> Sshd:
    """A server that runs."""
    return start_sshd()


@pytest.fixture
def netns_sshd(tmp_path: Path) -> Iterator[Callable[..., NetnsSshd]]:
    """Start a server behind a cable of its own: netns_sshd().link("down")."""
    if os.geteuid() != 0:
        pytest.skip("only root may make network namespaces")
    if not shutil.which("ip"):
        pytest.skip("no `ip` here (Debian, Ubuntu: apt install iproute2)")
    servers: list[NetnsSshd] = []

    def start(*lines: str, environment: Mapping[str, str] | None = None) -> NetnsSshd:
        number = len(servers)
        folder = tmp_path / f"netns{number}"
        server = NetnsSshd(folder, number, *lines, environment=_environment(tmp_path, environment))
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        _end_sessions(server)
        server.remove()


def _environment(tmp_path: Path, environment: Mapping[str, str] | None) -> Mapping[str, str]:
    """Say what sessions get: sshd passes nothing on. Without a word, a TMPDIR below the test's own folder.

    The board's lock lies there, too: to a test its server is a machine of its own.
    """
    if environment is None:
        folder = tmp_path / "tmp"
        folder.mkdir(exist_ok=True)
        environment = {"TMPDIR": str(folder)}
    return {"QAEDGE_LOCKS": environment["TMPDIR"], **environment}
