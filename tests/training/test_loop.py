"""The loop on real parts: what it steps with, evaluates, keeps, refuses and takes up again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from damoyolo.assemble.loading import augmentation
from damoyolo.config import AugmentConfig
from damoyolo.data.formats import read_coco
from damoyolo.data.loader import TrainingSet, TrainLoader
from damoyolo.data.resize import Resize
from damoyolo.data.source import Source
from damoyolo.errors import RunError, UserError
from damoyolo.losses.criterion import Criterion, Losses
from damoyolo.nn.detector import Detector, build_detector
from damoyolo.plan import Plan
from damoyolo.spec import ModelCard
from damoyolo.training.ema import Ema
from damoyolo.training.freeze import Part, freeze
from damoyolo.training.loop import Trainer
from damoyolo.training.objective import Objective
from damoyolo.training.optim import Schedule, build_optimizer
from damoyolo.training.time_limit import TimeLimit
from damoyolo.zoo import read_spec
from damoyolo.zoo.tensor_file import read_safetensors
from damoyolo.zoo.weights import load_weights
from tiny_runs import IMAGES, SMALL_SPEC, STEPS_PER_EPOCH, metrics, outcome, write_data

EPOCHS = 2
STEPS = EPOCHS * STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("shapes"))


class Marks:
    """An evaluation that gives marks in order and remembers which model it was asked about."""

    def __init__(self, *marks: float) -> None:
        self.marks: Iterator[float] = iter(marks)
        self.models: list[Detector] = []
        self.states: list[dict[str, Tensor]] = []

    def __call__(self, model: Detector) -> dict[str, float]:
        self.models.append(model)
        self.states.append({key: value.clone() for key, value in model.state_dict().items()})
        return {"ap": next(self.marks), "ap50": 0.5}


def make_plan(steps: int = STEPS) -> Plan:
    return Plan(steps, STEPS_PER_EPOCH, warmup=2, plain=2)


def make_trainer(
    data: Path,
    folder: Path,
    evaluate: Marks | None = None,
    criterion: Any = None,
    precision: torch.dtype = torch.float32,
    frozen: tuple[Part, ...] = (),
    **changes: Any,
) -> Trainer:
    """A run of two epochs of three steps with random weights."""
    torch.manual_seed(0)
    records = read_coco(data, "train")
    card = ModelCard(spec=SMALL_SPEC, class_names=records.class_names, image_size=(64, 64))
    detector = build_detector(card).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    freeze(detector, frozen)
    augment = augmentation(AugmentConfig())
    samples = TrainingSet(Source(records.records, 8), Resize("stretch", (64, 64)), augment, seed=0)
    settings: dict[str, Any] = {
        "ema": Ema(detector, decay=0.9, warmup_steps=5.0),
        "optimizer": build_optimizer(detector, "adamw", weight_decay=0.05, momentum=0.9),
        "plan": make_plan(),
        "loader": TrainLoader(samples, batch_size=4, workers=0),
        "evaluate": evaluate or Marks(0.1, 0.2),
        "evaluate_every": 1,
        "checkpoint_minutes": 0.0,
        "quiet": True,
    } | changes
    plan = settings["plan"]
    schedule = Schedule(0.01, floor_ratio=0.1, plan=plan)
    return Trainer(
        objective=Objective(detector, criterion or Criterion(), precision),
        folder=folder,
        **{"schedule": schedule, "time_limit": TimeLimit(plan.steps), **settings},
    )


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@dataclass(frozen=True)
class Watched(Criterion):
    """The criterion, whose losses `look` sees and may change; it is told how many came before."""

    look: Callable[[int, Losses], Losses] = lambda _, losses: losses
    calls: list[int] = field(default_factory=list)

    def compare(self, *arguments: Any) -> Losses:
        self.calls.append(1)
        return self.look(len(self.calls) - 1, super().compare(*arguments))


def fails_at(step: int, spoil: Callable[[Losses], Losses]) -> Watched:
    """The criterion, until the step with this number, which gets what `spoil` makes of its losses."""
    return Watched(look=lambda number, losses: spoil(losses) if number == step else losses)


def nan_loss(losses: Losses) -> Losses:
    return replace(losses, giou=losses.giou * float("nan"))


def nan_gradient(losses: Losses) -> Losses:
    return replace(losses, giou=losses.giou + (losses.giou * 0).sqrt())


def explosion(losses: Losses) -> Losses:
    return replace(losses, giou=losses.giou * 1e5)


def interruption(_: Losses) -> Losses:
    raise KeyboardInterrupt


def test_every_step_is_taken_at_the_rate_of_the_schedule(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path)
    rates: list[list[float]] = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append([group["lr"] for group in optimizer.param_groups])
    )
    trainer.run()
    assert rates == [[trainer.schedule(step)] * 2 for step in range(STEPS)]
    assert [record["lr"] for record in metrics(tmp_path)] == [trainer.schedule(2), trainer.schedule(5)]


def test_the_average_is_what_is_evaluated_and_written(data: Path, tmp_path: Path) -> None:
    marks = Marks(0.1, 0.2)
    trainer = make_trainer(data, tmp_path, marks)
    trainer.run()
    assert all(model is trainer.ema.model for model in marks.models)
    last = read_safetensors(tmp_path / "last.safetensors")[0]
    assert equal(last, trainer.ema.model.state_dict())
    assert not equal(last, trainer.objective.detector.state_dict())


@pytest.mark.parametrize(
    ("marks", "best"), [((0.3, 0.2), 0), ((0.2, 0.3), 1), ((0.0, 0.0), 1), ((-1.0, -1.0), 1)]
)
def test_the_weights_of_the_best_evaluation_are_kept_and_of_equal_ones_the_latest(
    marks: tuple[float, ...], best: int, data: Path, tmp_path: Path
) -> None:
    evaluate = Marks(*marks)
    trainer = make_trainer(data, tmp_path, evaluate)
    trainer.run()
    assert equal(read_safetensors(tmp_path / "best.safetensors")[0], evaluate.states[best])
    assert equal(read_safetensors(tmp_path / "last.safetensors")[0], evaluate.states[-1])
    assert trainer.best.value == max(marks)
    noted = [
        load_weights(tmp_path / name).card.lineage["validation"]
        for name in ("best.safetensors", "last.safetensors")
    ]
    assert noted == [{"epoch": n + 1, "ap": marks[n], "ap50": 0.5} for n in (best, 1)]


def test_the_last_epoch_is_evaluated_whatever_the_rhythm(data: Path, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path, Marks(0.7), evaluate_every=5, checkpoint_minutes=60.0)
    trainer.run()
    first, second = metrics(tmp_path)
    assert "ap" not in first
    assert second["ap"] == 0.7


def test_what_is_stopped_after_an_epoch_goes_on_from_there(data: Path, tmp_path: Path) -> None:
    changes = {"evaluate_every": 5, "checkpoint_minutes": 60.0}
    stopped = make_trainer(data, tmp_path, criterion=fails_at(STEPS_PER_EPOCH + 1, interruption), **changes)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = make_trainer(data, tmp_path, Marks(0.7), **changes)
    resumed.restore()
    assert resumed.step == STEPS_PER_EPOCH
    resumed.run()
    assert [record["epoch"] for record in metrics(tmp_path)] == [1, 2]


def test_a_record_holds_mean_losses_position_and_speed(data: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    def remember(_: int, losses: Losses) -> Losses:
        seen.append(float(losses.total.detach()))
        return losses

    make_trainer(data, tmp_path, criterion=Watched(look=remember)).run()
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert [(each["epoch"], each["step"]) for each in (first, second)] == [(1, 3), (2, 6)]
    assert first["loss_total"] == pytest.approx(sum(seen[:3]) / 3)
    assert second["loss_total"] == pytest.approx(sum(seen[3:]) / 3)
    parts = sum(first[f"loss_{part}"] for part in ("quality", "giou", "sides"))
    assert first["loss_total"] == pytest.approx(parts)
    assert first["images_per_s"] * first["seconds"] == pytest.approx(IMAGES, rel=0.02)


def test_the_gradient_is_clipped_to_the_norm_and_untouched_without_one(data: Path, tmp_path: Path) -> None:
    norms: dict[float, float] = {}
    for clip in (0.01, float("inf")):
        trainer = make_trainer(data, tmp_path / str(clip), clip_norm=clip, plan=make_plan(3))
        trainer.run()
        gradients = [parameter.grad for parameter in trainer.objective.parameters()]
        norms[clip] = float(torch.nn.utils.get_total_norm(gradients))
    assert norms[0.01] == pytest.approx(0.01, rel=1e-3)
    assert norms[float("inf")] > 0.05


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (nan_loss, "the giou became nan"),
        (nan_gradient, "the gradient's norm became nan"),
        (explosion, "the loss exploded from"),
    ],
)
def test_numbers_that_are_none_stop_the_run_and_leave_everything_as_before(
    spoil: Any, what: str, data: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(data, tmp_path, criterion=fails_at(4, spoil))
    files: dict[str, bytes] = {}
    trainer.optimizer.register_step_post_hook(lambda *_: files.clear())
    save = trainer.save

    def save_and_look() -> None:
        save()
        files.update({path.name: path.read_bytes() for path in tmp_path.iterdir()})

    trainer.save = save_and_look  # type: ignore[method-assign]
    with pytest.raises(RunError, match=f"{what}.* at step 4 .images in .*diverged.json"):
        trainer.run()
    told = json.loads((tmp_path / "diverged.json").read_text())
    assert told["step"] == 4
    assert what in told["error"]
    assert len(told["images"]) == 4
    assert all(name.startswith("train_") for name in told["images"])
    weights = {"best.safetensors", "last.safetensors"}
    assert files.keys() == {"state.pt", "metrics.jsonl", "metrics.csv", *weights}
    left = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "diverged.json"}
    assert left == files
    assert all(value.isfinite().all() for value in trainer.objective.parameters())


@pytest.mark.parametrize(
    ("step", "precision"),
    [(1, "float32"), (3, "float32"), (5, "float32"), (4, "bfloat16"), (4, "float16")],
)
def test_a_run_that_is_interrupted_at_any_step_ends_as_if_it_were_not(
    step: int, precision: str, data: Path, tmp_path: Path
) -> None:
    def make(folder: Path, evaluate: Marks, criterion: Criterion | None = None) -> Trainer:
        scaler = GradScaler("cpu", enabled=precision == "float16")
        return make_trainer(data, folder, evaluate, criterion, getattr(torch, precision), scaler=scaler)

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make(whole, Marks(0.2, 0.1)).run()
    with pytest.raises(KeyboardInterrupt):
        make(parts, Marks(0.2), fails_at(step, interruption)).run()
    later = make(parts, Marks(*(0.2, 0.1)[step // 3 :]))
    torch.manual_seed(99)
    assert later.restore()
    assert later.step == step
    later.run()
    assert outcome(parts) == outcome(whole)


def test_what_was_written_after_the_last_state_is_written_again(data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    make_trainer(data, whole).run()
    trainer = make_trainer(data, parts)
    save = trainer.save

    def save_until_the_end() -> None:
        if trainer.step == STEPS:
            raise KeyboardInterrupt
        save()

    trainer.save = save_until_the_end  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert outcome(parts) == outcome(whole)
    assert torch.load(parts / "state.pt", weights_only=True)["step"] == STEPS - 1
    later = make_trainer(data, parts, Marks(0.2))
    assert later.restore()
    later.run()
    assert outcome(parts) == outcome(whole)


def test_without_a_state_there_is_nothing_to_take_up(data: Path, tmp_path: Path) -> None:
    assert not make_trainer(data, tmp_path).restore()


def test_seconds_and_images_of_an_epoch_include_those_before_the_interruption(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_trainer(data, tmp_path, criterion=fails_at(2, interruption)).run()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    before = json.loads(state["sums"])["seconds"]
    later = make_trainer(data, tmp_path)
    later.restore()
    later.run()
    first = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert first["seconds"] > before
    assert first["images_per_s"] * first["seconds"] == pytest.approx(IMAGES, rel=0.02)


def test_a_state_of_other_data_or_of_another_model_is_refused(data: Path, tmp_path: Path) -> None:
    make_trainer(data, tmp_path).save()
    with pytest.raises(UserError, match=r"state\.pt: steps_per_epoch was 3 when it was written and is 5 now"):
        make_trainer(data, tmp_path, loader=_loader_of_pairs(data)).restore()
    renamed = make_trainer(data, tmp_path)
    names = ("disc", "square", "triangle", "star")
    renamed.objective.detector.card = renamed.objective.detector.card.model_copy(
        update={"class_names": names}
    )
    with pytest.raises(UserError, match=r"class_names was \['circle', .* and is \['disc'"):
        renamed.restore()
    other = make_trainer(data, tmp_path)
    other.objective.detector.card = other.objective.detector.card.model_copy(update={"spec": read_spec("T")})
    with pytest.raises(UserError, match=r"model was .*'tiny'.* and is .*'T'"):
        other.restore()


def _loader_of_pairs(data: Path) -> TrainLoader:
    trainer_loader = make_trainer(data, data).loader
    return TrainLoader(trainer_loader._dataset, batch_size=2, workers=0)
