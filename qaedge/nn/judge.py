"""Judging: what assembled networks lose as files, before any fine-tuning: mIoU, and how far their classes diverge."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qaedge.architecture import Architecture
from qaedge.candidate import Candidate
from qaedge.network_loss import NetworkLossRow
from qaedge.nn.assemble import assemble
from qaedge.nn.candidates import Choose
from qaedge.nn.data import Split
from qaedge.nn.export import write_file
from qaedge.nn.metrics import Confusion, class_map
from qaedge.nn.sessions import Session, load_file
from qaedge.nn.student import Quantizer
from qaedge.nn.teacher import Teacher
from qaedge.nn.tracing import trace
from qaedge.progress import Step
from qaedge.project import Workspace
from qaedge.space import SearchSpace

#: So many networks are judged together: the teacher runs once for all of them.
TOGETHER = 10
#: Divergence is taken over every so many lines and columns: neighbouring pixels tell the same.
STRIDE = 4


def judge(
    workspace: Workspace,
    teacher: Teacher,
    space: SearchSpace,
    networks: Mapping[str, Sequence[Candidate]],
    splits: tuple[Split, Split],
    choose: Choose,
    images: int | None = None,
) -> Iterator[Step]:
    """Assemble networks, quantize them as students are, write them, and run the files over validation images.

    Args:
        workspace: the project, with its distilled weights.
        teacher: what they diverge from, in float.
        space: what the networks were chosen from.
        networks: by key.
        splits: training images, to calibrate; validation images, to judge.
        choose: weight bits -> the form of INT8 files, and why.
        images: so many, evenly spaced; None: all.

    Yields:
        A Step for each network and each image; a `NetworkLossRow` as result for each network, of TOGETHER at once.

    Raises:
        MissingFile: blocks that were not distilled yet.
        DataError: images or labels that cannot be read, or logits that are no numbers.
    """
    train, val = splits
    count = len(val) if images is None else min(images, len(val))
    chosen = [int(i) for i in np.unique(np.linspace(0, len(val) - 1, count).astype(int))]
    todo = list(networks.items())
    total = len(todo) + len(chosen) * -(-len(todo) // TOGETHER)
    done = 0
    with tempfile.TemporaryDirectory(prefix="qaedge-judge-") as folder:
        reference = Path(folder) / "teacher.onnx"
        write_file(trace(teacher.module.eval(), teacher.input_shape), reference)
        wanted = load_file(reference)
        for start in range(0, len(todo), TOGETHER):
            sessions: dict[str, Session] = {}
            for key, network in todo[start : start + TOGETHER]:
                architecture = Architecture.of(space, network)
                student = assemble(workspace, teacher, space, architecture)
                quantizer = Quantizer(workspace, teacher, space, architecture, train, choose)
                path = Path(folder) / "network.onnx"
                write_file(quantizer.quantize(student), path, quantizer.form)
                sessions[key] = load_file(path)
                done += 1
                yield Step(done, total, f"assembling {key}")
            confusions = {key: Confusion(len(val.classes)) for key in sessions}
            divergences = dict.fromkeys(sessions, 0.0)
            for index in chosen:
                image, label = val.batch([index])
                log_p = _log_classes(wanted, image)
                for key, session in sessions.items():
                    logits = torch.as_tensor(session.run(image))
                    confusions[key].add(class_map(logits, len(val.classes)), label)
                    log_q = logits[:, :, ::STRIDE, ::STRIDE].log_softmax(1)
                    divergences[key] += float((log_p.exp() * (log_p - log_q)).sum(1).mean())
                done += 1
                yield Step(done, total, f"{len(sessions)} networks on {val.names[index]}")
            for key in sessions:
                row = NetworkLossRow(key, confusions[key].miou, max(0.0, divergences[key] / len(chosen)), len(chosen))
                yield Step(done, total, key, row)


def _log_classes(session: Session, image: Tensor) -> Tensor:
    """Return the log-probability of each class at every STRIDE-th pixel."""
    return torch.as_tensor(session.run(image))[:, :, ::STRIDE, ::STRIDE].log_softmax(1)
