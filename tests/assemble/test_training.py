"""From a configuration to a trained detector: same seed same result, what is refused, what is left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from damoyolo.assemble import build, load, read_config, resolve, train
from damoyolo.assemble.settings import check_folder
from damoyolo.config import TrainConfig
from damoyolo.errors import RunError, UserError
from damoyolo.nn.detector import Detector, fuse
from damoyolo.training.loop import Trainer
from damoyolo.zoo.weights import save_weights
from tiny_runs import IMAGES, SMALL_SPEC, metrics, outcome, spec_in, tiny, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, to look at."""
    return train(tiny(data, tmp_path_factory.mktemp("runs") / "run"), quiet=True).folder


def rewrite(data: Path, copy: Path, split: str, **changes: Any) -> Path:
    """The data set with other entries in one annotation file."""
    for name in ("train", "val"):
        content = json.loads((data / f"{name}.json").read_text())
        copy.mkdir(exist_ok=True)
        (copy / f"{name}.json").write_text(json.dumps(content | (changes if name == split else {})))
    spec_in(copy).write_text(SMALL_SPEC.to_yaml())
    (copy / "images").symlink_to(data / "images")
    return copy


def step_fails(*_: object) -> None:
    raise AssertionError("a step was taken")


def test_the_same_seed_gives_the_same_bytes_with_any_number_of_workers(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    torch.manual_seed(12345)  # of no consequence
    train(tiny(data, tmp_path / "run", workers=1), quiet=True)
    assert outcome(tmp_path / "run") == outcome(finished)


def test_another_seed_gives_other_weights_and_losses(data: Path, finished: Path, tmp_path: Path) -> None:
    train(tiny(data, tmp_path / "run", seed=1), quiet=True)
    other, same = outcome(tmp_path / "run"), outcome(finished)
    assert other["last.safetensors"] != same["last.safetensors"]
    assert metrics(tmp_path / "run")[0]["loss_total"] != metrics(finished)[0]["loss_total"]


def test_the_weights_carry_what_they_are_and_how_they_came_to_be(data: Path, finished: Path) -> None:
    card = load(finished / "best.safetensors").card
    assert card.spec == SMALL_SPEC
    assert card.class_names == ("circle", "square", "triangle", "star")
    assert card.image_size == (64, 64)
    expected = {"source": "trained", "data": data.name, "epochs": 2, "seed": 0, "torch": torch.__version__}
    measured = {"epoch": 2, **{name: metrics(finished)[-1][name] for name in ("ap", "ap50")}}
    assert card.lineage == {**expected, "validation": measured}


def test_an_epochs_record_has_the_numbers_of_every_class_under_a_name_of_its_own(finished: Path) -> None:
    for record in metrics(finished):
        assert {"ap", "ap50", "ap75", "ap_small", "ar100"} <= record.keys()
        assert {key for key in record if key.startswith("ap/")} == {
            f"ap/{name}" for name in ("circle", "square", "triangle", "star")
        }


def test_the_resolved_configuration_reads_back_to_itself(data: Path, finished: Path) -> None:
    config = tiny(data, finished)
    assert read_config(finished) == config
    content = yaml.safe_load((finished / "config.yaml").read_text())
    assert content.keys() == TrainConfig.model_fields.keys()
    assert resolve(str(finished / "config.yaml"), {}) == config


def test_flags_go_over_the_recipe_file_and_that_over_the_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("epochs: 7\nseed: 3\naugment: {degrees: 1.5, flip: 0.25}\noptim: {name: adamw}\n")
    given = {"data": Path("data"), "epochs": 9, "augment": {"flip": 0.75}}
    config = resolve(str(recipe), given)
    assert (config.epochs, config.seed, config.batch_size) == (9, 3, TrainConfig(data=Path()).batch_size)
    assert (config.augment.degrees, config.augment.flip, config.augment.mosaic) == (1.5, 0.75, 1.0)
    assert config.optim.name == "adamw"


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        (None, "quick"),
        ("Ns", "quick"),
        ("mine.yaml", "quick"),
        ("a.pth", "finetune"),
        ("a.safetensors", "finetune"),
    ],
)
def test_weights_are_fine_tuned_and_the_rest_is_trained_from_scratch(model: str | None, recipe: str) -> None:
    given = {"data": Path("data"), **({"model": model} if model else {})}
    assert resolve(None, given) == resolve(recipe, given)
    assert resolve("quick", given) != resolve("finetune", given)


def test_without_data_there_is_nothing_to_train_on() -> None:
    with pytest.raises(UserError, match="data: nothing to train on; give a folder"):
        resolve("quick", {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, r"epochs: is 0; take 1 or more"),
        ({"epochs": "many"}, r"epochs: .*valid integer.* \(got 'many'\)"),
        ({"epoch": 3}, "unknown field 'epoch'; did you mean 'epochs'?"),
        ({"image_size": 100}, r"image_size: 100 px is no multiple of 32; take 96 \(got '100'\)"),
        ({"image_size": 32}, r"image_size: 32 px is too small; it must be at least 64 \(got '32'\)"),
        ({"seed": -1}, r"seed: is -1; take 0 or more"),
        ({"seed": 2**63}, r"seed: .*less than"),
        ({"resize": "crop"}, r"resize: 'crop' is none of stretch, letterbox$"),
        ({"augment": {"mosiac": 1}}, "unknown field 'augment.mosiac'; did you mean 'mosaic'?"),
        ({"augment": {"flip": 2}}, r"augment.flip: is 2; take 1 or less"),
        ({"augment": {"scale": [1]}}, r"augment.scale.1: Field required"),
        ({"augment": {"scale": [0, 1]}}, r"augment.scale.0: is 0; take more than 0"),
        ({"optim": {"name": "adam"}}, r"optim.name: 'adam' is none of sgd, adamw; did you mean 'adamw'\?"),
        ({"optim": {"lr": "fast"}}, r"optim.lr: .*valid number.* \(got 'fast'\)"),
        ({"optim": {"lr": float("nan")}}, r"optim.lr: .*\(got 'nan'\)"),
        ({"optim": {"lr": float("inf")}}, r"optim.lr: .*finite.* \(got 'inf'\)"),
        ({"optim": 3}, r"optim: .* \(got '3'\)"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"settings: {message}".replace("?", r"\?")):
        resolve("quick", {"data": Path("data"), **settings})


def test_too_many_processes_are_refused_before_one_is_started(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="devices: 10000 processes cannot share"):
        train(tiny(data, tmp_path / "run").model_copy(update={"devices": 10_000}), quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(data: Path, finished: Path) -> None:
    before = outcome(finished)
    with pytest.raises(UserError, match=f"output: {finished} holds a run already; take another folder"):
        train(tiny(data, finished), quiet=True)
    assert outcome(finished) == before


@pytest.mark.parametrize(
    ("output", "message"),
    [("file", "output: .*file is a file; name a folder"), ("file/run", "run: cannot be written")],
)
def test_an_output_that_cannot_be_a_folder_is_refused_before_the_first_step(
    output: str, message: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(Trainer, "_train_step", step_fails)
    for resume in (False, True):
        with pytest.raises(UserError, match=message):
            train(tiny(data, tmp_path / output), resume=resume, quiet=True)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "seed: is '4' now but was '0'"),
        ({"epochs": 3}, "epochs: is '3' now but was '2'"),
        ({"model": "T"}, "model: is 'T' now but was '.*tiny.yaml'"),
        ({"optim": {"lr": 0.5}}, r"optim\.lr: is '0\.5' now but was '"),
    ],
)
def test_a_resumed_run_keeps_its_settings(
    changes: dict[str, Any], message: str, data: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "_train_step", step_fails)
    with pytest.raises(UserError, match=message):
        train(tiny(data, finished, **changes), resume=True, quiet=True)


def test_a_finished_run_stays_as_it_is_when_resumed_even_moved_and_with_free_settings_changed(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    (moved / ".state.pt.99999.part").write_bytes(b"from a run that was killed")
    monkeypatch.setattr(Trainer, "_train_step", step_fails)
    config = read_config(moved, {"workers": 1, "checkpoint_minutes": 3})
    assert (config.output, config.workers, config.checkpoint_minutes) == (moved, 1, 3)
    result = train(config, resume=True, quiet=True)
    assert outcome(moved) == outcome(finished)
    assert result.ap == max(record["ap"] for record in metrics(finished))
    assert not list(moved.glob(".*"))


def test_data_may_be_named_from_where_one_is_when_a_run_is_resumed(
    data: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    again = read_config(finished, {"data": data.name})
    assert again.data == data
    check_folder(again, resume=True)


def test_a_finished_run_that_is_resumed_says_so(
    data: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(read_config(finished), resume=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "is already finished" in shown.err


def test_a_folder_without_a_run_has_no_configuration_to_go_on_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"output: .* holds no run \(no config.yaml\); start one without"):
        read_config(tmp_path)


def test_a_run_killed_before_it_began_begins_when_it_is_resumed(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    train(tiny(data, tmp_path / "run"), resume=True, quiet=True)
    assert outcome(tmp_path / "run") == outcome(finished)


def test_a_damaged_state_ends_the_resumed_run_with_a_sentence_and_changes_no_weights(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "state.pt").write_bytes((run / "state.pt").read_bytes()[: 10**4])
    with pytest.raises(UserError, match=r"state\.pt: is damaged or no training state"):
        train(tiny(data, run), resume=True, quiet=True)
    assert outcome(run) == outcome(finished)


def test_a_run_of_a_data_set_that_has_changed_is_not_resumed(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    content = json.loads((data / "train.json").read_text())
    some = [each for each in content["images"] if each["id"] <= 4]
    boxes = [each for each in content["annotations"] if each["image_id"] <= 4]
    fewer = rewrite(data, tmp_path / "fewer", "train", images=some, annotations=boxes)
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(settings | {"data": str(fewer)}))
    with pytest.raises(UserError, match="steps_per_epoch was 3 when it was written and is 1 now"):
        train(read_config(run), resume=True, quiet=True)
    assert outcome(run) == outcome(finished)


def test_data_without_any_box_teach_nothing_and_are_refused(data: Path, tmp_path: Path) -> None:
    empty = rewrite(data, tmp_path / "empty", "train", annotations=[])
    with pytest.raises(UserError, match=r"train\.json: has no boxes, so there is nothing to learn"):
        train(tiny(empty, tmp_path / "run"), quiet=True)


def test_images_without_boxes_train_too_and_may_be_all_that_is_validated(data: Path, tmp_path: Path) -> None:
    one = json.loads((data / "train.json").read_text())["annotations"][:1]
    empty = rewrite(data, tmp_path / "empty", "train", annotations=one)
    val = json.loads((data / "val.json").read_text())
    (empty / "val.json").write_text(json.dumps(val | {"annotations": []}))
    result = train(tiny(empty, tmp_path / "run"), quiet=True)
    first, second = metrics(result.folder)
    assert second["loss_quality"] > 0
    assert result.ap == first["ap"] == -1
    assert load(result.best).card.class_names == ("circle", "square", "triangle", "star")


def test_fewer_images_than_a_batch_make_one_step_an_epoch(data: Path, tmp_path: Path) -> None:
    result = train(tiny(data, tmp_path / "run", batch_size=IMAGES + 1), quiet=True)
    assert [record["step"] for record in metrics(result.folder)] == [1, 2]


def test_a_single_image_is_enough(data: Path, tmp_path: Path) -> None:
    content = json.loads((data / "train.json").read_text())
    boxes = [each for each in content["annotations"] if each["image_id"] == 2]
    assert boxes
    one = rewrite(data, tmp_path / "one", "train", images=content["images"][1:2], annotations=boxes)
    result = train(tiny(one, tmp_path / "run"), quiet=True)
    assert all(record["loss_giou"] > 0 for record in metrics(result.folder))


def test_what_is_skipped_is_listed_and_what_is_not_stops_the_run_before_it_begins(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((data / "train.json").read_text())
    gone = content["images"][3] | {"file_name": "gone.jpg"}
    bad = rewrite(
        data,
        tmp_path / "bad",
        "train",
        images=[gone if each["id"] == 4 else each for each in content["images"]],
    )
    with pytest.raises(
        UserError, match=r"gone\.jpg: cannot be read .*, or leave bad items out with --skip-bad"
    ):
        train(tiny(bad, tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()
    train(tiny(bad, tmp_path / "run", skip_bad=True))
    shown = capsys.readouterr().err
    assert "train.json: 9 images" in shown
    assert "bad images or annotations 1\n" in shown
    assert f"{bad}/images/gone.jpg: cannot be read" in shown


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:126] DefaultCPUAllocator: can't allocate memory: ..."),
        MemoryError(),
    ],
)
def test_a_device_without_enough_memory_is_told_in_a_sentence(
    error: Exception, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Trainer, "_train_step", fail)
    with pytest.raises(RunError, match="cpu ran out of memory; start anew with a smaller batch_size"):
        train(tiny(data, tmp_path / "run"), quiet=True)


def test_training_from_weights_begins_where_they_ended(data: Path, finished: Path, tmp_path: Path) -> None:
    weights = finished / "last.safetensors"
    still = {"lr": 1e-12, "weight_decay": 0.0}
    result = train(tiny(data, tmp_path / "run", model=str(weights), epochs=1, optim=still), quiet=True)
    before, after = load(weights).state_dict(), load(result.last).state_dict()
    for key, value in after.items():
        if "running" not in key and "num_batches" not in key:
            torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)


def test_fused_weights_cannot_be_trained_on(data: Path, tmp_path: Path) -> None:
    save_weights(
        fuse(build("T", class_names=("circle", "square", "triangle", "star"))), tmp_path / "t.safetensors"
    )
    with pytest.raises(
        UserError, match=r"model: .*t\.safetensors holds weights that were fused for inference"
    ):
        train(tiny(data, tmp_path / "run", model=str(tmp_path / "t.safetensors")), quiet=True)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("Tx", "'Tx' is no model size; did you mean 'T'?"),
        ("absent.yaml", "absent.yaml: cannot be read"),
        ("absent.safetensors", "absent.safetensors: cannot be read"),
    ],
)
def test_a_model_that_is_not_there_is_named(model: str, message: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        train(tiny(data, tmp_path / "run", model=model), quiet=True)


def test_a_detector_with_random_weights_has_the_classes_it_was_asked_for() -> None:
    assert len(build("Ns").card.class_names) == 80
    assert build("ns", 3).card.class_names == ("class0", "class1", "class2")
    assert build("Ns", class_names=("a", "b")).head.num_classes == 2
    assert not build("Ns", 3).training
    with pytest.raises(UserError, match="num_classes is 3, but class_names has 2 names; make them agree"):
        build("Ns", 3, class_names=("a", "b"))
    with pytest.raises(UserError, match="build: class_names: "):
        build("Ns", 0)


def test_a_short_run_of_a_named_recipe_has_short_phases(data: Path) -> None:
    short = resolve("quick", {"data": data, "epochs": 4})
    assert (short.no_augment_epochs, short.optim.warmup_epochs) == (1, 1.0)
    given = resolve(
        "quick", {"data": data, "epochs": 4, "no_augment_epochs": 3, "optim": {"warmup_epochs": 2}}
    )
    assert (given.no_augment_epochs, given.optim.warmup_epochs) == (3, 2.0)
    assert resolve("coco", {"data": data}).no_augment_epochs == 16


def test_a_run_that_finds_the_disk_full_goes_on_when_there_is_room(
    data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step, sync = Trainer._train_step, os.fsync
    full = False

    def fill_up(trainer: Trainer, *arguments: Any) -> None:
        nonlocal full
        full = trainer.step == IMAGES // 4 + 1  # in the second epoch
        take_step(trainer, *arguments)

    def write(file: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(file)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_step", fill_up)
        patched.setattr(os, "fsync", write)
        with pytest.raises(RunError, match="make room and go on"):
            train(tiny(data, tmp_path / "run", checkpoint_minutes=0), quiet=True)
    train(tiny(data, tmp_path / "run", checkpoint_minutes=0), resume=True, quiet=True)
    assert outcome(tmp_path / "run") == outcome(finished)


@pytest.mark.parametrize("method", ["cwd", "mimic", "mgd"])
def test_a_distilled_run_learns_from_its_teacher_and_ships_the_student_alone(
    method: str, data: Path, finished: Path, tmp_path: Path
) -> None:
    teacher = finished / "best.safetensors"
    before = teacher.read_bytes()
    result = train(tiny(data, tmp_path / "run", teacher=str(teacher), distill={"method": method}), quiet=True)
    first, second = metrics(result.folder)
    assert first["loss_distill"] > second["loss_distill"] > 0
    parts = sum(second[f"loss_{part}"] for part in ("quality", "giou", "sides", "distill"))
    assert second["loss_total"] == pytest.approx(parts)
    assert load(result.best).state_dict().keys() == load(teacher).state_dict().keys()
    assert load(result.best).card.lineage["teacher"] == "best.safetensors"
    assert teacher.read_bytes() == before
    state = torch.load(result.folder / "state.pt", weights_only=True)
    learnt = [key for key in state["objective"] if key.startswith("distillation.")]
    assert len(learnt) == (21 if method == "mgd" else 6)
    assert not any("teacher" in key for key in state["objective"])


@pytest.mark.parametrize("method", ["cwd", "mgd"])
def test_a_distilled_run_that_is_interrupted_ends_as_if_it_were_not(
    method: str, data: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(name: str) -> TrainConfig:
        teacher = str(finished / "best.safetensors")
        return tiny(data, tmp_path / name, teacher=teacher, distill={"method": method})

    train(config("whole"), quiet=True)
    take_step = Trainer._train_step

    def stop(trainer: Trainer, *arguments: Any) -> None:
        if trainer.step == IMAGES // 4 + 1:
            raise KeyboardInterrupt
        take_step(trainer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_step", stop)
        with pytest.raises(KeyboardInterrupt):
            train(config("parts"), quiet=True)
    torch.manual_seed(99)
    train(config("parts"), resume=True, quiet=True)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_distillation_can_end_with_the_augmentation_as_in_the_paper(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    for schedule in ("cosine", "until_plain", "constant"):
        settings = {"teacher": str(finished / "best.safetensors"), "distill": {"schedule": schedule}}
        train(tiny(data, tmp_path / schedule, **settings), quiet=True)
    plain = {path.name: metrics(path)[1]["loss_distill"] for path in tmp_path.iterdir()}
    assert plain["until_plain"] == 0.0
    assert 0 < plain["cosine"] < plain["constant"]


def test_a_run_in_a_rectangle_is_evaluated_in_it_and_remembers_it(data: Path, tmp_path: Path) -> None:
    result = train(tiny(data, tmp_path / "run", image_size="64x96", augment={"mosaic": 1.0}), quiet=True)
    assert load(result.best).card.image_size == (64, 96)
    assert read_config(result.folder).image_size == "64x96"


def test_frozen_parts_stay_as_they_are_to_the_bit(data: Path, finished: Path, tmp_path: Path) -> None:
    begin = load(finished / "best.safetensors").state_dict()
    changes = {"model": str(finished / "best.safetensors"), "freeze": ["backbone", "norms"]}
    result = train(tiny(data, tmp_path / "run", **changes), quiet=True)
    end = load(result.last).state_dict()
    for key, value in begin.items():
        if key.startswith("backbone") or "running" in key:
            assert torch.equal(end[key], value), key
    assert not torch.equal(end["head.regress.0.weight"], begin["head.regress.0.weight"])
    assert not torch.equal(end["neck.fuse_p3.mix.conv.weight"], begin["neck.fuse_p3.mix.conv.weight"])


def test_a_run_gives_up_when_no_better_evaluation_comes(data: Path, tmp_path: Path) -> None:
    changes = {"epochs": 6, "patience": 2, "optim": {"lr": 1e-12}, "no_augment_epochs": 0}
    result = train(tiny(data, tmp_path / "run", **changes), quiet=True)
    assert [record["epoch"] for record in metrics(result.folder)] == [1, 2, 3]
    before = outcome(result.folder)
    train(tiny(data, tmp_path / "run", **changes), resume=True, quiet=True)
    assert outcome(result.folder) == before


def test_the_best_is_by_the_number_that_was_asked_for(data: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="best_by: 'ap/circel' is no number of an evaluation; did you mean 'ap/circle'"
    ):
        train(tiny(data, tmp_path / "run", best_by="ap/circel"), quiet=True)
    with pytest.raises(UserError, match="best_by: 'ap/person' is no number of an evaluation; there are ap, "):
        train(tiny(data, tmp_path / "run", best_by="ap/person"), quiet=True)
    result = train(tiny(data, tmp_path / "run", best_by="ap/circle"), quiet=True)
    assert torch.load(result.folder / "state.pt", weights_only=True)["best"][0] == max(
        record["ap/circle"] for record in metrics(result.folder)
    )


def test_a_time_limit_ends_the_run_and_its_schedule(data: Path, tmp_path: Path) -> None:
    config = tiny(data, tmp_path / "run", epochs=10_000, evaluate_every=10_000, max_minutes=0.05)
    records = metrics(train(config, quiet=True).folder)
    assert records[-1]["epoch"] < 2000
    assert "ap" in records[-1]
    assert records[-1]["lr"] == pytest.approx(0.002 * 0.05)
    assert max(record["lr"] for record in records) > 0.0015


def test_an_automatic_batch_size_fits_the_data_and_is_written_down(data: Path, tmp_path: Path) -> None:
    result = train(tiny(data, tmp_path / "run", batch_size="auto"), quiet=True)
    assert read_config(result.folder).batch_size == 8
    assert metrics(result.folder)[0]["step"] == 2


def test_what_was_automatic_stays_as_it_was_chosen(data: Path, tmp_path: Path) -> None:
    config = tiny(data, tmp_path / "run", batch_size="auto", precision="auto", image_size=None)
    train(config, quiet=True)
    settled = read_config(tmp_path / "run")
    assert (settled.image_size, settled.batch_size) == (64, 8)
    assert settled.precision in ("float32", "bfloat16")
    before = outcome(tmp_path / "run")
    train(config, resume=True, quiet=True)
    assert outcome(tmp_path / "run") == before


def test_the_best_must_be_something_that_can_be_measured(data: Path, tmp_path: Path) -> None:
    val = json.loads((data / "val.json").read_text())
    star = next(each["id"] for each in val["categories"] if each["name"] == "star")
    boxes = [each for each in val["annotations"] if each["category_id"] != star]
    starless = rewrite(data, tmp_path / "starless", "val", annotations=boxes)
    with pytest.raises(
        UserError, match=r"best_by: 'ap/star' cannot be measured; .*val\.json has no such box"
    ):
        train(tiny(starless, tmp_path / "run", best_by="ap/star"), quiet=True)


def test_a_run_with_everything_frozen_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="freeze: backbone neck head leaves nothing to train"):
        train(tiny(data, tmp_path / "run", freeze=["backbone", "neck", "head"]), quiet=True)


def test_maps_are_in_the_memory_that_was_asked_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    features = Detector.features

    def look(detector: Detector, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = features(detector, images)
        if detector.training:
            seen.append(all(each.is_contiguous(memory_format=torch.channels_last) for each in maps))
        return maps

    monkeypatch.setattr(Detector, "features", look)
    for channels_last in (True, False):
        seen.clear()
        train(tiny(data, tmp_path / str(channels_last), epochs=1, channels_last=channels_last), quiet=True)
        assert set(seen) == {channels_last}


def test_a_teacher_limits_the_gradient_as_in_the_reference_unless_told_otherwise(data: Path) -> None:
    for settings, norm in (
        ({}, None),
        ({"teacher": "x.pth"}, 30.0),
        ({"teacher": "x.pth", "optim": {"clip_norm": 5.0}}, 5.0),
    ):
        assert resolve("coco", {"data": data, **settings}).optim.clip_norm == norm
    with pytest.raises(UserError, match="distill: nobody teaches"):
        resolve("coco", {"data": data, "distill": {"weight": 2.0}})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at everything
def test_a_compiled_run_learns_as_any_other(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compile_module(module, backend="eager")
    )  # everything but the compiler's own minutes
    for compiled in (False, True):
        changes = {"compile": compiled, "accumulate": 2, "epochs": 1}
        train(tiny(data, tmp_path / str(compiled), **changes), quiet=True)
    plain, compiled_ = (metrics(tmp_path / name)[0]["loss_total"] for name in ("False", "True"))
    assert compiled_ == pytest.approx(plain, rel=1e-3)
    state = load(tmp_path / "True" / "last.safetensors").state_dict()
    assert state.keys() == load(tmp_path / "False" / "last.safetensors").state_dict().keys()
