"""Fine-tuning of a whole network: labels, and the teacher's guidance on the logits."""

from __future__ import annotations

import copy
import hashlib
import io
import math
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from qaedge.errors import InvalidFile, TeacherError
from qaedge.files import write_atomic
from qaedge.nn.data import VOID, Pixels, Split
from qaedge.nn.dilated import QuickDilation
from qaedge.nn.layout import lay_out
from qaedge.nn.processor import kept_memory, knows_bfloat16, training_device
from qaedge.progress import Step
from qaedge.project import FinetuneConfig

WEIGHT_DECAY = 1e-4
#: Settings that only quantization-aware fine-tuning has; another number there does not train in float anew.
_QUANTIZED = ("quantized_epochs", "quantized_learning_rate", "block_guidance")


def checkpoint_path(folder: Path, config: FinetuneConfig, start: bytes) -> Path:
    """Return where a fine-tuning's checkpoint lies; other settings or other starting weights have another."""
    settings = {name: value for name, value in msgspec.to_builtins(config).items() if name not in _QUANTIZED}
    key = hashlib.sha256(msgspec.json.encode(settings) + hashlib.sha256(start).digest()).hexdigest()[:12]
    return folder / f"finetune-{key}.pt"


def finetune(
    student: nn.Module,
    teacher: nn.Module | None,
    split: Split,
    config: FinetuneConfig,
    checkpoint: Path,
    also: Callable[[nn.Module | None], Tensor] | None = None,
    watch: Callable[[int], Generator[Step, None, bool]] | None = None,
    undecayed: Iterable[nn.Parameter] = (),
    rate_key: str = "learning_rate",
) -> Iterator[Step]:
    """Train a network in place; yield a Step per optimizer step.

    After each epoch everything needed to go on lies in `checkpoint`; a later call with the same
    settings goes on from there. The loss is cross entropy on the labels plus `guidance` times the
    Kullback-Leibler divergence from the teacher's classes at each pixel (Hinton et al.,
    arXiv 1503.02531, at temperature 1); void pixels count for neither.

    Args:
        student: in any mode; left in eval mode.
        teacher: in eval mode; None for labels alone.
        split: training images and labels.
        config: epochs, batch, learning rate, crop, guidance, seed.
        checkpoint: where the state between epochs lies.
        also: what is added to the loss, from what the networks noted of the batch that they have just
            seen; it is given the teacher as it is used here, a copy.
        watch: called after each epoch with its number, from 1; ends the training where it returns True.
        undecayed: parameters of the student that weight decay leaves alone.
        rate_key: what the learning rate is called in the project file.

    Raises:
        TeacherError: the loss became NaN or infinite, or batches are too small or too large.
        InvalidFile: a checkpoint that cannot be read.
        DataError: an image or label that cannot be used.
    """
    device = training_device()
    # Channels last: convolutions train about a third faster on CPUs.
    lay_out(student.to(device), torch.channels_last)
    guide = None
    if teacher is not None and (config.guidance or also is not None):
        guide = copy.deepcopy(teacher).eval().to(device)
        lay_out(guide, torch.channels_last)
    half = config.bfloat16 and knows_bfloat16(device)
    optimizer = _optimizer(student, config.learning_rate, undecayed)
    per_epoch = max(1, len(split) // config.batch)
    total = per_epoch * config.epochs
    first = _load(checkpoint, student, optimizer)
    if config.bfloat16 and not half:
        yield Step(
            first * per_epoch,
            total,
            "in 32 bits",
            warning="This processor does not know bfloat16, and would take longer with it: training in 32 bits.",
        )
    with kept_memory(), ThreadPoolExecutor(1) as ahead:
        for epoch in range(first, config.epochs):
            random = np.random.default_rng((config.seed, epoch))
            order = random.permutation(len(split))
            _train_mode(student, config.freeze_batch_norm)
            coming = ahead.submit(_batch, split, order[: config.batch], config, random)
            for step in range(per_epoch):
                images, labels = (t.to(device) for t in coming.result())
                if step + 1 < per_epoch:
                    chosen = order[(step + 1) * config.batch : (step + 2) * config.batch]
                    coming = ahead.submit(_batch, split, chosen, config, random)
                done = epoch * per_epoch + step
                for group in optimizer.param_groups:
                    group["lr"] = _rate(config.learning_rate, done, total)
                images = images.contiguous(memory_format=torch.channels_last)
                try:
                    with QuickDilation(), torch.autocast(device.type, torch.bfloat16, enabled=half):
                        loss = _loss(student, guide, images, labels, config.guidance)
                        if also is not None:
                            loss = loss + also(guide)
                except (RuntimeError, ValueError) as error:
                    # Batch norm of an image's mean needs two images; crops can be too small; memory can end.
                    raise TeacherError(
                        f"A batch of {len(images)} crops of {tuple(images.shape[2:])} cannot be trained on: "
                        f"{(str(error).splitlines() or [type(error).__name__])[0]}",
                        "Change finetune.batch (at least 2) or finetune.crop in the project file.",
                    ) from error
                if not math.isfinite(float(loss.detach())):
                    raise TeacherError(
                        f"Fine-tuning diverged in epoch {epoch + 1}: the loss is {float(loss.detach())}.",
                        f"Lower finetune.{rate_key} in the project file.",
                    )
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                yield Step(done + 1, total, f"epoch {epoch + 1}/{config.epochs}, loss {float(loss.detach()):.3f}")
            # Watched before it is saved: a training that is killed in between looks at this epoch again.
            ended = watch is not None and (yield from watch(epoch + 1))
            _save(checkpoint, student, optimizer, config.epochs if ended else epoch + 1)
            if ended:
                break
    lay_out(student.to("cpu").eval(), torch.contiguous_format)


def _optimizer(student: nn.Module, rate: float, undecayed: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    kept = {id(parameter) for parameter in undecayed}
    groups: list[dict[str, object]] = [{"params": [p for p in student.parameters() if id(p) not in kept]}]
    if kept:
        groups.append({"params": [p for p in student.parameters() if id(p) in kept], "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=rate, weight_decay=WEIGHT_DECAY)


def _train_mode(network: nn.Module, freeze_batch_norm: bool) -> None:
    """Put a network into training mode, its batch norms only where their statistics may change."""
    network.train()
    for module in network.modules():
        if freeze_batch_norm and isinstance(module, nn.BatchNorm2d):
            module.eval()


def _rate(highest: float, done: int, total: int) -> float:
    """Warm up over a twentieth, then fall as a cosine."""
    warm = max(1, total // 20)
    if done < warm:
        return highest * (done + 1) / warm
    return highest * 0.5 * (1 + math.cos(math.pi * (done - warm) / max(1, total - warm)))


def _loss(
    student: nn.Module,
    guide: nn.Module | None,
    images: Float[Tensor, "batch 3 height width"],
    labels: UInt8[Tensor, "batch height width"],
    guidance: float,
) -> Tensor:
    logits = student(images).float()
    loss = F.cross_entropy(logits, labels.long(), ignore_index=VOID)
    if guide is None:
        return loss
    with torch.no_grad():
        wanted = guide(images).float().log_softmax(1)
    if not guidance:  # it was run for what it notes
        return loss
    apart = F.kl_div(logits.log_softmax(1), wanted, reduction="none", log_target=True).sum(1)
    counted = labels != VOID
    return loss + guidance * (apart * counted).sum() / counted.sum().clamp(min=1)


def _batch(
    split: Split, chosen: np.ndarray, config: FinetuneConfig, random: np.random.Generator
) -> tuple[Float[Tensor, "batch 3 height width"], UInt8[Tensor, "batch height width"]]:
    """Random crops, half of them mirrored."""
    images, labels = [], []
    for index in chosen:
        image, label = _scaled(split.image(int(index)), split.label(int(index)), config, random)
        height, width = (min(c, s) for c, s in zip(config.crop, label.shape, strict=True))
        top = int(random.integers(0, label.shape[0] - height + 1))
        left = int(random.integers(0, label.shape[1] - width + 1))
        image, label = image[top : top + height, left : left + width], label[top : top + height, left : left + width]
        if random.random() < 0.5:
            image, label = image[:, ::-1], label[:, ::-1]
        images.append(image)
        labels.append(label)
    return split.preprocess(np.stack(images)), torch.from_numpy(np.ascontiguousarray(np.stack(labels)))


def _scaled(image: Pixels, label: Pixels, config: FinetuneConfig, random: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Resize both by a random factor, but not below the crop."""
    least, most = config.scales
    if least == most == 1:
        return image, label
    factor = float(np.exp(random.uniform(np.log(least), np.log(most))))
    height, width = (max(round(s * factor), min(c, s)) for s, c in zip(label.shape, config.crop, strict=True))
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    marked = Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(resized), np.asarray(marked)


def _save(path: Path, student: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
    data = io.BytesIO()  # torch's own words about a full disk name neither file nor reason
    torch.save({"student": student.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epochs}, data)
    write_atomic(path, data.getvalue())


def _load(path: Path, student: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return how many epochs are done already."""
    if not path.exists():
        return 0
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["epochs"])
    except (RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError, pickle.UnpicklingError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidFile(path, "", "a checkpoint of this network", why, "Delete it to start over.") from error
