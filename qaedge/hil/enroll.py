"""Enrolling a board: which key it shows before anything is sent to it, and who it says it is once we are in."""

from __future__ import annotations

import hmac
from pathlib import Path

import msgspec

from qaedge.device import Device, Ssh
from qaedge.errors import HostKeyChanged
from qaedge.hil import host_key
from qaedge.hil.address import Address, address_of, parse_ssh, ssh_folder
from qaedge.hil.agent import AgentSession
from qaedge.hil.frames import Hello
from qaedge.hil.ssh import SshTarget, connect, open_transport

#: The private keys that ssh itself would try, the better ones first.
IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa")


class Shown(msgspec.Struct, frozen=True):
    """The key that a machine shows: its kind and fingerprint, which file knows it, or what speaks against it."""

    kind: str
    fingerprint: str
    known_in: str = ""
    conflict: str = ""


def wanted_ssh(name: str, address: str, identity: str = "", agent: bool = False) -> Ssh:
    """Return the table [ssh] for an address as it was typed; `~/.ssh/config` is left to say the rest.

    Raises Unreachable where it is no address.
    """
    ssh = msgspec.structs.replace(parse_ssh(address), agent=agent, identity_file=identity)
    found = resolve(name, ssh)
    if not found.identity_files and not agent:
        keys = [ssh_folder() / key for key in IDENTITIES if (ssh_folder() / key).exists()]
        ssh = msgspec.structs.replace(ssh, identity_file=_short(keys[0]) if keys else "")
    return msgspec.structs.replace(ssh, user=ssh.user or found.user, port=ssh.port or found.port)


def resolve(name: str, ssh: Ssh) -> Address:
    """Return where that is."""
    return address_of(_stand_in(name, ssh))


def shown_key(name: str, ssh: Ssh) -> Shown:
    """Connect just far enough to see a machine's key; nothing is sent to it.

    Raises Unreachable, and whatever hinders a connection to the machines before it.
    """
    address = resolve(name, msgspec.structs.replace(ssh, host_key=""))
    before = connect(address.jump) if address.jump is not None else []
    try:
        transport = open_transport(address, before[-1] if before else None)
        try:
            key = transport.get_remote_server_key()
        finally:
            transport.close()
    finally:
        for opened in reversed(before):
            opened.close()
    shown = Shown(key.get_name(), host_key.fingerprint(key))
    try:
        return msgspec.structs.replace(shown, known_in=host_key.known_in(address, key))
    except HostKeyChanged as error:
        return msgspec.structs.replace(shown, conflict=error.message)


def compare(name: str, shown: Shown, wanted: str) -> None:
    """Raise HostKeyChanged where a machine shows another key than the one that somebody read on the board."""
    if not hmac.compare_digest(wanted.encode(), shown.fingerprint.encode()):
        raise HostKeyChanged(
            f"The machine at {name} is not the one that was named: it shows {shown.kind} {shown.fingerprint}, "
            f"and --fingerprint says {wanted}.",
            "Either the fingerprint is of another of its keys, or somebody answers in its place. Nothing was sent.\n"
            f"On the board: ssh-keygen -lf /etc/ssh/ssh_host_{shown.kind.removeprefix('ssh-').split('-')[0]}_key.pub",
        )


def greet(name: str, ssh: Ssh) -> Hello:
    """Log in, let the agent say hello and go again; raise LoginRefused, or whatever else hinders that."""
    device = _stand_in(name, ssh)
    with AgentSession(device, SshTarget(address_of(device)), lock=False, runtime=False) as session:
        return session.hello


def _stand_in(name: str, ssh: Ssh) -> Device:
    return Device(name=name, description="not known yet", connection="ssh", ssh=ssh)


def _short(path: Path) -> str:
    """Write a path below the home as `~/...`, so that the file works for others, too."""
    return f"~/{path.relative_to(Path.home())}" if path.is_relative_to(Path.home()) else str(path)
