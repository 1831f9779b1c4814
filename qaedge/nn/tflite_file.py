"""A .tflite file as it is put together: tensors, their numbers, operators; then its bytes.

The schema is LiteRT's own (`ai_edge_litert.schema_py_generated`), whose object API writes what it is
told but for two things that it leaves undone: numbers must lie on 16 bytes, as LiteRT's own
converter lays them, and zero points, eight bytes each and nearly all 0, need be there only once.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from qaedge.errors import MissingExtra

#: What the numbers of a tensor must lie on in the file [bytes].
_ALIGNMENT = 16
_VERSION, _IDENTIFIER = 3, b"TFL3"
#: Operators up to here have their number in a field of one byte, too, for readers older than 2020.
_LAST_OLD_CODE = 127


def is_installed() -> bool:
    """Whether TFLite files can be written and run here."""
    return importlib.util.find_spec("ai_edge_litert") is not None


def schema() -> Any:
    """Return LiteRT's schema; raise MissingExtra where it is not installed."""
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise MissingExtra("tflite", "ai-edge-litert") from error
    return schema_py_generated


class TfliteFile:
    """Grows tensor by tensor; whatever is written is referred to by the index that is returned."""

    def __init__(self) -> None:
        """Begin with nothing; raise MissingExtra where the schema is not installed."""
        self.schema = schema()
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [self.schema.BufferT()]  # the first is empty, by convention
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}
        self._parts = _parts(self.schema)

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        kind: str,
        scales: np.ndarray[Any, Any] | None = None,
        zero_points: np.ndarray[Any, Any] | None = None,
        axis: int = 0,
        data: np.ndarray[Any, Any] | None = None,
    ) -> int:
        """Add a tensor.

        Args:
            name: for people, and for what is fed and read by name.
            shape: every size, channels last.
            kind: as `TensorType` calls it, such as "INT8".
            scales: one, or one for each index of `axis`; None for a tensor that is not quantized.
            zero_points: as many as scales.
            axis: the axis that scales belong to.
            data: its numbers, where they are known beforehand.
        """
        s = self.schema
        tensor = s.TensorT(name=name, type=getattr(s.TensorType, kind), shape=np.array(shape, np.int32))
        tensor.shapeSignature = tensor.shape
        tensor.hasRank = True
        if scales is not None and zero_points is not None:
            quantization = self._parts["quantization"]()
            quantization.scale = scales.astype(np.float32)
            quantization.zeroPoint = zero_points.astype(np.int64)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        if data is not None:
            buffer = self._parts["buffer"]()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            tensor.buffer = len(self._buffers)
            self._buffers.append(buffer)
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def kind(self, index: int) -> str:
        """Return the type of a tensor, as `TensorType` calls it."""
        types = {value: name for name, value in vars(self.schema.TensorType).items() if name.isupper()}
        return str(types[self._tensors[index].type])

    def operator(self, kind: str, inputs: list[int], output: int, options: Any = None, version: int = 1) -> None:
        """Add an operator: `kind` as `BuiltinOperator` calls it, `options` one of the schema's, or None."""
        s = self.schema
        code = int(getattr(s.BuiltinOperator, kind))
        operator = s.OperatorT(
            opcodeIndex=self._codes.setdefault((code, version), len(self._codes)),
            inputs=np.array(inputs, np.int32),
            outputs=np.array([output], np.int32),
        )
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(s.BuiltinOptions, type(options).__name__[:-1])
        self._operators.append(operator)

    def data(self, inputs: dict[str, int], outputs: dict[str, int]) -> bytes:
        """Return the file's bytes, once: one graph with these inputs and outputs, by the names of its signature."""
        import flatbuffers

        s = self.schema
        graph = s.SubGraphT(
            name="main",
            tensors=self._tensors,
            operators=self._operators,
            inputs=np.array(list(inputs.values()), np.int32),
            outputs=np.array(list(outputs.values()), np.int32),
        )
        signature = s.SignatureDefT(signatureKey="serving_default", subgraphIndex=0)
        signature.inputs = [s.TensorMapT(name=name, tensorIndex=index) for name, index in inputs.items()]
        signature.outputs = [s.TensorMapT(name=name, tensorIndex=index) for name, index in outputs.items()]
        model = s.ModelT(
            version=_VERSION,
            description="qaedge",
            operatorCodes=[
                s.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, _LAST_OLD_CODE), version=version)
                for code, version in self._codes
            ],
            subgraphs=[graph],
            buffers=self._buffers,
            signatureDefs=[signature],
        )
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())


def _parts(schema: Any) -> dict[str, type]:
    """Return the schema's buffer and quantization as they should be written.

    Subclasses made here, because the schema is only imported where a file is written.
    """

    class Buffer(schema.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:
            builder.StartVector(1, len(self.data), _ALIGNMENT)
            builder.head -= len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data.tobytes()
            data = builder.EndVector()
            schema.BufferStart(builder)
            schema.BufferAddData(builder, data)
            return schema.BufferEnd(builder)

    kept: dict[bytes, Any] = {}  # zero points -> where they lie

    class Quantization(schema.QuantizationParametersT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:
            content = self.zeroPoint.tobytes()
            if content not in kept:
                kept[content] = builder.CreateNumpyVector(self.zeroPoint)
            scale = builder.CreateNumpyVector(self.scale)
            schema.QuantizationParametersStart(builder)
            schema.QuantizationParametersAddScale(builder, scale)
            schema.QuantizationParametersAddZeroPoint(builder, kept[content])
            schema.QuantizationParametersAddQuantizedDimension(builder, self.quantizedDimension)
            return schema.QuantizationParametersEnd(builder)

    return {"buffer": Buffer, "quantization": Quantization}
