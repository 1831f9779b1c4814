"""Tensors: what goes into a network and comes out, and random ones to measure with."""

from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

_RANGES = {"uint8": (0, 256), "int8": (-128, 128), "int16": (-(2**15), 2**15)}

Shape = Tuple[int, ...]


class Tensor(NamedTuple):
    """What goes in or comes out: its name, numpy's word for its type, its shape."""

    name: str
    dtype: str
    shape: Shape


class Unsupported(Exception):
    """Something in the file that cannot be run as it is; the text says what and what to do."""


class Unfit(Unsupported):
    """Inputs that were given do not fit the file; the text says what it takes and what there was."""


def draw(random: Any, shape: Shape, dtype: str) -> Any:
    """Return an array that numpy's RandomState draws: integers of 8 or 16 bits of any value, wider ones 0 or 1.

    Wider integers are mostly indices, and 0 and 1 are in range nearly everywhere. Others are normal.
    """
    if dtype.startswith("float"):
        return random.standard_normal(shape).astype(dtype)
    low, high = _RANGES.get(dtype, (0, 2))
    return random.randint(low, high, size=shape).astype(dtype)


def given(inputs: Dict[str, Any], names: Sequence[str], name: str, dtype: str, shape: Sequence[Optional[int]]) -> Any:
    """Return the array that was given for an input; raise Unfit where there is none, or it does not fit.

    `names` are all inputs of the file: one that is alone may be given without its name. A size of None fits any.
    """
    value = inputs.get(name, inputs.get("") if len(names) == 1 else None)
    if value is None:
        raise Unfit(
            "No values for the input %r. The file's inputs: %s; given: %s."
            % (name, _listed(names), _listed(list(inputs)))
        )
    fits = len(value.shape) == len(shape) and all(
        wanted in (None, size)
        for wanted, size in zip(shape, value.shape)  # noqa: B905 - Python 3.8
    )
    if str(value.dtype) != dtype or not fits:
        wants = ", ".join("any" if size is None else str(size) for size in shape)
        there = "%s [%s]" % (value.dtype, ", ".join(map(str, value.shape)))
        raise Unfit("The input %r takes %s [%s]; given: %s." % (name, dtype, wants, there))
    return value


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name or "one without a name" for name in names) or "none"
