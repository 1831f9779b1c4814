"""Host keys: what a machine shows, held against what is pinned or known; never added unasked."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, InvalidHostKey

from qaedge.errors import HostKeyChanged, HostKeyUnknown, InvalidFile
from qaedge.hil.address import Address

#: A kind of key -> how it is asked for, where that is called otherwise.
_SIGNED_BY = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


#: Kinds of key by what they are asked for with; a machine has one of each, or of some.
_KINDS = (
    ("ssh-ed25519",),
    ("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    ("rsa-sha2-512", "rsa-sha2-256"),
)


def other_kinds(key: paramiko.PKey) -> list[tuple[str, ...]]:
    """Return how to ask a machine for its keys of other kinds than this one's."""
    own = _SIGNED_BY.get(key.get_name(), (key.get_name(),))
    return [kinds for kinds in _KINDS if not set(kinds) & set(own)]


def fingerprint(key: paramiko.PKey) -> str:
    """Return "SHA256:...", as `ssh-keygen -lf` prints it."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def check(address: Address, key: paramiko.PKey) -> None:
    """Accept a machine's key, or raise.

    Raises:
        HostKeyChanged: another key is pinned, or known, for that machine; or this one is revoked.
        HostKeyUnknown: none is.
        InvalidFile: a `known_hosts` file that cannot be read.
    """
    shown = fingerprint(key)
    for file in address.known_hosts:
        if any(fingerprint(other) == shown for other in _known(Path(file), address.key_name, revoked=True)):
            raise HostKeyChanged(
                f"The machine at {address} shows a key that is revoked in {file}: {key.get_name()} {shown}.",
                "Whoever revoked it holds it for stolen: ask. Nothing was sent.",
            )
    if address.host_key:
        if not hmac.compare_digest(address.host_key, shown):
            raise _changed(address, key, address.host_key, "its description")
        return
    if known_in(address, key):
        return
    raise HostKeyUnknown(
        f"The key of {address} is not known: {key.get_name()} {shown}.",
        "Compare it with what the board itself says (on the board: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub).\n"
        f"If they are the same, run: qaedge device add {address.name} {address}",
    )


def known_in(address: Address, key: paramiko.PKey) -> str:
    """Return the file that knows this key for that machine, or nothing.

    Raises HostKeyChanged where files know only others.
    """
    known = {file: _known(Path(file), address.key_name) for file in address.known_hosts}
    for file, keys in known.items():
        if any(fingerprint(other) == fingerprint(key) for other in keys):
            return file
    for file, keys in known.items():
        if keys:  # even of another kind: those that are known were asked for first
            other_kind = key.get_name() not in [known_key.get_name() for known_key in keys]
            raise _changed(address, key, f"{fingerprint(keys[0])} ({keys[0].get_name()})", file, other_kind)
    return ""


def known_types(address: Address) -> list[str]:
    """Return the kinds of key that are known of a machine: these are asked for first."""
    if address.host_key:
        return []
    kinds = [key.get_name() for file in address.known_hosts for key in _known(Path(file), address.key_name)]
    return [name for kind in dict.fromkeys(kinds) for name in _SIGNED_BY.get(kind, (kind,))]


def _changed(address: Address, key: paramiko.PKey, wanted: str, where: str, other_kind: bool = False) -> HostKeyChanged:
    if other_kind:
        return HostKeyChanged(
            f"The machine at {address} offers another kind of key than the one that is known: it shows "
            f"{key.get_name()} {fingerprint(key)}, none of the kind of {wanted}, which {where} has.",
            "Either its keys of that kind were taken away, or somebody answers in its place. Nothing was sent.\n"
            "Compare the fingerprint on the board itself, then run: "
            f"qaedge device add {address.name} {address} --replace --fingerprint SHA256:...",
        )
    return HostKeyChanged(
        f"The machine at {address} is not the one that was pinned: it shows {key.get_name()} {fingerprint(key)}, "
        f"and {where} has {wanted}.",
        "Either the board was installed anew, or somebody answers in its place. Nothing was sent.\n"
        "If you installed it anew, compare the fingerprint on the board itself, then run: "
        f"qaedge device add {address.name} {address} --replace --fingerprint SHA256:...",
    )


def _known(file: Path, name: str, revoked: bool = False) -> list[paramiko.PKey]:
    """Return every key that a file has for a machine, or every one that is revoked there."""
    if not file.exists():
        return []
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError as error:
        raise InvalidFile(file, "", "host keys", str(error)) from error
    found = []
    for line in lines:
        mark, _, rest = line.strip().partition(" ") if line.lstrip().startswith("@") else ("", "", line.strip())
        # What cannot be read, and what a certificate authority signs, makes no key known.
        if mark == ("@revoked" if revoked else "") and rest and not rest.startswith("#"):
            with contextlib.suppress(paramiko.SSHException, InvalidHostKey, ValueError, IndexError):
                entry = HostKeyEntry.from_line(rest.strip())
                if entry is not None and entry.key is not None and (_names(entry, name) or "*" in entry.hostnames):
                    found.append(entry.key)
    return found


def _names(entry: HostKeyEntry, name: str) -> bool:
    """Whether a line is about a machine; its names may be hashed."""
    return any(
        known == (paramiko.HostKeys.hash_host(name, known) if known.startswith("|1|") else name)
        for known in entry.hostnames or ()
    )
