"""A suite: `benchmarks.toml`, which models are measured on which devices by which runtimes, within which limits."""

from __future__ import annotations

from pathlib import Path

import msgspec

from qaedge.artifact import check_content
from qaedge.device import Device, load_device, with_runtime
from qaedge.errors import InvalidFile, MissingFile, UsageError
from qaedge.files import decode_toml, read_bytes
from qaedge.regression.limit import OF_A_BASELINE, OF_DATA, SLOWER, Limit, parse_limit
from qaedge.runtime import RUNTIMES, that_run
from qaedge.units import parse_seconds

#: Where nothing is said, this holds for a model that has a baseline.
USUAL = "slower_than_baseline < 3%"


class _Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model in the file; what is empty, the suite says for all."""

    file: str
    name: str = ""
    baseline: str = ""
    devices: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file as it is written."""

    model: tuple[_Model, ...] = ()
    name: str = "benchmarks"
    devices: tuple[str, ...] = ("local",)
    runtimes: tuple[str, ...] = ("",)
    threads: int | None = None
    wait: str = "0s"
    limits: tuple[str, ...] = ()
    project: str = ""


class Model(msgspec.Struct, frozen=True):
    """A model of a suite: `baseline` is a file to be measured in turn with it, or None."""

    name: str
    path: Path
    baseline: Path | None
    devices: tuple[str, ...]
    runtimes: tuple[str, ...]
    limits: tuple[Limit, ...]

    @property
    def threshold(self) -> float:
        """The least slowness that matters."""
        return min((limit.value for limit in self.limits if limit.metric == SLOWER), default=0.0)


class Suite(msgspec.Struct, frozen=True):
    """What is measured, and within which limits.

    Attributes:
        name: what reports call it.
        path: its file; baselines lie beside it.
        models: at least one.
        threads: None: each device's own.
        wait_s: how long to wait for a device that somebody else uses [s].
        project: the project file whose validation images score the models, or None.
    """

    name: str
    path: Path
    models: tuple[Model, ...]
    threads: int | None
    wait_s: float
    project: Path | None

    @property
    def places(self) -> tuple[tuple[str, str], ...]:
        """Each device with each runtime that some model asks for there, in the order of the file."""
        return tuple(dict.fromkeys((d, r) for model in self.models for d in model.devices for r in model.runtimes))

    @property
    def needs_data(self) -> bool:
        """Whether a limit asks for validation images."""
        return any(limit.metric in OF_DATA for model in self.models for limit in model.limits)

    def models_at(self, device: str, runtime: str) -> tuple[Model, ...]:
        """Return the models that are measured there."""
        return tuple(model for model in self.models if device in model.devices and runtime in model.runtimes)


def read_suite(path: Path) -> Suite:
    """Read a suite; raise MissingFile, or InvalidFile naming what is wrong in it.

    A model whose file is not there is an error here, before anything is measured.
    """
    written = decode_toml(path, _File, "It lists models: [[model]] with file = 'NAME.onnx' (docs/regression.md).")
    if not written.model:
        raise InvalidFile(path, "model", "at least one [[model]]", "none", "Add [[model]] with file = 'NAME.onnx'.")
    common = _limits(path, "limits", written.limits)
    models = [_model(path, number, model, written, common) for number, model in enumerate(written.model)]
    names = [model.name for model in models]
    for number, name in enumerate(names):
        if names.index(name) != number:
            raise InvalidFile(path, f"model[{number}].name", "a name of its own", f"{name!r} again")
    if written.threads is not None and written.threads < 1:
        raise InvalidFile(path, "threads", "a number from 1", str(written.threads))
    try:
        wait_s = parse_seconds(written.wait)
    except UsageError as error:
        raise InvalidFile(path, "wait", "a time with a unit, such as 10min", repr(written.wait)) from error
    suite = Suite(
        name=written.name,
        path=path,
        models=tuple(models),
        threads=written.threads,
        wait_s=wait_s,
        project=path.parent / written.project if written.project else None,
    )
    if suite.needs_data and suite.project is None:
        raise InvalidFile(path, "project", "the project file whose validation images score models", "nothing")
    return suite


def device_for(device: str, runtime: str) -> Device:
    """Return the device that measures with a runtime, or with its own first one; raise UnknownDevice or UsageError."""
    return with_runtime(load_device(device), runtime)


def _model(path: Path, number: int, model: _Model, written: _File, common: tuple[Limit, ...]) -> Model:
    file = path.parent / model.file
    key = f"model[{number}]"
    if not file.is_file():
        raise MissingFile(
            f"The model {model.name or file.stem!r} of {path} has disappeared: no file {file}.",
            f"Correct {key}.file, or take the model out of the suite.",
        )
    if not that_run(file.suffix.lstrip(".")):
        raise InvalidFile(path, f"{key}.file", "an .onnx or .tflite file", repr(model.file))
    baseline = path.parent / model.baseline if model.baseline else None
    if baseline is not None and not baseline.is_file():
        raise MissingFile(
            f"The baseline of the model {model.name or file.stem!r} of {path} has disappeared: no file {baseline}.",
            f"Correct {key}.baseline, or take it out and compare with saved results: --against NAME.",
        )
    own = _limits(path, f"{key}.limits", model.limits)
    # What a model says of a metric takes the place of what the suite says of it.
    for path_of in (file, baseline):
        if path_of is not None:
            check_content(path_of, read_bytes(path_of))
    limits = tuple(limit for limit in common if limit.metric not in {other.metric for other in own}) + own
    return Model(
        name=model.name or file.stem,
        path=file,
        baseline=baseline,
        devices=_names(path, f"{key}.devices", model.devices or written.devices),
        runtimes=_runtimes(path, f"{key}.runtimes", model.runtimes or written.runtimes, file),
        limits=limits,
    )


def _limits(path: Path, key: str, texts: tuple[str, ...]) -> tuple[Limit, ...]:
    found = []
    for number, text in enumerate(texts):
        try:
            found.append(parse_limit(text))
        except UsageError as error:
            raise InvalidFile(
                path, f"{key}[{number}]", "a limit with a unit", f"{text!r}", f"{error.message}\n{error.hint}"
            ) from error
    return tuple(found)


def _names(path: Path, key: str, names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise InvalidFile(path, key, "at least one device", "none")
    return tuple(dict.fromkeys(names))


def _runtimes(path: Path, key: str, names: tuple[str, ...], file: Path) -> tuple[str, ...]:
    """Return the runtimes that run this file; a suite's list is for files of both formats."""
    for name in names:
        if name and name not in RUNTIMES:
            raise InvalidFile(path, key, f"runtimes ({', '.join(RUNTIMES)})", repr(name))
    can = that_run(file.suffix.lstrip("."))
    fitting = tuple(name for name in dict.fromkeys(names) if not name or name in can)
    if not fitting:
        raise InvalidFile(path, key, f"one that runs {file.name} ({', '.join(can)})", ", ".join(names) or "none")
    return fitting


def needs_baseline(model: Model) -> bool:
    """Whether a limit of a model asks for a baseline, and it names none itself."""
    return model.baseline is None and any(limit.metric in OF_A_BASELINE for limit in model.limits)
