"""What is trained, in one module: images and truth go in, losses come out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from damoyolo.boxes.types import Predictions, Targets
from damoyolo.losses.criterion import Criterion, Losses, Match
from damoyolo.losses.distill import Distillation
from damoyolo.nn.detector import Detector, fuse
from damoyolo.plan import Plan

Amount = Float[Tensor, "amounts=2"]


class Objective(nn.Module):
    """The losses of a detector.

    Args:
        detector: what is trained.
        criterion: compares its predictions with the truth, in float32.
        precision: of convolutions; float32, or another one through autocast.
        share_amount: from what a process's batch is to be divided by to what every process divides by.
    """

    def __init__(
        self,
        detector: Detector,
        criterion: Criterion,
        precision: torch.dtype = torch.float32,
        share_amount: Callable[[Amount], Amount] = lambda amount: amount.clamp(min=1),
    ) -> None:
        super().__init__()
        self.detector = detector
        self.criterion = criterion
        self.precision = precision
        self.share_amount = share_amount

    def forward(
        self,
        images: Float[Tensor, "b 3 h w"],
        targets: Targets,
        step: int,
        share: float = 1.0,
        amount: Amount | None = None,
    ) -> Losses:
        """Losses of a batch, or of a part of one.

        Args:
            images: RGB 0..255.
            targets: boxes in pixels of these images.
            step: number of the step, from 0; schedules go by it.
            share: of the step's images (times the number of processes) that these are.
            amount: what the whole step's losses are divided by; by default these images' own.

        Raises:
            FloatingPointError: if the network gives no numbers.
        """
        features, predictions = self._predict(images)
        losses = self._compare(predictions, targets, amount)
        return self._with_teacher(losses, images, features, step, share)

    @torch.no_grad()
    def amount(self, parts: Iterable[tuple[Tensor, Targets]]) -> Amount:
        """What the losses of a step in parts are divided by, as if it were computed whole."""
        with statistics_untouched(self):
            matches = [self.criterion.match(self._predict(images)[1], targets) for images, targets in parts]
        return self.share_amount(torch.stack([match.amount for match in matches]).sum(dim=0))

    def _with_teacher(
        self, losses: Losses, images: Tensor, features: tuple[Tensor, ...], step: int, share: float
    ) -> Losses:
        """Here nobody teaches."""
        return losses

    def _autocast(self, images: Tensor) -> torch.autocast:
        return torch.autocast(images.device.type, self.precision, enabled=self.precision != torch.float32)

    def _predict(self, images: Tensor) -> tuple[tuple[Tensor, ...], Predictions]:
        with self._autocast(images):
            features = self.detector.features(images)
            predictions: Predictions = self.detector.head(*features)
        total = float(predictions.class_logits.detach().sum() + predictions.side_logits.detach().sum())
        if not math.isfinite(total):  # assignment demands numbers
            raise FloatingPointError(f"the sum of the network's outputs became {total}")
        return features, predictions

    def _compare(self, predictions: Predictions, targets: Targets, amount: Amount | None) -> Losses:
        match: Match = self.criterion.match(predictions, targets)
        if amount is None:
            amount = self.share_amount(match.amount)
        return self.criterion.compare(predictions, targets, match, amount)


class DistilledObjective(Objective):
    """Adds what a teacher's features say; the student's align layers are trained along.

    Args:
        teacher: gives the feature maps of the same images.
        distillation: compares them with the student's.
        weight: of that loss at a step.
    """

    def __init__(
        self,
        detector: Detector,
        criterion: Criterion,
        teacher: Teacher,
        distillation: Distillation,
        weight: Callable[[int], float],
        precision: torch.dtype = torch.float32,
        share_amount: Callable[[Amount], Amount] = lambda amount: amount.clamp(min=1),
    ) -> None:
        super().__init__(detector, criterion, precision, share_amount)
        self.teacher = teacher
        self.distillation = distillation
        self.weight = weight

    def _with_teacher(
        self, losses: Losses, images: Tensor, features: tuple[Tensor, ...], step: int, share: float
    ) -> Losses:
        weight = self.weight(step) * share
        if weight == 0:  # the teacher need not look, but every process must reach every parameter
            nothing = torch.stack([0 * each.sum() for each in self.distillation.parameters()]).sum()
            return replace(losses, distill=nothing)
        with self._autocast(images):
            difference = self.distillation(features, self.teacher(images))
        return replace(losses, distill=weight * difference)


class Teacher:
    """A trained detector that shows its feature maps: fused, without gradients, never changed.

    It is no `nn.Module`, so that its weights are no part of what is trained or saved.
    """

    def __init__(self, detector: Detector, device: torch.device, precision: torch.dtype) -> None:
        self._detector = fuse(detector).requires_grad_(False)
        self._detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._precision = precision

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> tuple[Tensor, ...]:
        """P3, P4, P5."""
        with torch.autocast(images.device.type, self._precision, enabled=self._precision != torch.float32):
            return self._detector.features(images)


def cosine_weight(plan: Plan, step: int, first: float = 1.0, last: float = 0.1) -> float:
    """From `first` to `last` over the whole run, as the reference's code does."""
    return last + (first - last) * (1 + math.cos(math.pi * plan.progress(step))) / 2


def until_plain_weight(plan: Plan, step: int) -> float:
    """Like `cosine_weight`, but nothing in the last epochs without augmentation, as the paper says."""
    return 0.0 if plan.is_plain(step) else cosine_weight(plan, step)


@contextmanager
def statistics_untouched(module: nn.Module) -> Iterator[None]:
    """Norms see batches without moving their running statistics or counting them."""
    norms = [each for each in module.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    before = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, tracks in zip(norms, before, strict=True):
            norm.track_running_stats = tracks
