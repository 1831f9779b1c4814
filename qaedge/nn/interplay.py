"""Networks of candidates drawn for all blocks at once: what they do to the teacher's classes together."""

from __future__ import annotations

import copy
import hashlib
import random
from collections import Counter
from collections.abc import Iterator

import torch
from torch import nn

from qaedge.candidate import BlockSpec
from qaedge.errors import DataError, InvalidFile
from qaedge.influence import influence_rows, singles
from qaedge.interplay import LEAST, InterplayRow, Singles, interplay_rows
from qaedge.nn.data import Split
from qaedge.nn.divergence import Divergence
from qaedge.nn.layout import lay_out
from qaedge.nn.library import load_candidate, weights_path
from qaedge.nn.paths import put
from qaedge.nn.teacher import Teacher
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace
from qaedge.tables import LossTable

#: How often each candidate of the block with the most of them is drawn.
TIMES = 32
#: Groups of images, and how many are in each. Networks teach more than images do: of as many passes, more networks
#: on few images each rank others better (`docs/decisions/0026-harm-in-company.md`), if not all on the same ones.
GROUPS, IMAGES = 8, 4


def drawn(space: SearchSpace, singles: Singles) -> list[dict[str, str]]:
    """Return, for each network, the candidate of each block; the same each time, no two alike, and no teacher.

    Of every block each candidate is drawn as often as the others, or once more, before networks that are alike are
    left out; which ones meet is random. What a block has to choose from changes no other block's turns.
    """
    count = TIMES * max(map(len, singles.values()), default=0)
    columns: dict[str, list[str]] = {}
    for name, known in singles.items():
        draw, options = random.Random(f"{space.origin} {name} interplay"), sorted(known)
        column: list[str] = []
        while len(column) < count:
            column += draw.sample(options, len(options))
        columns[name] = column[:count]
    networks = [{name: column[at] for name, column in columns.items()} for at in range(count)]
    found = {tuple(network.values()): network for network in networks}
    own = tuple(str(block.candidates[0].spec) for block in space.blocks)
    return [network for specs, network in found.items() if specs != own]


def missing_interplay(workspace: Workspace, space: SearchSpace) -> list[tuple[int, dict[str, str]]]:
    """Return the networks, numbered, that are drawn, lack a row, and have a candidate in fewer than TIMES rows.

    So a space that grows keeps its rows, and runs the networks of what is new. Empty where a block has no candidate
    that was put in its place alone, or where there would be too few networks to tell anything.
    """
    known = _known(workspace, space)
    return [] if known is None else _missing(workspace, space, known)


def _known(workspace: Workspace, space: SearchSpace) -> Singles | None:
    loss_file = workspace.loss_file(space.origin)
    return singles(influence_rows(loss_file).rows(), space, LossTable(LossTable.store(loss_file).rows()))


def _missing(workspace: Workspace, space: SearchSpace, known: Singles) -> list[tuple[int, dict[str, str]]]:
    loss_file = workspace.loss_file(space.origin)
    there = {tuple(row.specs[name] for name in known) for row in interplay_rows(loss_file).rows() if row.is_of(known)}
    times = Counter(pair for specs in there for pair in zip(known, specs, strict=True))
    missing = []
    for number, specs in enumerate(drawn(space, known), start=1):
        if tuple(specs.values()) not in there and any(times[pair] < TIMES for pair in specs.items()):
            times.update(specs.items())
            missing.append((number, specs))
    return missing if len(there) + len(missing) >= LEAST else []


def measure_interplay(workspace: Workspace, teacher: Teacher, space: SearchSpace, train: Split) -> Iterator[Step]:
    """Put candidates together, and append a row for each network; yield a Step for each, its `result` the row.

    A network of sound candidates that puts out NaN is a warning, and has no row.

    Raises:
        DataError: images that cannot be read.
        MissingFile: a candidate's weights are gone.
        InvalidFile: they are no numbers.
        DiskFull: no space for a row; those before are kept.
    """
    known = _known(workspace, space)
    missing = [] if known is None else _missing(workspace, space, known)
    if known is None or not missing:
        return
    store = interplay_rows(workspace.loss_file(space.origin))
    divergence = Divergence(teacher, train, GROUPS * IMAGES)
    parts = [slice(at, at + IMAGES) for at in range(0, max(1, len(divergence.names) - IMAGES + 1), IMAGES)]
    network = copy.deepcopy(teacher.module).eval()
    lay_out(network, torch.channels_last)
    modules: dict[tuple[str, str], nn.Module] = {}
    for done, (number, specs) in enumerate(missing, start=1):
        for name, text in specs.items():
            if (name, text) not in modules:
                module = copy.deepcopy(_sound(workspace, space, teacher, name, BlockSpec.parse(text)))
                lay_out(module, torch.channels_last)
                modules[name, text] = module
            put(network, teacher.block(name).path, modules[name, text])
        part = parts[number % len(parts)]
        names = divergence.names[part]
        named = ", ".join(f"{name} {text}" for name, text in specs.items())
        try:
            found = divergence.of(network, f"The network of {named}", part)
        except DataError as error:
            yield Step(done, len(missing), f"network {number}", warning=f"{error.message} It is left out.")
            continue
        group = hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
        row = InterplayRow(specs, {name: known[name][text][0] for name, text in specs.items()}, group, found)
        store.append(row)
        yield Step(done, len(missing), f"network {number}", row)


def _sound(workspace: Workspace, space: SearchSpace, teacher: Teacher, block: str, spec: BlockSpec) -> nn.Module:
    """Return a distilled candidate; raise InvalidFile where its weights are no numbers."""
    module = load_candidate(workspace, space, teacher, block, spec)
    for name, value in module.state_dict().items():
        if not bool(value.isfinite().all()) and not spec.is_own:
            path = weights_path(workspace, space, block, spec)
            raise InvalidFile(path, name, f"finite weights of {spec}", "NaN", "Delete it and run: qaedge distill")
    return module
