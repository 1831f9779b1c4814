"""`qaedge device add`: a board's key shown and pinned, its address and what it is written down."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from qaedge import report
from qaedge.cli import device_file, options
from qaedge.device import folders, load_device
from qaedge.errors import HostKeyChanged, HostKeyUnknown, QaedgeError, UsageError
from qaedge.files import decode_toml

if TYPE_CHECKING:
    from qaedge.hil.enroll import Shown
    from qaedge.hil.frames import Hello

EXAMPLES = (
    "qaedge device add pi4 pi@raspberrypi.local",
    "qaedge device add pi4 pi@10.0.0.7:2222 --identity ~/.ssh/boards --replace",
)

#: What `ssh-keygen -lf` prints; some programs leave the base64's padding there.
_FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")


def run(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it; the name of its file.")],
    address: Annotated[str, typer.Argument(metavar="USER@HOST", help="Where it is; a port follows a colon.")],
    identity: Annotated[str, typer.Option("--identity", metavar="FILE", help="The private key to log in with.")] = "",
    agent: Annotated[bool, typer.Option("--agent", help="Offer the keys of the running ssh-agent, too.")] = False,
    base: Annotated[
        str,
        typer.Option("--base", metavar="DEVICE", help="The description that it is based on.  [default: what it is]"),
    ] = "",
    fingerprint: Annotated[
        str,
        typer.Option("--fingerprint", metavar="SHA256:...", help="The key that it must show, instead of asking."),
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Write the address into a description that exists.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Pin a board's key, check the login, and write ./devices/NAME.toml.

    Nothing is sent to the board before its key is accepted, and nothing secret is written.
    """
    from qaedge.hil.enroll import greet, shown_key, wanted_ssh

    path = device_file.own_file(name)
    if base and base not in device_file.packaged():
        raise UsageError(f"No description {base!r}.", f"Known: {', '.join(device_file.packaged())}.")
    if fingerprint and not _FINGERPRINT.fullmatch(fingerprint):
        raise UsageError(
            f"--fingerprint {fingerprint!r} is no SHA256 fingerprint: {_not_one(fingerprint)}.",
            "On the board: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n"
            'Its second word is the one, "SHA256:" and 43 letters, digits, + and /.',
        )
    if path.exists() and not replace:
        raise QaedgeError(
            f"There is a description {path} already.",
            "To write this address into it, and leave the rest: "
            f"qaedge device add {name} {address} --replace\nOr take another name.",
        )
    # A file that cannot be read is told before anything is asked.
    pinned = decode_toml(path, dict[str, Any]).get("ssh", {}) if path.exists() else {}
    ssh = wanted_ssh(name, address, identity, agent)
    report.note(f"connecting to {address}", quiet)
    shown = shown_key(name, ssh)
    report.note(f"{address} shows the key {shown.kind} {shown.fingerprint}", quiet=False)
    if pinned.get("host") == ssh.host and pinned.get("host_key", "") not in ("", shown.fingerprint):
        conflict = f"{address} shows another key than the one that {path} has pinned: {pinned['host_key']}."
        shown = msgspec.structs.replace(shown, conflict=shown.conflict or conflict)
    _accept(name, shown, fingerprint.rstrip("="))
    ssh = msgspec.structs.replace(ssh, host_key=shown.fingerprint)
    report.note("logging in", quiet)
    hello = greet(name, ssh)
    facts = {} if path.exists() else _facts(name, base, hello, quiet)
    path = device_file.write(name, facts, ssh)
    report.line(f"Wrote {path}: {_words(name, hello)}.")
    report.note(f"Next: qaedge device setup {name}", quiet)


def _not_one(fingerprint: str) -> str:
    kind = fingerprint.partition(":")[0].upper()
    if kind == "MD5" or fingerprint.count(":") == 15:
        return "MD5 is broken, and not believed"
    return "its length or its letters are wrong" if kind == "SHA256" else 'it does not begin with "SHA256:"'


def _accept(name: str, shown: Shown, fingerprint: str) -> None:
    """Return where the key is the board's, as the user says; raise otherwise."""
    from qaedge.hil.enroll import compare

    if fingerprint:
        compare(name, shown, fingerprint)
        return
    if shown.conflict:
        raise HostKeyChanged(
            shown.conflict,
            "Either the board was installed anew, or somebody answers in its place. Nothing was sent.\n"
            "If you installed it anew, read the fingerprint on the board itself, and give it: --fingerprint SHA256:...",
        )
    if not sys.stdin.isatty():
        raise HostKeyUnknown(
            f"Nobody can be asked whether that is the key of {name}.",
            "Compare it with what the board itself says (on the board: "
            f"ssh-keygen -lf /etc/ssh/ssh_host_{shown.kind.removeprefix('ssh-').split('-')[0]}_key.pub).\n"
            f"If they are the same, add: --fingerprint {shown.fingerprint}",
        )
    if shown.known_in:
        report.note(f"{shown.known_in} knows that key of it.")
    if not typer.confirm("Is this the board's?", err=True):
        raise HostKeyUnknown(f"The key of {name} was not accepted.", "Nothing was sent to it, and nothing written.")


def _facts(name: str, base: str, hello: Hello, quiet: bool) -> dict[str, Any]:
    """Return what stands above [ssh] in a new description: the base, and what that leaves open."""
    from qaedge.hil.board_model import description_of

    known = device_file.packaged()
    arch = hello.arch
    said = description_of(hello.board) or f"generic_{arch}"
    chosen = base
    for guess in (name, said, f"generic_{arch}"):
        if not chosen and guess in known and guess != "local" and _arch_of(guess) in ("any", arch):
            chosen = guess
    if base and _arch_of(base) not in ("any", arch):
        raise UsageError(
            f"The description {base} is for {_arch_of(base)}, and {name} is {arch}.",
            "Leave --base out, or name another.",
        )
    if chosen and chosen != said and said in known:
        report.warn(f"{name} calls itself {hello.board!r}, which is {said}, and is described as {chosen}.")
    if chosen:
        report.note(f"based on the description {chosen}", quiet)
        return {"name": name, "base": chosen}
    return {"name": name, "description": f"{hello.board or hello.cpu_model or 'a machine'}, {arch}", "arch": arch}


def _arch_of(name: str) -> str:
    found = decode_toml(folders()[-1] / f"{name}.toml", dict[str, Any]).get("arch", "any")
    return str(found)


def _words(name: str, hello: Hello) -> str:
    cores = f"{hello.cores} core{'s' if hello.cores > 1 else ''}"
    return ", ".join(
        filter(None, (load_device(name).description, hello.board, hello.arch, cores, f"Python {hello.python}"))
    )
