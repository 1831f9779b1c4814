"""mIoU."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qaedge.errors import DataError
from qaedge.nn.data import Split, open_split
from qaedge.nn.metrics import Confusion, class_map, evaluate
from qaedge.project import DataConfig


def brute_force(prediction: np.ndarray, label: np.ndarray, classes: int) -> list[float]:
    """IoU per class by sets of pixels; NaN where a class occurs in neither."""
    found = []
    for c in range(classes):
        mine = {i for i, (p, t) in enumerate(zip(prediction.flat, label.flat, strict=True)) if t != 255 and p == c}
        true = {i for i, t in enumerate(label.flat) if t == c}
        found.append(len(mine & true) / len(mine | true) if mine | true else float("nan"))
    return found


@given(
    hnp.arrays(np.int64, (2, 3, 4), elements=st.integers(0, 4)),
    hnp.arrays(np.uint8, (2, 3, 4), elements=st.sampled_from([0, 1, 2, 3, 255])),
)
def test_iou_agrees_with_brute_force(prediction: np.ndarray, label: np.ndarray) -> None:
    confusion = Confusion(5)
    confusion.add(prediction[:1], label[:1])
    confusion.add(torch.from_numpy(prediction[1:]), torch.from_numpy(label[1:]))
    wanted = brute_force(prediction, label, 5)
    np.testing.assert_allclose(confusion.iou, wanted)
    if (label != 255).any():
        assert confusion.miou == pytest.approx(np.nanmean(wanted))


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    confusion = Confusion(3)
    confusion.add([[0, 0, 1, 1]], [[0, 0, 0, 0]])
    assert confusion.miou == pytest.approx((0.5 + 0) / 2)


def test_all_void_has_no_miou() -> None:
    confusion = Confusion(3)
    confusion.add([[0, 1]], [[255, 255]])
    with pytest.raises(DataError, match="no mIoU"):
        _ = confusion.miou


@pytest.mark.parametrize(
    ("prediction", "label", "id"), [([[3]], [[0]], "3"), ([[0]], [[7]], "7"), ([[-1]], [[0]], "-1")]
)
def test_ids_outside_the_classes_are_refused(prediction: list, label: list, id: str) -> None:
    with pytest.raises(DataError, match=f"class id {id}"):
        Confusion(3).add(prediction, label)


def test_shapes_must_agree() -> None:
    with pytest.raises(DataError, match=r"\(1, 2\).*\(1, 3\)"):
        Confusion(3).add([[0, 0]], [[0, 0, 0]])


@pytest.fixture
def split() -> Split:
    return open_split(DataConfig("scenes", 32, 48, count=20), None, "val")


def test_evaluate_steps_and_a_perfect_network(split: Split) -> None:
    truth = iter([split.batch(range(0, 2))[1], split.batch(range(2, 4))[1], split.batch([4])[1]])
    steps = list(evaluate(lambda images: next(truth).long(), split, batch=2))
    assert [step.done for step in steps] == [2, 4, 5]
    assert all(step.result is None for step in steps[:-1])
    assert steps[-1].result.miou == 1
    assert steps[-1].result.matrix.sum() == 5 * 32 * 48


def test_evaluate_takes_logits_and_keeps_no_gradient(split: Split) -> None:
    layer = torch.nn.Conv2d(3, 8, 1)
    outputs = []

    def predict(images: torch.Tensor) -> torch.Tensor:
        outputs.append(layer(images))
        return outputs[-1]

    result = list(evaluate(predict, split, batch=3))[-1].result
    assert not any(output.requires_grad for output in outputs)
    assert torch.is_grad_enabled()
    assert 0 <= result.miou < 0.5


def test_evaluate_refuses_a_network_for_other_classes(split: Split) -> None:
    with pytest.raises(DataError, match="21 classes, the data have 8"):
        list(evaluate(lambda images: torch.zeros(len(images), 21, 32, 48), split))


def test_class_map_of_numpy_logits_and_of_nonsense() -> None:
    logits = np.zeros((1, 3, 2, 2), np.float32)
    logits[0, 2] = 1
    assert (class_map(logits, 3) == 2).all()
    with pytest.raises(DataError, match="class ids"):
        class_map(torch.zeros(1, 4, 4), 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
def test_logits_that_are_no_numbers_get_no_class(bad: float, kind: torch.dtype) -> None:
    logits = torch.zeros(2, 3, 4, 5, dtype=kind)
    logits[1, 2, 3, 4] = bad
    for output in (logits, logits.numpy()):
        with pytest.raises(DataError, match="NaN or infinite logits: 1 of 120"):
            class_map(output, 3)
