"""The training loop: predict, compare, step, average; then evaluate and remember."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from damoyolo.boxes.types import Predictions, Targets
from damoyolo.data.loader import Batch, TrainLoader
from damoyolo.errors import RunError, UserError
from damoyolo.losses.criterion import Losses
from damoyolo.nn.detector import Detector
from damoyolo.training.checkpoint import STATE_FILE, load_state, save_state
from damoyolo.training.ema import Ema
from damoyolo.training.log import MetricsFile, ProgressBar
from damoyolo.training.optim import Schedule
from damoyolo.zoo.weights import save_weights

BEST_FILE, LAST_FILE = "best.safetensors", "last.safetensors"

Evaluate = Callable[[Detector], dict[str, float]]
"""Numbers of a detector on the validation images, `ap` among them."""


@dataclass
class Trainer:
    """One run. Everything that changes while it goes on is in `state()`.

    Args:
        detector: what is trained, on its device.
        ema: its running average, which is evaluated and written to `best` and `last`.
        folder: where weights, metrics and state go.
        epochs: length of the run.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        checkpoint_minutes: longest time between two checkpoints.
        clip_norm: largest L2 norm of the gradient.
        bfloat16: run the network in mixed precision; assignment and losses stay float32.
    """

    detector: Detector
    ema: Ema[Detector]
    optimizer: Optimizer
    schedule: Schedule
    criterion: Callable[[Predictions, Targets], Losses]
    loader: TrainLoader
    evaluate: Evaluate
    folder: Path
    epochs: int
    evaluate_every: int
    checkpoint_minutes: float
    clip_norm: float = math.inf
    bfloat16: bool = False
    quiet: bool = False
    step: int = 0
    best_ap: float = -math.inf
    _sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def run(self) -> None:
        """Train from the present position to the end."""
        metrics = MetricsFile(self.folder)
        metrics.keep_until(self.step)
        per_epoch = self.loader.steps_per_epoch
        steps = self.epochs * per_epoch
        saved = tick = time.monotonic()
        with ProgressBar(steps, self.step, self.quiet) as bar:
            if self.step:
                done = (
                    "is already finished"
                    if self.step == steps
                    else f"goes on after step {self.step} of {steps}"
                )
                bar.line(f"{self.folder} {done}")
            for batch in self.loader.stream(*divmod(self.step, per_epoch), self.epochs):
                self._train_step(batch)
                self._sums["seconds"] += time.monotonic() - tick
                epoch, left = divmod(self.step, per_epoch)
                bar.step(f"{epoch + (left > 0)}/{self.epochs}", self._describe_losses)
                if left == 0:
                    record = self._finish_epoch(epoch)
                    metrics.append(record)
                    bar.line(_summary(record, self.epochs))
                if left == 0 or time.monotonic() - saved > 60 * self.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
                tick = time.monotonic()

    def _train_step(self, batch: Batch) -> None:
        device = next(self.detector.parameters()).device
        images = batch.images.to(device, non_blocking=True).float()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            predictions = self.detector(images)
        outputs = predictions.class_logits.detach().sum() + predictions.side_logits.detach().sum()
        self._check("sum of the outputs", float(outputs), batch)  # assignment demands numbers
        losses = self.criterion(predictions, batch.targets.to(device))
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        norm = nn.utils.clip_grad_norm_(self.detector.parameters(), self.clip_norm)
        self._check("loss", float(losses.total.detach()), batch)
        self._check("norm of the gradient", float(norm), batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.step)
        self.optimizer.step()
        self.ema.update(self.step)
        self.step += 1
        for name in ("total", "quality", "giou", "sides"):
            self._sums[name] += float(getattr(losses, name).detach())
        self._sums["images"] += len(images)

    def _finish_epoch(self, epoch: int) -> dict[str, Any]:
        """Evaluate if it is time, keep the best weights, of equal ones the latest, and describe the epoch."""
        images, seconds = self._sums.pop("images"), self._sums.pop("seconds")
        steps = self.loader.steps_per_epoch
        record: dict[str, Any] = {"epoch": epoch, "step": self.step, "lr": self.schedule(self.step - 1)}
        record |= {f"loss_{name}": total / steps for name, total in self._sums.items()}
        record |= {"seconds": round(seconds, 3), "images_per_s": round(images / max(seconds, 1e-9), 2)}
        self._sums.clear()
        if self._evaluates(epoch):
            numbers = self.evaluate(self.ema.model)
            record |= numbers
            if numbers["ap"] >= self.best_ap:
                self.best_ap = numbers["ap"]
                save_weights(self.ema.model, self.folder / BEST_FILE)
            save_weights(self.ema.model, self.folder / LAST_FILE)
        return record

    def _evaluates(self, epoch: int) -> bool:
        return epoch % self.evaluate_every == 0 or epoch == self.epochs

    def _check(self, what: str, value: float, batch: Batch) -> None:
        if not math.isfinite(value):
            raise RunError(
                f"the {what} became {value} at step {self.step} (images {', '.join(batch.names)}); what "
                f"{self.folder} holds is from before; start anew with a lower optim.lr or optim.clip_norm"
            )

    def _describe_losses(self) -> str:
        steps = self.step % self.loader.steps_per_epoch or self.loader.steps_per_epoch
        names = ("total", "quality", "giou", "sides")
        return " ".join(f"{name} {self._sums[name] / steps:.3f}" for name in names)

    def save(self) -> None:
        """Write the state of the run."""
        save_state(self.folder, self.state())

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs to end as this one would."""
        return {
            "step": self.step,
            "best_ap": self.best_ap,
            "sums": json.dumps(self._sums),
            "detector": self.detector.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": torch.get_rng_state(),
            **self._origin(),
        }

    def _origin(self) -> dict[str, Any]:
        """What must not change while a run is interrupted, or its state would mean something else."""
        card = self.detector.card
        return {
            "steps_per_epoch": self.loader.steps_per_epoch,
            "class_names": list(card.class_names),
            "model": card.spec.model_dump(mode="json"),
        }

    def restore(self) -> bool:
        """Take up the state in the folder; False where there is none."""
        state = load_state(self.folder)
        if state is None:
            return False
        for name, now in self._origin().items():
            if (before := state.get(name)) != now:
                raise UserError(
                    f"{self.folder / STATE_FILE}: {name} was {str(before)[:80]} when it was written and is "
                    f"{str(now)[:80]} now; bring data and model back, or start anew in another folder"
                )
        self.step, self.best_ap = state["step"], state["best_ap"]
        self._sums.update(json.loads(state["sums"]))
        self.detector.load_state_dict(state["detector"])
        self.ema.model.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        return True


def _summary(record: dict[str, Any], epochs: int) -> str:
    line = (
        f"epoch {record['epoch']}/{epochs}  loss {record['loss_total']:.3f}  lr {record['lr']:.2e}  "
        f"{record['images_per_s']:.0f} images/s"
    )
    return line + (f"  AP {record['ap']:.3f}  AP50 {record['ap50']:.3f}" if "ap" in record else "")
