"""A stand-in for CUDA's runtime library: memory is the processor's, and time is counted, not measured.

It follows https://docs.nvidia.com/cuda/cuda-runtime-api/: out-parameters by pointer, a status as the
result, and cudaErrorInitializationError (3) in a process whose parent had started CUDA before it
forked. It stands in for the functions that profilers/cudart.py calls, and says nothing of others.
"""

import ctypes
import os

NAME, CAPABILITY = b"Orin", (8, 7)
COPY_NS = 4_000
SUCCESS, INVALID_VALUE, OUT_OF_MEMORY, INITIALIZATION_ERROR = 0, 1, 2, 3
TEXTS = {1: b"invalid argument", 2: b"out of memory", 3: b"initialization error"}


class _Function:
    restype = None

    def __init__(self, call):
        self.call = call

    def __call__(self, *arguments):
        return self.call(*arguments)


class Library:
    def __init__(self):
        self.started_by = None
        self.now_ns = 0
        self.memory = {}
        self.events = {}
        self.memory_bytes = 1 << 30
        self.cudaGetErrorString = _Function(lambda status: TEXTS.get(status.value, b"unknown"))

    def start(self):
        """What every call does first."""
        self.started_by = self.started_by or os.getpid()
        return SUCCESS if self.started_by == os.getpid() else INITIALIZATION_ERROR

    def run(self, ns):
        """Let the GPU work for a while."""
        self.now_ns += ns

    def cudaGetDeviceProperties(self, properties, device):
        properties._obj.value = NAME
        return self.start()

    def cudaDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = CAPABILITY[{75: 0, 76: 1}[attribute.value]]
        return self.start()

    def cudaMalloc(self, address, size):
        if sum(map(len, self.memory.values())) + size.value > self.memory_bytes:
            return OUT_OF_MEMORY
        piece = ctypes.create_string_buffer(size.value)
        address._obj.value = ctypes.addressof(piece)
        self.memory[address._obj.value] = piece
        return self.start()

    def cudaFree(self, address):
        return SUCCESS if self.memory.pop(address.value, None) is not None else INVALID_VALUE

    def cudaMemcpy(self, to, source, size, kind):
        inside = {1: to, 2: source}[kind.value].value
        if inside not in self.memory or len(self.memory[inside]) < size.value:
            return INVALID_VALUE
        ctypes.memmove(to.value, source.value, size.value)
        return self.start()

    def cudaMemcpyAsync(self, to, source, size, kind, stream):
        if kind.value != 3 or to.value not in self.memory or source.value not in self.memory:
            return INVALID_VALUE
        ctypes.memmove(to.value, source.value, size.value)
        self.run(COPY_NS)
        return self.start()

    def cudaDeviceSynchronize(self):
        return self.start()

    def cudaStreamCreateWithFlags(self, stream, flags):
        stream._obj.value = 77
        return self.start()

    def cudaStreamSynchronize(self, stream):
        return self.start() if stream.value == 77 else INVALID_VALUE

    def cudaEventCreateWithFlags(self, event, flags):
        event._obj.value = 1000 + len(self.events)
        self.events[event._obj.value] = None
        return self.start()

    def cudaEventRecord(self, event, stream):
        self.events[event.value] = self.now_ns
        return self.start()

    def cudaEventSynchronize(self, event):
        return self.start()

    def cudaEventElapsedTime(self, milliseconds, start, end):
        milliseconds._obj.value = (self.events[end.value] - self.events[start.value]) / 1e6
        return self.start()


LIBRARY = Library()
