"""Losses of a batch, whole and in parts, in every precision, with and without a teacher."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from damoyolo.assemble import train, training
from damoyolo.boxes.types import Targets
from damoyolo.errors import RunError
from damoyolo.losses.criterion import Criterion, Losses
from damoyolo.losses.distill import ChannelWise, Distillation
from damoyolo.nn.detector import Detector, build_detector
from damoyolo.plan import Plan
from damoyolo.spec import ModelCard
from damoyolo.training.distributed import World
from damoyolo.training.freeze import Part, freeze
from damoyolo.training.objective import (
    DistilledObjective,
    Objective,
    Teacher,
    cosine_weight,
    statistics_untouched,
    until_plain_weight,
)
from damoyolo.zoo.weights import save_weights
from tiny_runs import SMALL_SPEC, STEPS_PER_EPOCH, metrics, tiny, write_data
from whole_runs import different, largest_difference, run, settle_norms

IMAGES = 5
CPU = torch.device("cpu")
SGD = {"name": "sgd", "lr": 0.16, "warmup_epochs": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten images, and weights to begin with where norms are frozen."""
    folder = write_data(tmp_path_factory.mktemp("shapes"))
    save_weights(new_detector(), folder / "settled.safetensors")
    return folder


def new_detector(frozen: tuple[Part, ...] = (), seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    card = ModelCard(spec=SMALL_SPEC, class_names=("a", "b"), image_size=(64, 64))
    return freeze(settle_norms(build_detector(card)), frozen)


def batch(with_boxes: Sequence[int] = (0, 1, 3, 4)) -> tuple[Tensor, Targets]:
    """Five images, each with one box more than its number, or with none."""
    rng = torch.Generator().manual_seed(1)
    boxes, labels = [], []
    for number in range(IMAGES):
        count = number + 1 if number in with_boxes else 0
        corner = torch.rand(count, 2, generator=rng) * 30
        side = 10 + torch.rand(count, 2, generator=rng) * 24
        boxes.append(torch.cat([corner, corner + side], dim=1))
        labels.append(torch.randint(2, (count,), generator=rng))
    return torch.randint(0, 256, (IMAGES, 3, 64, 64), generator=rng).float(), Targets.pad(boxes, labels)


def split(whole: tuple[Tensor, Targets], sizes: Sequence[int]) -> list[tuple[Tensor, Targets]]:
    images, targets = whole
    columns = zip(*(each.split(sizes) for each in (targets.boxes, targets.labels, targets.mask)), strict=True)
    return [(part, Targets(*rest)) for part, rest in zip(images.split(sizes), columns, strict=True)]


def distilled(detector: Detector) -> DistilledObjective:
    distillation = Distillation([16] * 3, [16] * 3, lambda _: ChannelWise())
    for level in distillation.levels:
        level.normalise = nn.Identity()  # by the statistics of a batch: a part's are not the whole's
    teacher = Teacher(new_detector(seed=7), CPU, torch.float32)
    return DistilledObjective(detector, Criterion(), teacher, distillation, lambda step: 2.0 + step)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("sizes", [(2, 3), (1, 1, 1, 2)])
@pytest.mark.parametrize("with_teacher", [False, True])
@pytest.mark.parametrize("with_boxes", [(0, 1, 3, 4), (0,), ()])
def test_parts_add_up_to_the_losses_and_gradients_of_the_whole(
    sizes: tuple[int, ...], with_teacher: bool, with_boxes: tuple[int, ...]
) -> None:
    """Seen: losses 3e-7, gradients 4e-6 of the largest."""
    detector = new_detector(frozen=("norms",))
    objective = distilled(detector) if with_teacher else Objective(detector, Criterion())
    whole = batch(with_boxes)
    losses = objective(*whole, step=1)
    losses.total.backward()
    wanted = gradients(objective)
    parts = split(whole, sizes)
    amount = objective.amount(parts)
    found: dict[str, float] = dict.fromkeys(losses.parts, 0.0)
    for images, targets in parts:
        part = objective(images, targets, 1, len(images) / IMAGES, amount)
        part.total.backward()
        found = {name: found[name] + float(loss.detach()) for name, loss in part.parts.items()}
    assert found == pytest.approx(
        {name: float(each.detach()) for name, each in losses.parts.items()}, rel=1e-5
    )
    assert ("distill" in found) == with_teacher
    largest = max(float(each.abs().max()) for each in wanted.values())
    assert largest > 1e-4
    for name, gradient in gradients(objective).items():
        assert float((gradient - wanted[name]).abs().max()) < 3e-5 * largest, name


def test_gradients_lie_in_memory_as_their_weights_do() -> None:
    """Or else DDP warns of it."""
    detector = new_detector()
    detector.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    Objective(detector, Criterion())(*batch(), step=0).total.backward()
    strides = {name: (p.stride(), p.grad.stride()) for name, p in detector.named_parameters()}
    assert any(weight[-1] != 1 for weight, _ in strides.values())
    assert all(weight == gradient for weight, gradient in strides.values()), strides


def test_counting_leaves_statistics_and_gradients_alone() -> None:
    objective = Objective(new_detector(), Criterion())
    before = {key: value.clone() for key, value in objective.state_dict().items()}
    amount = objective.amount(split(batch(), (2, 3)))
    assert amount[0] > amount[1] > 0
    assert not amount.requires_grad
    assert not different(objective.state_dict(), before)
    objective(*batch(), step=0)
    moved = different(objective.state_dict(), before)
    assert moved == {key for key in before if "running" in key or "tracked" in key}


def test_norms_that_are_untouched_still_use_the_batch() -> None:
    detector, images = new_detector(), batch()[0]
    with statistics_untouched(detector):
        untouched = detector(images).class_logits
    assert torch.equal(untouched, detector(images).class_logits)


def test_a_network_that_gives_no_numbers_is_noticed() -> None:
    objective = Objective(new_detector(), Criterion())
    with torch.no_grad():
        objective.detector.head.classify[0].bias.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="sum of the network's outputs became inf"):
        objective(*batch(), step=0)
    with pytest.raises(FloatingPointError, match="sum of the network's outputs became inf"):
        objective.amount(split(batch(), (2, 3)))


def test_a_teacher_is_neither_trained_nor_saved_nor_changed() -> None:
    original = new_detector(seed=7)
    before = {key: value.clone() for key, value in original.state_dict().items()}
    teacher = Teacher(original, CPU, torch.float32)
    images = batch()[0]
    shown = teacher(images)
    objective = distilled(new_detector())
    objective.teacher = teacher
    objective(*batch(), step=0).total.backward()
    assert all(torch.equal(mine, again) for mine, again in zip(shown, teacher(images), strict=True))
    assert not any(each.requires_grad for each in shown)
    assert not different(original.state_dict(), before)
    kinds = {name.split(".")[0] for name in objective.state_dict()}
    assert kinds == {"detector", "distillation"}
    assert all(p.grad is not None for name, p in objective.named_parameters() if "align" in name)


def test_the_distillation_counts_by_step_and_share() -> None:
    objective = distilled(new_detector(frozen=("norms",)))
    first, later, half = (
        float(objective(*batch(), step, share).distill.detach())
        for step, share in ((0, 1.0), (2, 1.0), (0, 0.5))
    )
    assert later == pytest.approx(2 * first)
    assert half == pytest.approx(first / 2)


def test_schedules_of_the_distillation() -> None:
    plan = Plan(100, 10, plain=20)
    weights = [cosine_weight(plan, step) for step in range(101)]
    assert (weights[0], weights[50], weights[100]) == pytest.approx((1.0, 0.55, 0.1))
    assert weights == sorted(weights, reverse=True)
    assert [until_plain_weight(plan, step) for step in (0, 79, 80, 99)] == [weights[0], weights[79], 0.0, 0.0]


@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 5e-3), ("float16", 5e-3)])
def test_lower_precisions_give_nearly_the_losses_of_float32(
    precision: str, tolerance: float, data: Path, tmp_path: Path
) -> None:
    """Over six steps; seen: 8e-4 and 1.3e-3."""
    for name in ("float32", precision):
        run(World(), tiny(data, tmp_path / name, precision=name, optim=SGD, report=False))
    full, less = (metrics(tmp_path / name) for name in ("float32", precision))
    for record, wanted in zip(less, full, strict=True):
        assert record["loss_total"] != wanted["loss_total"]
        assert record["loss_total"] == pytest.approx(wanted["loss_total"], rel=tolerance)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 4), (5, 2)])
def test_a_run_in_parts_ends_as_one_with_the_whole_batch(
    batch_size: int, accumulate: int, data: Path, tmp_path: Path
) -> None:
    """Ten images; with frozen norms. Seen: weights 8e-8 of the largest, which moved by 6e-3."""
    changes: dict[str, Any] = {"batch_size": batch_size, "freeze": ("norms",), "optim": SGD, "report": False}
    changes["model"] = str(data / "settled.safetensors")
    whole = run(World(), tiny(data, tmp_path / "whole", **changes))
    parts = run(World(), tiny(data, tmp_path / "parts", accumulate=accumulate, **changes))
    assert largest_difference(whole["trained"], whole["begun"]) > 2e-3
    assert largest_difference(parts["trained"], whole["trained"]) < 2e-6
    for record, wanted in zip(metrics(tmp_path / "parts"), metrics(tmp_path / "whole"), strict=True):
        assert record == pytest.approx(wanted, rel=2e-6)


def test_running_statistics_are_moved_once_by_each_part(data: Path, tmp_path: Path) -> None:
    ended = run(World(), tiny(data, tmp_path, accumulate=2, report=False))
    counts = {int(value) for key, value in ended["trained"].items() if key.endswith("num_batches_tracked")}
    assert counts == {2 * 2 * STEPS_PER_EPOCH}


def with_scale(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    monkeypatch.setattr(training, "GradScaler", functools.partial(GradScaler, init_scale=scale))


def scaler_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return state["scaler"]


def test_steps_that_overflow_float16_are_left_out_and_the_run_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"precision": "float16", "optim": SGD, "report": False}
    with_scale(monkeypatch, 2.0**60)
    never = run(World(), tiny(data, tmp_path / "never", **settings))
    assert all("running" in key or "tracked" in key for key in different(never["trained"], never["begun"]))
    assert scaler_of(tmp_path / "never")["scale"] == 2.0 ** (60 - 2 * STEPS_PER_EPOCH)
    with_scale(monkeypatch, 2.0**22)
    later = run(World(), tiny(data, tmp_path / "later", **settings))
    assert any("conv.weight" in key for key in different(later["trained"], later["begun"]))
    assert 2.0 ** (22 - 2 * STEPS_PER_EPOCH) < scaler_of(tmp_path / "later")["scale"] < 2.0**22


def test_a_gradient_that_is_no_number_at_any_scale_ends_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoilt(Criterion):
        def compare(self, *arguments: Any) -> Losses:
            losses = super().compare(*arguments)
            return replace(losses, giou=losses.giou + (losses.giou * 0).sqrt())

    with_scale(monkeypatch, 4.0)
    monkeypatch.setattr(training, "Criterion", Spoilt)
    with pytest.raises(RunError, match="the gradient's norm became nan at step 2"):
        train(tiny(data, tmp_path, precision="float16", report=False), quiet=True)
