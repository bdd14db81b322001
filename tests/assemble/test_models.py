"""What a run begins with: random weights, trained ones, and a teacher beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from damoyolo.assemble import build
from damoyolo.assemble.models import first_detector, load_teacher
from damoyolo.config import TrainConfig
from damoyolo.errors import UserError
from damoyolo.nn.detector import fuse
from damoyolo.zoo.weights import save_weights
from reference_files import checkpoint
from tiny_runs import SMALL_SPEC

PETS = ("cat", "dog")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    (folder / "tiny.yaml").write_text(SMALL_SPEC.to_yaml())
    save_weights(build(folder / "tiny.yaml", class_names=PETS), folder / "pets.safetensors")
    return folder / "pets.safetensors"


def config(**changes: object) -> TrainConfig:
    return TrainConfig.model_validate({"data": "pets", "image_size": 64, **changes})


def test_a_run_says_which_classes_keep_their_weights(weights: Path) -> None:
    _, origin = first_detector(config(model=str(weights)), ("dog", "fox", "elk"))
    assert origin == f"tiny from {weights}; classes kept: 'dog'; begun anew: 'fox', 'elk'"
    _, origin = first_detector(config(model=str(weights)), tuple(f"breed {i}" for i in range(8)))
    assert origin.endswith(
        "classes kept: none; begun anew: "
        "'breed 0', 'breed 1', 'breed 2', 'breed 3', 'breed 4', 'breed 5' and 2 more"
    )
    _, origin = first_detector(config(model="Ns"), PETS)
    assert origin == "Ns with random weights"


def test_a_rectangle_and_the_teacher_are_on_the_card(weights: Path) -> None:
    detector, _ = first_detector(config(image_size="64x128", teacher=str(weights)), PETS)
    assert detector.card.image_size == (64, 128)
    assert detector.card.lineage["teacher"] == "pets.safetensors"


def test_a_teacher_may_be_of_ours_fused_or_not_or_of_the_reference(weights: Path, tmp_path: Path) -> None:
    student, _ = first_detector(config(), PETS)
    assert load_teacher(config(), student.card) is None
    for path in (weights, tmp_path / "fused.safetensors"):
        if not path.exists():
            save_weights(fuse(build(weights.with_name("tiny.yaml"), class_names=PETS)), path)
        teacher, line = load_teacher(config(teacher=str(path)), student.card) or (None, "")
        assert teacher is not None
        assert teacher.card.spec.name == "tiny"
        assert line == f"learns from tiny, {path}"
    reference = checkpoint(tmp_path / "t.pth", "T")
    coco, _ = first_detector(config(), build("T").card.class_names)
    teacher, line = load_teacher(config(teacher=str(reference)), coco.card) or (None, "")
    assert teacher is not None
    assert line.endswith("t.pth; it was trained at 640 x 640 pixels and is shown 64 x 64")


def test_a_teacher_of_other_classes_or_another_resize_is_refused(weights: Path) -> None:
    student, _ = first_detector(config(), ("dog", "fox"))
    with pytest.raises(
        UserError, match=r"teacher: .*pets.* knows the classes 'cat', 'dog' but the data has 'dog', 'fox'"
    ):
        load_teacher(config(teacher=str(weights)), student.card)
    student, _ = first_detector(config(resize="letterbox"), PETS)
    with pytest.raises(UserError, match="was trained with resize 'stretch' and this run has 'letterbox'"):
        load_teacher(config(teacher=str(weights)), student.card)
    with pytest.raises(
        UserError, match=r"teacher: needs a file of trained weights, but nothing\.safetensors"
    ):
        load_teacher(config(teacher="nothing.safetensors"), student.card)
