"""An sshd of one's own on 127.0.0.1, with throw-away keys, and a proxy before it that delays."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from qaedge.device import Device, Ssh

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
PidFile none
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
Subsystem sftp internal-sftp
"""


@contextlib.contextmanager
def loopback_device(folder: Path, python: str = sys.executable) -> Iterator[Device]:
    """Start a server, and describe the device behind it; ends both."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        sys.exit("error: no sshd here (Debian, Ubuntu: apt install openssh-server)")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(_CONFIG.format(folder=folder, port=port))
    shown = subprocess.run(["ssh-keygen", "-lf", folder / "host_key.pub"], check=True, capture_output=True, text=True)
    ssh = Ssh(
        host="127.0.0.1",
        port=port,
        user=pwd.getpwuid(os.getuid()).pw_name,
        host_key=shown.stdout.split()[1],
        identity_file=str(folder / "user_key"),
    )
    command = [program, "-D", "-f", str(folder / "sshd_config"), "-E", str(folder / "log")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as server:
        try:
            _wait(port, server)
            yield Device(name="loopback", description="this machine, by SSH", connection="ssh", python=python, ssh=ssh)
        finally:
            server.terminate()


@contextlib.contextmanager
def delayed(device: Device, delay_s: float) -> Iterator[Device]:
    """The same device, each byte to and from it on its way for so long."""
    assert device.ssh is not None
    program = Path(__file__).with_name("delay.py")
    command = [sys.executable, str(program), device.ssh.host, str(device.ssh.port), str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        try:
            assert proxy.stdout is not None
            port = int(proxy.stdout.readline())
            wanted = {name: getattr(device.ssh, name) for name in device.ssh.__struct_fields__}
            changed = {name: getattr(device, name) for name in device.__struct_fields__}
            yield Device(**{**changed, "ssh": Ssh(**{**wanted, "port": port})})
        finally:
            proxy.terminate()


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 10
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as probe:
            if probe.recv(4) == b"SSH-":
                return
        time.sleep(0.02)
    sys.exit("error: sshd did not start")
