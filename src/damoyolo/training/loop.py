"""The training loop: predict, compare, step, average; then evaluate and remember."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from damoyolo.boxes.types import Targets
from damoyolo.data.loader import Batch, TrainLoader
from damoyolo.errors import RunError, UserError
from damoyolo.files import write_atomically
from damoyolo.nn.detector import Detector
from damoyolo.plan import Plan
from damoyolo.training.best import Best
from damoyolo.training.checkpoint import STATE_FILE, load_state, save_state
from damoyolo.training.distributed import World
from damoyolo.training.ema import Ema
from damoyolo.training.guard import Guard
from damoyolo.training.log import MetricsFile, ProgressBar, Status, epoch_line
from damoyolo.training.objective import Objective
from damoyolo.training.optim import Schedule, set_learning_rate
from damoyolo.training.time_limit import TimeLimit
from damoyolo.training.trackers import Trackers
from damoyolo.zoo.weights import save_weights

BEST_FILE, LAST_FILE, DIVERGED_FILE = "best.safetensors", "last.safetensors", "diverged.json"
RECORDED = ("ap", "ap50")
"""Numbers of an evaluation that a weights file keeps in its lineage."""
STATE_FORMAT = 3
"""Number of the layout of `state()`."""

Evaluate = Callable[[Detector], dict[str, float]]
"""Numbers of a detector on the validation images, `ap` among them; the same in every process."""


@dataclass
class Trainer:
    """One run. Everything that changes while it goes on is in `state()`.

    Args:
        objective: what is trained, on its device.
        ema: the running average of its detector, which is evaluated and written to `best` and `last`.
        plan: length and phases of the run.
        folder: where weights, metrics and state go.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        checkpoint_minutes: longest time between two checkpoints; there is one after every epoch, too.
        time_limit: when to end.
        best: which evaluation counts as the best, and when to give up.
        accumulate: parts that a batch is computed in, one after another.
        memory_format: of the images, which the feature maps take over.
        clip_norm: largest L2 norm of the detector's gradient.
        scaler: keeps the gradients of a float16 run in range; does nothing if not enabled.
        world: the processes that train together; the first one writes and talks.
        trackers: where the numbers of every epoch are sent to, beside the metrics file.
        quiet: nothing on the terminal.
    """

    objective: Objective
    ema: Ema[Detector]
    optimizer: Optimizer
    schedule: Schedule
    plan: Plan
    loader: TrainLoader
    evaluate: Evaluate
    folder: Path
    evaluate_every: int
    checkpoint_minutes: float
    time_limit: TimeLimit
    best: Best = field(default_factory=Best)
    guard: Guard = field(default_factory=Guard)
    accumulate: int = 1
    memory_format: torch.memory_format = torch.channels_last
    clip_norm: float = math.inf
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))
    world: World = field(default_factory=World)
    trackers: Trackers = field(default_factory=lambda: Trackers(print))
    quiet: bool = False
    step: int = 0
    _sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def run(self) -> None:
        """Train from the present position to the end."""
        objective = self.world.wrap(self.objective)
        metrics = MetricsFile(self.folder)
        if self.world.is_first:
            metrics.keep_until(self.step)
        saved = tick = time.monotonic()
        with ProgressBar(self.plan.steps, self.step, self.quiet, self.world.device) as bar:
            if self.step:
                bar.line(self._describe_position())
            for batch in self.loader.stream(self.step, self.plan):
                self._train_step(objective, batch)
                self._sums["seconds"] += time.monotonic() - tick
                self._look_at_clock()
                epoch = math.ceil(self.step / self.loader.steps_per_epoch)
                bar.step(f"{epoch}/{self.plan.epochs}", self._status, self.plan.steps)
                ended = self.step == epoch * self.loader.steps_per_epoch or self.step >= self.plan.steps
                if ended:
                    record = self._finish_epoch(epoch)
                    bar.line(epoch_line(record, self.plan.epochs, self.best.kept_at == epoch))
                    if self.best.gives_up(epoch):
                        bar.line(f"ends: no better {self.best.by} than that of epoch {self.best.kept_at}")
                    if self.world.is_first:
                        metrics.append(record)
                        self.trackers.log(record, self.step)
                if ended or time.monotonic() - saved > 60 * self.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
                tick = time.monotonic()

    def _train_step(self, objective: nn.Module, batch: Batch) -> None:
        """One step on a batch; `objective` averages gradients over processes."""
        try:
            losses = self._backward(objective, batch)
            self._update_weights(losses)
        except FloatingPointError as error:
            raise self._diverged(error, batch) from error
        self.step += 1
        for name, value in (("total", sum(losses.values())), *losses.items()):
            self._sums[f"loss_{name}"] += value
        self._sums["steps"] += 1
        self._sums["images"] += batch.global_size

    def _backward(self, objective: nn.Module, batch: Batch) -> dict[str, float]:
        """Gradients of a batch, part by part, and its losses over all processes, the same in each of them."""
        least = batch.global_size // self.world.size  # images that every process has
        parts = batch.split(min(self.accumulate, least))
        amount = self.objective.amount(map(self._to_device, parts)) if len(parts) > 1 else None
        losses: dict[str, Tensor] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for part in parts:
            images, targets = self._to_device(part)
            share = len(images) * self.world.size / batch.global_size
            with _averaging(objective, last=part is parts[-1]):
                found = objective(images, targets, self.step, share, amount)
                self.scaler.scale(found.total).backward()
            for name, loss in found.parts.items():
                losses[name] = losses.get(name, 0) + loss.detach().float()
        means = self.world.sum(torch.stack(list(losses.values()))) / self.world.size
        return dict(zip(losses, means.tolist(), strict=True))

    def _to_device(self, part: Batch) -> tuple[Tensor, Targets]:
        device = next(self.objective.parameters()).device
        images = part.images.to(device).to(torch.float32, memory_format=self.memory_format)
        return images, part.targets.to(device)

    def _update_weights(self, losses: dict[str, float]) -> None:
        """One step of the optimizer and of the average; `FloatingPointError` if there is nothing to go by."""
        self.scaler.unscale_(self.optimizer)
        clipped = nn.utils.clip_grad_norm_(self.objective.detector.parameters(), self.clip_norm)
        norm = float(torch.hypot(clipped, nn.utils.get_total_norm(self._other_gradients())))
        if self.scaler.is_enabled() and self.scaler.get_scale() > 1 and not math.isfinite(norm):
            norm = 0.0  # too large for float16: the scaler leaves this step out and takes a smaller scale
        self.guard.check(losses, norm)
        set_learning_rate(self.optimizer, self.schedule(self.step))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.ema.update(self.step)

    def _other_gradients(self) -> list[Tensor]:
        """Of what is trained along with the detector."""
        named = self.objective.named_parameters()
        gradients = [each.grad for name, each in named if not name.startswith("detector.")]
        return [gradient for gradient in gradients if gradient is not None]

    def _look_at_clock(self) -> None:
        if self.time_limit.is_set:
            self.plan.steps = self.world.broadcast(self.time_limit.steps(self.plan, self.step))

    def _finish_epoch(self, epoch: int) -> dict[str, Any]:
        """Evaluate if it is time, keep the best weights, of equal ones the latest, and describe the epoch."""
        record: dict[str, Any] = {"epoch": epoch, "step": self.step, "lr": self.schedule(self.step - 1)}
        record |= self._means()
        self._sums.clear()
        if self._is_evaluated(epoch):
            start = time.monotonic()
            self.world.share_buffers(self.ema.model)
            numbers = self.evaluate(self.ema.model)
            record |= numbers
            self._note_in_card(epoch, numbers)
            if self.best.update(epoch, numbers) and self.world.is_first:
                save_weights(self.ema.model, self.folder / BEST_FILE)
            if self.world.is_first:
                save_weights(self.ema.model, self.folder / LAST_FILE)
            if self.best.gives_up(epoch):
                self.plan.steps = self.step
            self.time_limit.last_evaluation = time.monotonic() - start
        return record

    def _note_in_card(self, epoch: int, numbers: dict[str, float]) -> None:
        """The weights that are written now tell how good they are."""
        card = self.ema.model.card
        validation = {"epoch": epoch} | {name: numbers[name] for name in RECORDED if name in numbers}
        lineage = {**card.lineage, "validation": validation}
        self.ema.model.card = card.model_copy(update={"lineage": lineage})

    def _is_evaluated(self, epoch: int) -> bool:
        """Now and then, at the end, and once early where the time that it takes has to be known."""
        unknown = self.time_limit.is_set and self.time_limit.last_evaluation is None
        return epoch % self.evaluate_every == 0 or self.step >= self.plan.steps or unknown

    def _means(self) -> dict[str, float]:
        """Losses per step and speed since the last epoch."""
        sums = self._sums
        means = {name: total / sums["steps"] for name, total in sums.items() if name.startswith("loss_")}
        speed = {
            "seconds": round(sums["seconds"], 3),
            "images_per_s": round(sums["images"] / max(sums["seconds"], 1e-9), 2),
        }
        return means | speed

    def _diverged(self, error: FloatingPointError, batch: Batch) -> RunError:
        """The end of a run that computes nonsense; what it has on disk is from before."""
        path = self.folder / DIVERGED_FILE
        if not self.world.is_first:
            path = path.with_stem(f"{path.stem}-{self.world.rank}")
        found = {"step": self.step, "error": str(error), "images": batch.names}
        write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())
        shown = path if self.world.size == 1 else self.folder / "diverged*.json"
        return RunError(
            f"{error} at step {self.step} (images in {shown}); what {self.folder} holds is from before; "
            "start anew in another folder with a lower optim.lr or optim.clip_norm, or look at those images"
        )

    def _describe_position(self) -> str:
        if self.step >= self.plan.steps:
            return f"{self.folder} is already finished"
        return f"{self.folder} goes on after step {self.step} of {self.plan.steps}"

    def _status(self) -> Status:
        sums = {name: value for name, value in self._sums.items() if name.startswith("loss_")}
        losses = {name.removeprefix("loss_"): value / self._sums["steps"] for name, value in sums.items()}
        speed = self._sums["images"] / self._sums["seconds"]
        return Status(losses, self.schedule(self.step - 1), speed)

    def save(self) -> None:
        """Write the state of the run."""
        if self.world.is_first:
            save_state(self.folder, self.state())

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs to end as this one would."""
        return {
            "step": self.step,
            "steps": self.plan.steps,
            "elapsed": self.time_limit.elapsed,
            "best": [self.best.value, self.best.improved_at, self.best.kept_at],
            "usual_loss": self.guard.usual,
            "sums": json.dumps(self._sums),
            "objective": self.objective.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            **self._origin(),
        }

    def _origin(self) -> dict[str, Any]:
        """What must not change while a run is interrupted, or its state would mean something else."""
        card = self.objective.detector.card
        return {
            "format": STATE_FORMAT,
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
        self.step, self.plan.steps = state["step"], state["steps"]
        self.time_limit.spent = state["elapsed"]
        self.best.value, self.best.improved_at, self.best.kept_at = state["best"]
        self.guard.usual = state["usual_loss"]
        self._sums.update(json.loads(state["sums"]))
        self.objective.load_state_dict(state["objective"])
        self.ema.model.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        return True


def _averaging(objective: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Processes average their gradients in the backward pass of a step's last part, not before."""
    if last or not isinstance(objective, DistributedDataParallel):
        return nullcontext()
    return objective.no_sync()
