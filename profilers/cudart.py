"""CUDA's runtime library, through ctypes: memory, streams and events.

Function by function as https://docs.nvidia.com/cuda/cuda-runtime-api/ describes them. Only the
library is loaded here; CUDA itself starts with the first call, which must not happen before a fork:
a forked process cannot use what its parent has started.
"""

import ctypes
from typing import Any, List, Tuple

#: Where the library is: where the loader finds it, or where JetPack puts it.
PLACES = (
    "libcudart.so",
    "/usr/local/cuda/lib64/libcudart.so",
    "libcudart.so.13",
    "libcudart.so.12",
    "libcudart.so.11.0",
)
#: cudaMemcpyKind
_UP, _DOWN, _ACROSS = 1, 2, 3
#: cudaDeviceAttr: the two halves of the compute capability
_MAJOR, _MINOR = 75, 76
#: cudaEventBlockingSync: whoever waits sleeps, and takes no power from the GPU; cudaStreamNonBlocking
_BLOCKING, _NON_BLOCKING = 1, 1
#: More than any version's cudaDeviceProp; all begin with the name, 256 bytes.
_PROPERTIES = 1 << 14


class CudaError(Exception):
    """A call that failed; the text names the function and CUDA's reason."""


class Cuda:
    """The library."""

    def __init__(self, library: Any = None) -> None:
        """Load it; raise CudaError where it is not."""
        self._library = library or _load()
        self._library.cudaGetErrorString.restype = ctypes.c_char_p

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function; raise CudaError where its status is not 0."""
        status = getattr(self._library, name)(*arguments)
        if status:
            reason = self._library.cudaGetErrorString(ctypes.c_int(status))
            raise CudaError("%s: %s (%d)" % (name, (reason or b"unknown").decode(errors="replace"), status))

    def device(self) -> Tuple[str, str]:
        """Return the GPU's name and its compute capability, such as "8.7"."""
        properties = ctypes.create_string_buffer(_PROPERTIES)
        # CUDA 12 has the function under a second name, for its longer struct.
        names = ("cudaGetDeviceProperties", "cudaGetDeviceProperties_v2")
        name = next((name for name in names if hasattr(self._library, name)), names[0])
        self.call(name, ctypes.byref(properties), ctypes.c_int(0))
        numbers = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self.call("cudaDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(attribute), ctypes.c_int(0))
            numbers.append(str(value.value))
        return properties.raw[:256].split(b"\0")[0].decode(errors="replace"), ".".join(numbers)

    def stream(self) -> int:
        """Return a new stream that waits for no other."""
        stream = ctypes.c_void_p()
        self.call("cudaStreamCreateWithFlags", ctypes.byref(stream), ctypes.c_uint(_NON_BLOCKING))
        return int(stream.value or 0)

    def event(self) -> int:
        """Return a new event with a time."""
        event = ctypes.c_void_p()
        self.call("cudaEventCreateWithFlags", ctypes.byref(event), ctypes.c_uint(_BLOCKING))
        return int(event.value or 0)

    def record(self, event: int, stream: int) -> None:
        """Have the GPU note the time when it comes to this place in the stream."""
        self.call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ns(self, start: int, end: int) -> int:
        """Wait for the second event and return the time between the two [ns]; CUDA counts half microseconds."""
        self.call("cudaEventSynchronize", ctypes.c_void_p(end))
        milliseconds = ctypes.c_float()
        self.call("cudaEventElapsedTime", ctypes.byref(milliseconds), ctypes.c_void_p(start), ctypes.c_void_p(end))
        return round(milliseconds.value * 1e6)

    def wait(self, stream: int) -> None:
        """Wait until a stream has done all."""
        self.call("cudaStreamSynchronize", ctypes.c_void_p(stream))


class Memory:
    """A piece of the GPU's memory; it is given back with the object."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        """Take it; raise CudaError where there is none."""
        address = ctypes.c_void_p()
        self._cuda = cuda
        self.address = 0
        self.size = size
        cuda.call("cudaMalloc", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        self.address = int(address.value or 0)

    def __del__(self) -> None:
        """Give it back."""
        if self.address:
            self._cuda._library.cudaFree(ctypes.c_void_p(self.address))

    def fill(self, array: Any) -> None:
        """Copy an array here, and wait until it is: a copy from ordinary memory may come back before it has arrived."""
        self._copy(self.address, array.ctypes.data, _UP)
        self._cuda.call("cudaDeviceSynchronize")

    def read_into(self, array: Any) -> None:
        """Copy what is here into an array."""
        self._copy(array.ctypes.data, self.address, _DOWN)

    def copy_to(self, other: "Memory", stream: int) -> None:
        """Have the GPU copy this to another piece of the same size."""
        places = [ctypes.c_void_p(other.address), ctypes.c_void_p(self.address)]
        rest: List[Any] = [ctypes.c_size_t(self.size), ctypes.c_int(_ACROSS), ctypes.c_void_p(stream)]
        self._cuda.call("cudaMemcpyAsync", *places, *rest)

    def _copy(self, to: int, source: int, kind: int) -> None:
        size = ctypes.c_size_t(self.size)
        self._cuda.call("cudaMemcpy", ctypes.c_void_p(to), ctypes.c_void_p(source), size, ctypes.c_int(kind))


def _load() -> Any:
    for place in PLACES:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    raise CudaError("CUDA's runtime library is not here (%s). It comes with JetPack." % ", ".join(PLACES))
