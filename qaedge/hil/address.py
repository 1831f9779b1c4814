"""An address: where a board is reached by SSH, from its description and from `~/.ssh/config`."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import paramiko

from qaedge.device import Device, Ssh
from qaedge.errors import InvalidFile, Unreachable

_DEFAULT_PORT = 22


class Address(msgspec.Struct, frozen=True):
    """Everything that a connection needs to know.

    Attributes:
        name: the device, for messages.
        host, port, user: where, and as whom.
        host_key: the pinned fingerprint, "SHA256:..."; empty: `known_hosts` must hold the key.
        key_name: under which name `known_hosts` holds the key.
        known_hosts: the files that are looked into.
        identity_files: private keys, in the order in which they are offered; no others are.
        agent: whether keys of a running ssh-agent are offered, too.
        jump: the machine to go through.
    """

    name: str
    host: str
    port: int
    user: str
    host_key: str = ""
    key_name: str = ""
    known_hosts: tuple[str, ...] = ()
    identity_files: tuple[str, ...] = ()
    agent: bool = False
    jump: Address | None = None

    def __str__(self) -> str:
        """Write it as ssh does: user@host, and the port where it is not 22."""
        port = f":{self.port}" if self.port != _DEFAULT_PORT else ""
        return f"{self.user}@{self.host}{port}"


def ssh_folder() -> Path:
    """The user's own `.ssh`."""
    return Path.home() / ".ssh"


def address_of(device: Device) -> Address:
    """Return where a device is: its own file first, then `~/.ssh/config`, where `Host` is the device's name.

    Raises:
        Unreachable: neither says.
        InvalidFile: `~/.ssh/config` cannot be read.
    """
    config = _config()
    ssh = device.ssh or Ssh()
    if not ssh.host and device.name not in _hosts():
        raise Unreachable(
            f"Nobody has said where {device.name} is.",
            f"Run: qaedge device add {device.name} USER@HOST\n"
            f"Or write `Host {device.name}` into {ssh_folder()}/config (files that it includes are not read).",
        )
    return _resolve(device.name, ssh, config, depth=0)


def parse_address(name: str, text: str) -> Address:
    """Return the address that `[user@]host[:port]` names, with what `~/.ssh/config` says of that host."""
    return _resolve(name, parse_ssh(text), _config(), depth=0)


def _resolve(name: str, ssh: Ssh, config: paramiko.SSHConfig, depth: int) -> Address:
    if depth > 4:
        raise Unreachable(f"The ways to {name} go through each other.", f"Look at ProxyJump in {ssh_folder()}/config.")
    alias = ssh.host or name
    found: Mapping[str, str | list[str]] = config.lookup(alias)
    if "proxycommand" in found:
        raise Unreachable(
            f"{ssh_folder()}/config reaches {alias} by ProxyCommand, which qaedge does not run.",
            "Use ProxyJump there, or write the address into the device's description.",
        )
    user = ssh.user or str(found.get("user", "")) or getpass.getuser()
    written = str(found.get("port", _DEFAULT_PORT))
    if not written.isdecimal() or not 0 < int(written) < 65536:
        raise InvalidFile(ssh_folder() / "config", "Port", "a number from 1 to 65535", repr(written))
    port = ssh.port or int(written)
    host = str(found.get("hostname", alias))
    identities = [ssh.identity_file] if ssh.identity_file else list(found.get("identityfile", []))
    jump = ssh.jump or str(found.get("proxyjump", ""))
    files = str(found.get("userknownhostsfile", "")).split() or [str(ssh_folder() / "known_hosts")]
    key_name = str(found.get("hostkeyalias", "")) or (host if port == _DEFAULT_PORT else f"[{host}]:{port}")
    return Address(
        name=name,
        host=host,
        port=port,
        user=user,
        host_key=ssh.host_key,
        key_name=key_name,
        known_hosts=(*(_expand(file) for file in files), "/etc/ssh/ssh_known_hosts"),
        identity_files=tuple(_expand(file) for file in identities),
        agent=ssh.agent,
        jump=_jump(jump, config, depth),
    )


def _jump(text: str, config: paramiko.SSHConfig, depth: int) -> Address | None:
    """Return the last of a comma-separated list of machines; it is reached through those before it."""
    if text.lower() in ("", "none"):
        return None
    *before, last = (part.strip() for part in text.split(","))
    ssh = msgspec.structs.replace(parse_ssh(last), jump=",".join(before))
    return _resolve(ssh.host, ssh, config, depth + 1)


def parse_ssh(text: str) -> Ssh:
    """Return what `[user@]host[:port]` says, and no more; raise Unreachable where it is no address."""
    user, _, rest = text.strip().removeprefix("ssh://").rpartition("@")
    host, port = rest, "0"
    if rest.startswith("["):  # an IPv6 address with a port
        host, _, tail = rest[1:].partition("]")
        port = tail.lstrip(":") or "0"
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    if (
        not host
        or not port.isdecimal()
        or not port.isascii()
        or not int(port) < 65536
        or any(c.isspace() or c == "-" for c in (user + host)[:1])
    ):
        raise Unreachable(
            f"{text!r} is no address.", "Write it like pi@raspberrypi.local, or with a port: pi@10.0.0.7:2222"
        )
    return Ssh(host=host, user=user, port=int(port))


def _expand(file: str) -> str:
    return str(Path(file.strip('"')).expanduser())


def _hosts() -> set[str]:
    """Return the names in the `Host` lines of `~/.ssh/config` (paramiko's own list fails where there is a `Match`)."""
    words = (re.split(r"[\s=]+", line.strip()) for line in _lines())
    return {name.strip('"') for word, *names in words if word.lower() == "host" for name in names}


def _lines() -> list[str]:
    path = ssh_folder() / "config"
    try:
        return path.read_text(errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        raise InvalidFile(path, "", "what ssh reads", str(error)) from error


def _config() -> paramiko.SSHConfig:
    path = ssh_folder() / "config"
    if not path.exists():
        return paramiko.SSHConfig()
    for number, line in enumerate(_lines(), start=1):
        if re.match(r"\s*match\b.*\bexec\b", line, re.IGNORECASE):  # paramiko would run it in a shell
            raise InvalidFile(path, f"line {number}", "no `Match exec`, which qaedge does not run", line.strip())
    try:
        return paramiko.SSHConfig.from_path(str(path))
    except (OSError, UnicodeDecodeError, paramiko.ConfigParseError, paramiko.CouldNotCanonicalize) as error:
        raise InvalidFile(path, "", "what ssh reads", str(error)) from error
