"""A TCP proxy between a host and its board: delays both ways, cuts after so many bytes, counts turns.

What is encrypted can only be delayed or cut here, and never changed unseen.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from types import TracebackType


class _Way:
    """One direction of one connection: what waits to be passed on, and when."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source, self.sink = source, sink
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.passed = 0


class Proxy:
    """Listens on a port of its own, and passes everything on to another; a context manager."""

    def __init__(self, host: str, port: int, delay_s: float = 0.0, cut_after: int | None = None) -> None:
        """Listen.

        Args:
            host, port: where everything goes.
            delay_s: how long each byte is on its way, in each direction.
            cut_after: end the connection when so many bytes went to the server; the next one is let through.
        """
        self._to = (host, port)
        self._delay_s = delay_s
        self.cut_after = cut_after
        self.connections = self.cuts = self.bytes_up = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host, self.port = self._listener.getsockname()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ways: list[_Way] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every connection, and do not listen any more."""
        self._stopping = True
        self._thread.join(5.0)
        for way in self._ways:
            way.source.close()
        self._listener.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopping:
            due = [way.waiting[0][0] for way in self._ways if way.waiting]
            timeout = max(0.0, min(due) - time.monotonic()) if due else 0.05
            for key, _ in self._selector.select(min(timeout, 0.05)):
                if key.data is None:
                    self._accept()
                else:
                    self._take(key.data)
            for way in list(self._ways):
                self._pass_on(way)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._to, 10)
        except OSError:
            client.close()
            return
        self.connections += 1
        for source, sink in ((client, server), (server, client)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            way = _Way(source, sink)
            self._ways.append(way)
            self._selector.register(source, selectors.EVENT_READ, way)

    def _take(self, way: _Way) -> None:
        try:
            data = way.source.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(way.source)
        way.waiting.append((time.monotonic() + self._delay_s, data))

    def _pass_on(self, way: _Way) -> None:
        while way.waiting and way.waiting[0][0] <= time.monotonic():
            data = way.waiting.popleft()[1]
            upwards = way.sink.getpeername()[1] == self._to[1] if data else False
            if upwards and self.cut_after is not None and way.passed + len(data) > self.cut_after:
                self.cut_after = None
                self.cuts += 1
                self._end(way)
                return
            if not data:
                self._end(way)
                return
            try:
                way.sink.sendall(data)
            except OSError:
                self._end(way)
                return
            way.passed += len(data)
            self.bytes_up += len(data) if upwards else 0

    def _end(self, way: _Way) -> None:
        """End both directions of a connection."""
        for other in [other for other in self._ways if way.source in (other.source, other.sink)]:
            self._ways.remove(other)
            with contextlib.suppress(KeyError):
                self._selector.unregister(other.source)
            other.source.close()
