"""The teacher: load a network, name its blocks, record what goes in and comes out of each."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor, nn

from qaedge.errors import TeacherError
from qaedge.nn.fingerprint import computation_digest, structure_digest, weights_digest
from qaedge.nn.paths import parse_path, put, submodule, top_modules
from qaedge.nn.weights import build, check_suffix, load_weights
from qaedge.nn.widths import check_chain
from qaedge.project import DataConfig, Workspace
from qaedge.sources import sources_digest
from qaedge.space import SearchSpace, Shape, SpaceFile

Record = tuple[Tensor, Tensor]


class TeacherBlock(msgspec.Struct, frozen=True, eq=False):
    """A part of the teacher with one tensor in and one out.

    Attributes:
        name: as in the project file.
        path: where it is: a submodule, or a slice of an `nn.Sequential`.
        input_shape, output_shape: (channels, height, width).
        module: the submodule itself, or an `nn.Sequential` that shares the slice's modules.
        digest: 12 hex digits of structure and shapes; blocks that agree cost the same anywhere.
    """

    name: str
    path: str
    input_shape: Shape
    output_shape: Shape
    module: nn.Module
    digest: str


class Teacher(msgspec.Struct, frozen=True, eq=False):
    """A trained network, in evaluation mode, and its blocks in the order of the network.

    Attributes:
        module: the whole network.
        blocks: its parts; they need not cover it.
        digest: sha256 of all that shapes its output: see `load_teacher`.
        input_shape: (3, height, width).
    """

    module: nn.Module
    blocks: tuple[TeacherBlock, ...]
    digest: str
    input_shape: Shape

    def block(self, name: str) -> TeacherBlock:
        """Return a block by name; raise TeacherError where there is none."""
        for block in self.blocks:
            if block.name == name:
                return block
        raise TeacherError(f"The teacher has no block {name!r}.", f"Known: {', '.join(b.name for b in self.blocks)}.")


def load_teacher(workspace: Workspace, untrained: bool = False) -> Teacher:
    """Build the teacher of a project, load its weights, and cut it into its blocks.

    With `untrained` it is taken with fresh weights where its file is not there yet: for what asks
    for shapes alone.

    Its digest covers function, arguments, weights and block paths, the size of its images, the
    graph of the network with its constants, and the project's files that it is written in: what
    was measured of another network must not count for this one.

    Raises:
        TeacherError: the function, the weights or a block path cannot be used.
        MissingFile: no weights where the project says, unless `untrained`.
    """
    config, data = workspace.project.teacher, workspace.project.data
    module = build(config.function, config.arguments, workspace.root)
    weights = "" if untrained and not workspace.is_trained else _loaded(workspace, module)
    shape = (3, data.height, data.width)
    code = sources_digest(workspace.root, config.function)
    made = (config.function, sorted(config.arguments.items()), weights, code, list(config.blocks.items()), shape)
    digest = hashlib.sha256(msgspec.json.encode((made, computation_digest(module), weights_digest(module)))).hexdigest()
    return cut(module, config.blocks, shape, digest)


def _loaded(workspace: Workspace, module: nn.Module) -> str:
    """Load the weights that the project names, if it names any, and return the file's sha256."""
    named = workspace.project.teacher.weights
    if not named:
        return ""
    check_suffix(workspace.path(named))  # before it is asked for: no training makes a file of another kind
    path = workspace.weights_file
    assert path is not None
    return load_weights(module, path)


def cut(module: nn.Module, paths: Mapping[str, str], input_shape: Shape, digest: str) -> Teacher:
    """Name the blocks of a network and find their shapes.

    Args:
        module: the network; put into evaluation mode.
        paths: block name -> path, in the order of the network.
        input_shape: (channels, height, width) of its images.
        digest: what identifies the network with its weights.

    Raises:
        TeacherError: a path that is none; blocks that overlap, are out of order, are not called
            once, or have more than one tensor in or out; code outside that reads inside a slice.
    """
    module.eval()
    _check_disjoint(module, paths)
    images = torch.zeros(1, *input_shape)
    finished: list[str] = []
    try:
        records = _recorded(module, paths, images, clone=False, finished=finished)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TeacherError(
            f"The teacher fails on images of shape {tuple(images.shape)}: {str(error).splitlines()[0]}",
            "Check data.height and data.width in the project file, and that teacher.function fits RGB images.",
        ) from error
    if finished != list(paths):
        raise TeacherError(
            f"The blocks are listed as {', '.join(paths)}, but the network runs {', '.join(finished)}.",
            "List them in teacher.blocks in the order of the network.",
        )
    blocks = []
    for name, path in paths.items():
        given, out = records[name]
        for what, tensor in (("takes", given), ("puts out", out)):
            if tensor.ndim != 4 or not tensor.is_floating_point():
                raise TeacherError(
                    f"The block {name!r} {what} {tensor.dtype} of shape {tuple(tensor.shape)}.",
                    "A block maps float images to float images: [batch, channels, height, width].",
                )
        part, shape = submodule(module, path), _shape(given)
        blocks.append(TeacherBlock(name, path, shape, _shape(out), part, structure_digest(part, shape, digest + path)))
    teacher = Teacher(module, tuple(blocks), digest, input_shape)
    _check_closed(teacher)
    return teacher


def record(teacher: Teacher, images: Float[Tensor, "batch 3 height width"], names: Iterable[str]) -> dict[str, Record]:
    """Return what goes into and comes out of blocks when the teacher sees images.

    Args:
        teacher: runs in the mode it is in (evaluation, unless changed), without gradient.
        images: preprocessed, on the device of the teacher.
        names: which blocks.

    Returns:
        Block name -> (input, output), [batch, channels, height, width] each; not copied, unless
        the network overwrites them in place.

    Raises:
        TeacherError: no such block, or a block not called exactly once with one tensor in and out.
    """
    paths = {name: teacher.block(name).path for name in names}
    return _recorded(teacher.module, paths, images, clone=False)


def replace(module: nn.Module, path: str, new: nn.Module) -> None:
    """Put a module in a block's place, in the network itself.

    In a slice of an `nn.Sequential`, `new` comes first and `nn.Identity` fills the rest, so that
    the indices of later blocks stay.

    Raises:
        TeacherError: no such path.
    """
    put(module, path, new)


def with_blocks(teacher: Teacher, blocks: Mapping[str, nn.Module]) -> nn.Module:
    """Return a copy of the network with some blocks replaced; the given modules are not copied.

    Raises:
        TeacherError: no such block, or a replacement that puts out another shape.
    """
    for name, new in blocks.items():
        _check_fits(teacher.block(name), new)
    student = copy.deepcopy(teacher.module)
    for name, new in blocks.items():
        put(student, teacher.block(name).path, new)
    return student


def resolve_space(teacher: Teacher, space: SpaceFile, data: DataConfig) -> SearchSpace:
    """Enumerate a space's candidates for this teacher.

    Raises QaedgeError where block names differ, or where the blocks are no chain though their schemes ask for one
    (`check_chain`).

    `data` tells what images the teacher sees: block losses hold for these alone.
    """
    shapes = {block.name: (block.input_shape, block.output_shape) for block in teacher.blocks}
    own = {block.name: block.digest for block in teacher.blocks}
    layers = {
        block.name: sum(isinstance(part, nn.Conv2d | nn.Linear) for part in block.module.modules())
        for block in teacher.blocks
    }
    resolved = space.resolve(shapes, own, teacher.digest, data.digest, layers)
    check_chain(teacher, resolved)
    return resolved


def _shape(tensor: Tensor) -> Shape:
    channels, height, width = tensor.shape[1:]
    return channels, height, width


def _forward(module: nn.Module, images: Tensor) -> Any:
    with torch.no_grad():
        return module(images)


def _recorded(
    module: nn.Module, paths: Mapping[str, str], images: Tensor, clone: bool, finished: list[str] | None = None
) -> dict[str, Record]:
    """Run once with hooks; a second time, keeping copies, where the network overwrote a tensor."""
    given: dict[str, Tensor] = {}
    out: dict[str, Tensor] = {}
    versions: list[tuple[Tensor, int]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept = tensor.clone() if clone else tensor
        versions.append((kept, kept._version))
        return kept

    def enter(name: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        if name in given:
            raise TeacherError(
                f"The block {name!r} is called more than once in one forward pass.",
                "Blocks run once; choose a module around all calls, or other blocks.",
            )
        values = [*arguments, *options.values()]
        if len(values) != 1 or not isinstance(values[0], Tensor):
            raise TeacherError(
                f"The block {name!r} takes {_described(values)}.",
                "A block takes one tensor; cut the network elsewhere.",
            )
        given[name] = keep(values[0])

    def leave(name: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise TeacherError(
                f"The block {name!r} puts out {_described([output])}.",
                "A block puts out one tensor; cut the network elsewhere.",
            )
        out[name] = keep(output)
        if finished is not None:
            finished.append(name)

    with _hooks(module, paths, enter, leave):
        _forward(module, images)
    for name in paths:
        if name not in given or name not in out:
            raise TeacherError(
                f"The block {name!r} ({paths[name]}) is not called in a forward pass.",
                "Choose a module that the network calls, or take it out of teacher.blocks.",
            )
    if any(tensor._version != version for tensor, version in versions):
        return _recorded(module, paths, images, clone=True)
    return {name: (given[name], out[name]) for name in paths}


@contextmanager
def _hooks(module: nn.Module, paths: Mapping[str, str], enter: Any, leave: Any) -> Iterator[None]:
    handles = []
    try:
        for name, path in paths.items():
            modules = top_modules(module, path)
            first, last = next(iter(modules.values())), list(modules.values())[-1]
            handles.append(
                first.register_forward_pre_hook(
                    lambda _, arguments, options, name=name: enter(name, arguments, options), with_kwargs=True
                )
            )
            handles.append(last.register_forward_hook(lambda _, given, output, name=name: leave(name, output)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _described(values: list[Any]) -> str:
    """Say what a block took or put out: "2 values (Tensor, Tensor)", "a dict"."""
    if len(values) == 1 and isinstance(values[0], tuple | list):
        inner = values[0]
        return f"a {type(inner).__name__} of {len(inner)} ({', '.join(type(v).__name__ for v in inner)})"
    if len(values) == 1:
        return f"a {type(values[0]).__name__}"
    return f"{len(values)} values" + (f" ({', '.join(type(v).__name__ for v in values)})" if values else "")


def _check_disjoint(module: nn.Module, paths: Mapping[str, str]) -> None:
    owners: dict[str, str] = {}
    for name, path in paths.items():
        for top in top_modules(module, path):
            for other, owner in owners.items():
                if f"{top}.".startswith(f"{other}.") or f"{other}.".startswith(f"{top}."):
                    raise TeacherError(
                        f"The blocks {owner!r} ({paths[owner]}) and {name!r} ({path}) overlap in {top}.",
                        "Each module belongs to one block at most; slices end before their second number.",
                    )
            owners[top] = name


def _check_closed(teacher: Teacher) -> None:
    """Refuse slices whose inside is read from outside: replacing them would silently change that."""
    slices = [block for block in teacher.blocks if parse_path(block.path).is_slice]
    if not slices:
        return
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, *teacher.input_shape, generator=generator)
    wanted = _forward(teacher.module, images)

    def same(blocks: list[TeacherBlock]) -> bool:
        student = copy.deepcopy(teacher.module)
        for block in blocks:
            put(student, block.path, nn.Sequential(*top_modules(student, block.path).values()))
        try:
            torch.testing.assert_close(_forward(student, images), wanted, equal_nan=True)
        except (AssertionError, RuntimeError, TypeError, ValueError):
            return False
        return True

    if not same(slices):
        broken = next((block for block in slices if not same([block])), slices[0])
        raise TeacherError(
            f"The network reads the inside of the block {broken.name!r} ({broken.path}), not only its output.",
            "Cut the blocks where such a connection leaves, so that it comes from a block's end.",
        )


def _check_fits(block: TeacherBlock, new: nn.Module) -> None:
    """Run a replacement once on zeros; its mode and statistics stay as they are."""
    modes = {module: module.training for module in new.modules()}
    first = next(iter([*new.parameters(), *new.buffers()]), torch.zeros(0))
    wanted = (1, *block.output_shape)
    new.eval()
    try:
        out = _forward(new, torch.zeros(1, *block.input_shape, device=first.device))
    except (RuntimeError, TypeError, ValueError) as error:
        raise TeacherError(
            f"The replacement of the block {block.name!r} fails on an input of shape {(1, *block.input_shape)}: "
            f"{str(error).splitlines()[0]}",
            f"Wanted: one that puts out {wanted}.",
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    given = tuple(out.shape) if isinstance(out, Tensor) else _described([out])
    if given != wanted:
        raise TeacherError(
            f"The replacement of the block {block.name!r} puts out {given}, wanted {wanted}.",
            "Shapes are (batch, channels, height, width).",
        )
