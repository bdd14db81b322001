"""Run a whole training in this process, and compare what two of them end with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from damoyolo.assemble import training
from damoyolo.config import TrainConfig
from damoyolo.nn.detector import Detector
from damoyolo.training.distributed import World
from damoyolo.training.loop import Trainer


def run(
    world: World, config: TrainConfig, resume: bool = False, stop_at: int | None = None
) -> dict[str, dict[str, Tensor]]:
    """Train, perhaps with a Ctrl-C before a step, and tell what this process ends with and began with."""
    made: list[Trainer] = []
    begun: list[dict[str, Tensor]] = []

    class Watched(Trainer):
        def run(self) -> None:
            made.append(self)
            begun.append(_copied(self.objective))
            super().run()

        def _train_step(self, *arguments: Any) -> None:
            if self.step == stop_at:
                raise KeyboardInterrupt
            super()._train_step(*arguments)

    before, training.Trainer = training.Trainer, Watched  # type: ignore[misc]
    try:
        training._train(config, world, resume, quiet=True)
    finally:
        training.Trainer = before  # type: ignore[misc]
    (trainer,) = made
    return {"begun": begun[0], "trained": _copied(trainer.objective), "average": _copied(trainer.ema.model)}


def _copied(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


@torch.no_grad()
def settle_norms(detector: Detector) -> Detector:
    """The detector with the statistics of random images, so that it can learn with frozen norms."""
    norms = [module for module in detector.train().modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = norms[0].momentum
    for norm in norms:
        norm.momentum = 1.0
    detector(torch.randint(0, 256, (8, 3, 64, 64), generator=torch.Generator().manual_seed(2)).float())
    for norm in norms:
        norm.momentum = momentum
    return detector


def largest_difference(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Between any two tensors of a name, as a share of the larger of its largest value and 0.1."""
    assert found.keys() == wanted.keys()
    return max(
        float((found[key] - value).abs().max() / value.abs().max().clamp(min=0.1))
        for key, value in wanted.items()
        if value.is_floating_point()
    )


def different(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> set[str]:
    """Names of tensors with different bits."""
    assert found.keys() == wanted.keys()
    return {key for key, value in wanted.items() if not torch.equal(found[key], value)}
