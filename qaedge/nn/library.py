"""The library of distilled candidates: every candidate of a space trained, scored and kept.

Worker processes take candidates from a queue; each finished one is on disk (its weights, then its
rows) before anyone is told, so that nothing finished is lost when the machine goes down, and a
second run does only what is missing.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from qaedge.candidate import BlockSpec, QuantScheme
from qaedge.errors import DiskFull, InvalidFile, MissingFile, QaedgeError, TeacherError
from qaedge.files import only_one, write_atomic
from qaedge.nn.blocks import build_block
from qaedge.nn.data import open_split
from qaedge.nn.distill import Sample, Trained, check_enough, score, train_candidate
from qaedge.nn.features import LOCK, Features, compute_features, drop_others, features_folder, to_tensor
from qaedge.nn.inherit import OwnBlock
from qaedge.nn.own_ranges import check_own_ranges
from qaedge.nn.processor import training_device
from qaedge.nn.quantized_file import save_quantized
from qaedge.nn.recipe import NEAREST, Bench, Quantized, quantize
from qaedge.nn.rounded import rounded_path
from qaedge.nn.teacher import Teacher, load_teacher
from qaedge.nn.tracing import trace
from qaedge.nn.workers import END_S, alone_with_locks, end_with, uninterrupted
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LossRow, LossTable
from qaedge.units import parse_bytes

#: The key of an `Origin` in the metadata of a weights file.
ORIGIN = "qaedge-origin"
#: Images, at most, that the starting weights of a block's candidates are solved on.
STARTED = 8


class Task(msgspec.Struct, frozen=True):
    """One candidate of one block, and the schemes it still has to be scored in."""

    block: str
    spec: BlockSpec
    schemes: tuple[QuantScheme, ...]


class Origin(msgspec.Struct, frozen=True):
    """How kept weights came to be, as it lies in their file: with it, a row made later says what one made then said."""

    started_from: str
    steps: int
    settings: dict[str, float | int | str]

    @staticmethod
    def read(path: Path) -> Origin:
        """Return what a weights file says of itself; of an older one nothing is known. Raises InvalidFile."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                text = (file.metadata() or {}).get(ORIGIN)
            return Origin("kept", 0, {}) if text is None else msgspec.json.decode(text, type=Origin)
        except (SafetensorError, msgspec.DecodeError) as error:
            raise _damaged(path, "what it started from", error) from error


def weights_path(workspace: Workspace, space: SearchSpace, block: str, spec: BlockSpec) -> Path:
    """Where a candidate's trained weights lie."""
    name = hashlib.sha256(str(spec).encode()).hexdigest()[:16]
    return workspace.weights_folder(space.origin) / block / f"{name}.safetensors"


def load_candidate(
    workspace: Workspace, space: SearchSpace, teacher: Teacher, block: str, spec: BlockSpec
) -> nn.Module:
    """Return a distilled candidate in eval mode; the teacher's own block is the teacher's.

    Raises:
        MissingFile: it was not distilled yet.
        InvalidFile: its weights are damaged.
    """
    own = teacher.block(block)
    if spec.is_own:
        return own.module.eval()
    path = weights_path(workspace, space, block, spec)
    if not path.exists():
        raise MissingFile(f"{spec} of {block} was not distilled: no file {path}.", "Run: qaedge distill")
    module = build_block(spec, own.input_shape[0])
    try:
        module.load_state_dict(safetensors.torch.load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise _damaged(path, f"the weights of {spec}", error) from error
    return module.eval()


def _damaged(path: Path, expected: str, error: Exception) -> InvalidFile:
    # The first line of torch only says that something does not fit; the second one says what.
    lines = [line.strip() for line in str(error).splitlines()[:2]]
    found = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    return InvalidFile(path, "", expected, f"{found[:200].rstrip('.')}", "Delete it and run: qaedge distill")


def missing_tasks(workspace: Workspace, space: SearchSpace) -> list[Task]:
    """Return what the loss table lacks, block by block; a row whose files are gone is lacking, too."""
    table = LossTable(LossTable.store(workspace.loss_file(space.origin)).rows())
    tasks: dict[tuple[str, BlockSpec], list[QuantScheme]] = {}
    for block in space.blocks:
        for candidate in block.candidates:
            if not table.has(block.name, candidate) or not _files_of(workspace, table.row(block.name, candidate)):
                tasks.setdefault((block.name, candidate.spec), []).append(candidate.scheme)
    return [Task(block, spec, tuple(schemes)) for (block, spec), schemes in tasks.items()]


def _files_of(workspace: Workspace, row: LossRow) -> bool:
    """Whether the weights that a row was scored with are there."""
    return all((workspace.results / name).exists() for name in (row.weights, row.rounded) if name)


def fill_library(workspace: Workspace, teacher: Teacher, space: SearchSpace) -> Iterator[Step]:
    """Distill and score what the loss table lacks.

    Yields a Step for each batch of teacher features, then one for each row, its `result`. A
    candidate that fails is a warning, and the others go on; at the end TeacherError names them.

    Raises:
        DiskFull: no space for features, weights or rows; what was finished is kept.
        TeacherError: candidates that could not be trained, or a block of the teacher that cannot be quantized.
        DataError: images that are all of one color.
        QaedgeError: another process distills the same space.
    """
    with distilling(workspace.loss_file(space.origin)):
        yield from _fill(workspace, teacher, space)


def distilling(loss_file: Path) -> AbstractContextManager[None]:
    """Return what keeps others from distilling the same space; entering raises QaedgeError where one does already."""
    return only_one(loss_file.with_name("distill.lock"), "distilling")


def _fill(workspace: Workspace, teacher: Teacher, space: SearchSpace) -> Iterator[Step]:
    tasks = missing_tasks(workspace, space)
    if not tasks:
        return
    config, data = workspace.project.distill, workspace.project.data
    bound = parse_bytes(config.cache)
    split = open_split(data, workspace.path(data.path) if data.path else None, "train")
    folder = features_folder(workspace.cache, teacher, data, split.names, bound)
    with only_one(folder / LOCK, "distilling with the features"):  # or another run would drop them
        drop_others(folder)
        yield from compute_features(folder, teacher, split, bound)
        features = Features(folder)
        check_enough(len(features))  # here, and not in every candidate
        check_own_ranges(teacher, features, {task.block for task in tasks if _has_own_integers(task)})
        cuda = torch.cuda.is_available()
        count = 1 if cuda else min(len(tasks), config.workers or os.cpu_count() or 1)
        total = sum(len(task.schemes) for task in tasks)
        yield from _run(workspace, space, folder, tasks, count, total)


def _has_own_integers(task: Task) -> bool:
    return task.spec.is_own and any(not scheme.is_float for scheme in task.schemes)


def _run(
    workspace: Workspace, space: SearchSpace, folder: Path, tasks: list[Task], count: int, total: int
) -> Iterator[Step]:
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    waiting: Any = context.Queue()
    for task in tasks:
        waiting.put(task)
    for _ in range(count):
        waiting.put(None)
    arguments = (workspace, space, folder, waiting, results, os.getpid())
    workers: list[BaseProcess] = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(count)]
    failed: list[str] = []
    done = finished = 0
    try:
        with uninterrupted():
            for worker in workers:
                worker.start()
        while finished < len(tasks):
            try:
                task, rows, error = results.get(timeout=1.0)
            except queue.Empty:
                _check_alive(workers)
                continue
            finished += 1
            if isinstance(error, DiskFull) or (error is not None and task is None):
                raise error
            if error is not None:
                failed.append(f"{task.block} {task.spec}")
                done += len(task.schemes)
                # Which candidate it was, an error deep inside does not know.
                named = error.message if str(task.spec) in error.message else f"{failed[-1]}: {error.message}"
                said = " ".join(f"{named} {error.hint}".split())
                yield Step(done, total, failed[-1], warning=said)
            for row in rows:
                done += 1
                yield Step(done, total, f"{row.block} {row.spec} {row.scheme}", row)
    finally:
        waiting.cancel_join_thread()  # nobody reads the rest; this process must not wait until somebody does
        started = [worker for worker in workers if worker.pid is not None]
        for worker in started:
            if finished == len(tasks):  # nothing is left for it: what it holds, it gives back itself
                worker.join(END_S)
            worker.kill()
        for worker in started:
            worker.join()
    if failed:
        candidates = "candidate" if len(failed) == 1 else "candidates"
        raise TeacherError(
            f"{len(failed)} {candidates} could not be distilled: "
            f"{', '.join(failed[:3])}{' ...' if failed[3:] else ''}.",
            "The others are kept. Take these out of the space, or mend what the warnings say, and run it again.",
        )


def _check_alive(workers: list[BaseProcess]) -> None:
    for worker in workers:
        if worker.exitcode not in (None, 0):
            raise TeacherError(
                f"A distillation process ended with status {worker.exitcode}.",
                "Often the machine ran out of memory: set distill.workers = 1, or a smaller distill.batch. "
                "Finished rows are kept; run the same command again to go on.",
            )


def _work(workspace: Workspace, space: SearchSpace, folder: Path, waiting: Any, results: Any, parent: int) -> None:
    """A worker process: until the queue says None."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    alone_with_locks()
    device = training_device()
    try:
        bench = _Bench(workspace, space, load_teacher(workspace), Features(folder), device)
    except QaedgeError as error:
        results.put((None, [], error))
        return
    except Exception as error:  # noqa: BLE001 - user's code builds the teacher, and may raise anything
        results.put((None, [], TeacherError(f"A distillation process could not start: {_why(error)}")))
        return
    while (task := waiting.get()) is not None:
        try:
            results.put((task, bench.finish(task), None))
        except QaedgeError as error:
            results.put((task, [], error))
        except Exception as error:  # noqa: BLE001 - torch raises much; this candidate fails, the others go on
            results.put((task, [], TeacherError(f"{task.spec} in {task.block}: {_why(error)}")))


def _why(error: Exception) -> str:
    """Return an exception's type and its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no more is known'])[0]}"


class _Bench:
    """What a worker keeps between candidates: the block it works on and its features."""

    def __init__(
        self, workspace: Workspace, space: SearchSpace, teacher: Teacher, features: Features, device: torch.device
    ) -> None:
        self.workspace, self.space, self.teacher = workspace, space, teacher
        self.features, self.device = features, device
        self.current = ""

    def turn_to(self, block: str) -> None:
        if block == self.current:
            return
        module = self.teacher.block(block).module
        self.sample = Sample.of(self.features, block, module)
        solved = self.sample.spread(min(STARTED, len(self.sample.scored)))
        self.own = OwnBlock(module, to_tensor(self.sample.inputs[solved]))
        self.current = block

    def finish(self, task: Task) -> list[LossRow]:
        """Train (unless the weights are there), score, and store; return the rows."""
        begun = time.perf_counter()
        self.turn_to(task.block)
        config = self.workspace.project.distill
        path = weights_path(self.workspace, self.space, task.block, task.spec)
        trained, settings = self._train(task, path)
        train_seconds = trained.train_seconds
        graph = trace(trained.module, self.teacher.block(task.block).input_shape)
        store = LossTable.store(self.workspace.loss_file(self.space.origin))
        rows = []
        bench: Bench | None = None
        for scheme in task.schemes:
            found: Quantized | None = None
            rounded = ""
            if not scheme.is_float:
                bench = bench or Bench(graph, self.sample, config.calibration_images)
                found = quantize(bench, scheme, self.workspace.project.quantize)
                if found.recipe != NEAREST:
                    kept = rounded_path(path, scheme, graph)
                    save_quantized(found.network, kept)
                    rounded = str(kept.relative_to(self.workspace.results))
            scored = time.perf_counter()
            rows.append(
                LossRow(
                    block=task.block,
                    spec=str(task.spec),
                    scheme=str(scheme),
                    float_loss=trained.float_loss,
                    loss=trained.float_loss if found is None else found.loss,
                    steps=trained.steps,
                    seconds=scored - begun,
                    train_seconds=train_seconds,
                    weights="" if task.spec.is_own else str(path.relative_to(self.workspace.results)),
                    started_from=trained.started_from,
                    settings={**settings, "calibration_images": config.calibration_images},
                    recipe="float" if found is None else found.recipe,
                    gains={} if found is None else found.gains,
                    layer_bits=() if found is None else found.layer_bits,
                    rounded=rounded,
                )
            )
            store.append(rows[-1])
            begun, train_seconds = scored, 0.0  # the next scheme's row trains nothing
        return rows

    def _train(self, task: Task, path: Path) -> tuple[Trained, dict[str, float | int | str]]:
        """Return a candidate and the settings that it was trained with, whenever that was."""
        images = {"images": len(self.sample.train)}
        if task.spec.is_own or path.exists():
            module = load_candidate(self.workspace, self.space, self.teacher, task.block, task.spec)
            origin = Origin("own", 0, {**images}) if task.spec.is_own else Origin.read(path)
            return Trained(module, score(module, self.sample), origin.started_from, origin.steps, 0.0), origin.settings
        config = self.workspace.project.distill
        trained = train_candidate(task.spec, self.own, self.sample, config, self.device)
        origin = Origin(
            trained.started_from,
            trained.steps,
            {"batch": config.batch, "learning_rate": config.learning_rate, "seed": config.seed, **images},
        )
        said = {ORIGIN: msgspec.json.encode(origin).decode()}
        write_atomic(path, safetensors.torch.save(dict(trained.module.state_dict()), said))
        return trained, origin.settings
