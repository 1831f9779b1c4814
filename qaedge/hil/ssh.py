"""SshTarget: a board behind SSH, by paramiko: one connection, and one constant command line per session.

Host keys are never added unasked, only named private keys are offered, and nothing weak is negotiated.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import socket
import stat
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paramiko

from qaedge.errors import DeviceLost, HostKeyChanged, LoginRefused, MissingFile, Unreachable
from qaedge.hil import host_key
from qaedge.hil.address import Address

#: Where `device setup` puts the Python with the runtimes, relative to the user's home there.
VENV = ".qaedge/venv"
#: How long to wait for a connection, for a banner, and for a login [s].
CONNECT_S, BANNER_S, LOGIN_S = 10.0, 15.0, 20.0
#: What paramiko may send at once: one huge piece takes it quadratic time.
_PIECE = 1 << 16
#: A board that acknowledges nothing for this long is gone [ms].
_USER_TIMEOUT_MS = 10_000
_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_MACS = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512")


class SshProcess:
    """A command on a board: the streams of one channel."""

    def __init__(self, transport: paramiko.Transport, command: str, name: str) -> None:
        """Start it; raise DeviceLost or Unreachable."""
        self._transport = transport
        # paramiko would wait for ever for a board that hangs between the two.
        deadline = threading.Timer(CONNECT_S, transport.close)
        deadline.daemon = True
        try:
            self._channel = transport.open_session(timeout=CONNECT_S)
            deadline.start()
            self._channel.exec_command(command)
        except (paramiko.SSHException, OSError, EOFError) as error:
            if not transport.is_active():
                raise DeviceLost(f"The connection to {name} ended: {_why(error)}.", _CABLE) from error
            raise Unreachable(
                f"{name} opens no further session: {_why(error)}.",
                "End other sessions there, or raise MaxSessions in its sshd_config.",
            ) from error
        finally:
            deadline.cancel()

    def write(self, data: bytes) -> None:
        """See Remote."""
        left = memoryview(data)
        while left:
            # The channel's one timeout is the reader's: a board that takes its time is no failure here.
            with contextlib.suppress(TimeoutError):
                try:
                    sent = self._channel.send(bytes(left[:_PIECE]))
                except (paramiko.SSHException, EOFError) as error:
                    raise ConnectionError("its connection ended") from error
                if not sent:
                    raise BrokenPipeError("its input is closed")
                left = left[sent:]

    def read(self, timeout_s: float) -> bytes:
        """See Remote. OSError where the connection ended, rather than the command."""
        self._channel.settimeout(timeout_s)
        data = self._channel.recv(1 << 18)
        if not data and self.wait(2.0) is None and not self._transport.is_active():
            raise ConnectionError("its connection ended")
        return data

    def read_error(self) -> bytes:
        """See Remote."""
        while True:
            # The channel has one timeout for both streams: it is the other one's, and says nothing here.
            with contextlib.suppress(TimeoutError):
                return self._channel.recv_stderr(1 << 16)

    def close_input(self) -> None:
        """See Remote."""
        try:
            self._channel.shutdown_write()
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionError("its connection ended") from error

    def wait(self, timeout_s: float) -> int | None:
        """See Remote. None, too, where the connection ended before the board could say."""
        if not self._channel.status_event.wait(timeout_s):
            return None
        status = self._channel.exit_status
        return status if status >= 0 else None

    def kill(self) -> None:
        """See Remote. The agent ends when its input does, its guard sees to that; the board is not asked.

        All of the connection ends: on a dead link, closing the channel alone would wait for a
        message that nobody takes.
        """
        self._transport.close()

    def close(self) -> None:
        """See Remote."""
        self._channel.close()


class SshTarget:
    """A board behind SSH: one connection for all that is done there."""

    def __init__(self, address: Address, python: str = "") -> None:
        """Connect.

        Args:
            address: where it is.
            python: what has the runtimes there; empty: the one in VENV where there is one, else `python3`.

        Raises:
            Unreachable, HostKeyUnknown, HostKeyChanged, LoginRefused, InvalidFile.
        """
        self.name = address.name
        self.python = python or "python3"
        self._chosen = bool(python)
        self._transports = connect(address)

    def run(self, command: Sequence[str]) -> SshProcess:
        """Start a command; raise DeviceLost."""
        return SshProcess(self._transports[-1], shlex.join(command), self.name)

    def run_python(self, code: str) -> SshProcess:
        """See Target. The line that the board's shell sees depends on nothing but the device's description."""
        start = f"exec {shlex.quote(self.python)} -u -c {shlex.quote(code)}"
        if not self._chosen:
            venv = f'"$HOME"/{VENV}/bin/python'
            start = f"test -x {venv} && exec {venv} -u -c {shlex.quote(code)}; {start}"
        return self.run(["sh", "-c", start])

    def put(self, source: Path, destination: str) -> None:
        """Copy a file to the board."""
        with self._sftp() as sftp:
            sftp.put(str(source), destination)

    def get(self, source: str, destination: Path) -> None:
        """Copy a file from the board."""
        with self._sftp() as sftp:
            sftp.get(source, str(destination))

    def close(self) -> None:
        """End the connection, and those that it goes through."""
        for transport in reversed(self._transports):
            transport.close()

    def _sftp(self) -> paramiko.SFTPClient:
        sftp = self._transports[-1].open_sftp_client()
        if sftp is None:
            raise Unreachable(f"{self.name} has no SFTP.")
        return sftp


def connect(address: Address) -> list[paramiko.Transport]:
    """Connect and log in; return the connection, last, after those it goes through. Raises as SshTarget."""
    before = connect(address.jump) if address.jump is not None else []
    try:
        transport = _trusted(address, before[-1] if before else None)
        try:
            _log_in(transport, address)
        except BaseException:
            transport.close()
            raise
    except BaseException:
        for opened in reversed(before):
            opened.close()
        raise
    return [*before, transport]


def _trusted(address: Address, through: paramiko.Transport | None) -> paramiko.Transport:
    """Return a connection to the machine that is meant.

    A machine has a key of each kind, and shows one of them. Where another one than the pinned comes
    first, it is asked for those of the other kinds: the pinned one may be among them.
    """
    transport = open_transport(address, through)
    key = transport.get_remote_server_key()
    try:
        host_key.check(address, key)
        return transport
    except HostKeyChanged as error:
        transport.close()
        if not address.host_key:
            raise
        changed = error
    except BaseException:
        transport.close()
        raise
    for kinds in host_key.other_kinds(key):
        with contextlib.suppress(Unreachable, HostKeyChanged):  # it has none of that kind, or one that is not pinned
            transport = open_transport(address, through, kinds)
            try:
                host_key.check(address, transport.get_remote_server_key())
                return transport
            except BaseException:
                transport.close()
                raise
    raise changed


def open_transport(
    address: Address, through: paramiko.Transport | None = None, kinds: Sequence[str] = ()
) -> paramiko.Transport:
    """Agree on keys with a machine, nothing more; who it is has not been checked yet. Raises Unreachable.

    `kinds` are the only kinds of key that it may show; empty: any that is safe.
    """
    # paramiko logs what it raises, and where nobody listens Python prints that.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    connection = _socket(address) if through is None else _tunnel(address, through)
    transport = paramiko.Transport(connection)
    try:
        options = transport.get_security_options()
        options.ciphers = [name for name in _CIPHERS if name in options.ciphers]
        options.digests = [name for name in _MACS if name in options.digests]
        known = [name for name in host_key.known_types(address) if name in options.key_types]
        wanted = [*known, *(name for name in options.key_types if name not in known)]
        options.key_types = [name for name in wanted if not kinds or name in kinds]
        transport.banner_timeout = BANNER_S
        transport.auth_timeout = LOGIN_S
        transport.start_client(timeout=BANNER_S)
        if not transport.initial_kex_done:  # what paramiko calls a timeout: it returns
            raise TimeoutError(f"it did not answer within {BANNER_S:g} s")
    except paramiko.SSHException as error:
        transport.close()
        if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
            raise Unreachable(
                f"{address} knows no way of talking that is safe today: {_why(error)}.", "Update its OpenSSH."
            ) from error
        raise Unreachable(
            f"Something answers at {address}, but not an SSH server: {_why(error)}.",
            "A board that is booting, or to which too many connect at once, does that: wait a little. "
            "Otherwise check the port.",
        ) from error
    except (OSError, EOFError) as error:
        transport.close()
        raise Unreachable(f"{address} ended the connection: {_why(error)}.", _BOOTING) from error
    except BaseException:
        transport.close()
        raise
    return transport


def _socket(address: Address) -> socket.socket:
    try:
        connection = socket.create_connection((address.host, address.port), CONNECT_S)
    except socket.gaierror as error:
        raise Unreachable(
            f"No machine is called {address.host!r} here: {error.strerror}.",
            "Is the board on, and in the same network? Its number (10.0.0.7) works where its name does not.",
        ) from error
    except TimeoutError as error:
        raise Unreachable(f"{address} does not answer within {CONNECT_S:g} s.", _BOOTING) from error
    except OSError as error:
        raise Unreachable(f"No connection to {address}: {error.strerror or error}.", _BOOTING) from error
    connection.settimeout(None)
    # paramiko leaves this to us: without it each small message waits for the answer to the one before.
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    return connection


def _tunnel(address: Address, through: paramiko.Transport) -> Any:
    try:
        return through.open_channel("direct-tcpip", (address.host, address.port), ("127.0.0.1", 0), timeout=CONNECT_S)
    except (paramiko.SSHException, OSError, EOFError) as error:
        raise Unreachable(f"No way to {address} through the machine before it: {_why(error)}.", _BOOTING) from error


def _log_in(transport: paramiko.Transport, address: Address) -> None:
    with contextlib.ExitStack() as stack:
        if address.agent:
            agent = paramiko.Agent()
            stack.callback(agent.close)
            _offer(transport, address, list(agent.get_keys()))
        else:
            _offer(transport, address, [])


def _offer(transport: paramiko.Transport, address: Address, others: Sequence[paramiko.PKey]) -> None:
    """Offer the named keys, then these; raise LoginRefused where none is taken."""
    keys: list[paramiko.PKey] = [_load(Path(file)) for file in address.identity_files if Path(file).exists()]
    missing = [file for file in address.identity_files if not Path(file).exists()]
    if missing and not keys and not address.agent:
        raise MissingFile(
            f"No file {missing[0]}, the private key for {address.name}.",
            "Make one with ssh-keygen and ssh-copy-id, or name another: "
            f"qaedge device add {address.name} {address} --identity FILE",
        )
    keys += others
    for number, key in enumerate(keys):
        try:
            if not transport.auth_publickey(address.user, key):
                return
        except paramiko.AuthenticationException as error:
            if "timeout" in str(error).lower():
                raise Unreachable(f"{address} does not answer at the login within {LOGIN_S:g} s.", _BOOTING) from error
            if transport.is_active():
                continue
            if number:  # it has had enough of our keys (MaxAuthTries): no retry helps
                break
            raise Unreachable(f"{address} ended the connection at the login.", _BOOTING) from error
        except (paramiko.SSHException, OSError, EOFError) as error:
            raise Unreachable(f"{address} ended the connection at the login: {_why(error)}.", _BOOTING) from error
    offered = "no key was named" if not keys else f"{len(keys)} {'key was' if len(keys) == 1 else 'keys were'} offered"
    raise LoginRefused(
        f"{address} does not let us in: {offered}.",
        f"Let the board know your key: ssh-copy-id -i {_first(address)} {address.user}@{address.host}\n"
        f"Or name another key (--agent for those of ssh-agent): "
        f"qaedge device add {address.name} {address} --identity FILE",
    )


def _first(address: Address) -> str:
    return address.identity_files[0] if address.identity_files else "~/.ssh/id_ed25519"


def _load(file: Path) -> paramiko.PKey:
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise LoginRefused(f"The private key {file} can be read by others.", f"Close it: chmod 600 {file}")
        return paramiko.PKey.from_path(file)
    except (paramiko.SSHException, paramiko.pkey.UnknownKeyType, OSError, ValueError, TypeError) as error:
        if isinstance(error, TypeError | paramiko.PasswordRequiredException):  # the first is cryptography's word
            raise LoginRefused(
                f"The private key {file} has a passphrase.",
                "Give it to ssh-agent (ssh-add), and set `agent = true` under [ssh] in the device's description.",
            ) from error
        raise LoginRefused(f"The private key {file} cannot be read: {_why(error)}.") from error


def _why(error: BaseException) -> str:
    text = str(error).strip().rstrip(".")
    return " ".join(text.split()) or type(error).__name__


_BOOTING = "Is it on, and in the same network? A board that boots takes a minute."
_CABLE = "Check its power and its cable. What was finished is kept; run the same command again."
