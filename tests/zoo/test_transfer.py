from __future__ import annotations

from pathlib import Path

import pytest
import torch

from damoyolo.assemble import load, train
from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard
from damoyolo.zoo.transfer import with_classes
from reference_files import checkpoint
from tiny_runs import SMALL_SPEC, metrics, tiny, write_data

CLASSES = "head.classify."


def detector(*class_names: str, seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return build_detector(ModelCard(spec=SMALL_SPEC, class_names=class_names, image_size=(64, 64)))


def card(*class_names: str) -> ModelCard:
    return ModelCard(spec=SMALL_SPEC, class_names=class_names, image_size=(96, 64), resize="letterbox")


@pytest.fixture
def trained() -> Detector:
    """A detector for cat, dog and cow whose every number, statistics included, is its own."""
    model = detector("cat", "dog", "cow")
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.randn(value.shape) * 10)
    return model


def test_classes_of_the_same_name_keep_their_rows_wherever_they_are(trained: Detector) -> None:
    moved = with_classes(trained, card("dog", "fox", "cat", "elk"))
    torch.manual_seed(0)
    for key, value in trained.state_dict().items():
        if key.startswith(CLASSES):
            new = moved.state_dict()[key]
            assert torch.equal(new[0], value[1])
            assert torch.equal(new[2], value[0])


def test_rows_of_new_classes_are_as_fresh_as_those_of_a_new_detector(trained: Detector) -> None:
    torch.manual_seed(5)
    moved = with_classes(trained, card("dog", "fox", "cat", "elk")).state_dict()
    fresh = detector("dog", "fox", "cat", "elk", seed=5).state_dict()
    keys = [key for key in moved if key.startswith(CLASSES)]
    assert len(keys) == 6
    for key in keys:
        assert torch.equal(moved[key][[1, 3]], fresh[key][[1, 3]])


@pytest.mark.parametrize("names", [("dog", "fox"), ("ant", "bee", "fly", "gnu"), ("cat", "dog", "cow")])
def test_everything_but_the_class_rows_is_copied(names: tuple[str, ...], trained: Detector) -> None:
    moved = with_classes(trained, card(*names)).state_dict()
    old = trained.state_dict()
    assert moved.keys() == old.keys()
    for key in old:
        if not key.startswith(CLASSES) or names == trained.card.class_names:
            assert torch.equal(moved[key], old[key]), key


def test_the_trained_detector_is_untouched_and_the_new_one_has_the_new_card(trained: Detector) -> None:
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    moved = with_classes(trained, card("dog", "fox"))
    with torch.no_grad():
        for parameter in moved.parameters():
            assert parameter.requires_grad
            parameter.add_(1.0)
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    assert moved.card == card("dog", "fox")


def test_training_starts_from_our_weights_and_from_a_checkpoint_of_the_reference(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    weights = checkpoint(tmp_path / "ns.pth", "Ns")
    first = train(tiny(data, tmp_path / "first", model=str(weights), epochs=1), quiet=True)
    second = train(tiny(data, tmp_path / "second", model=str(first.last), epochs=1), quiet=True)
    for result, begun_from in ((first, weights), (second, first.last)):
        card = load(result.last).card
        assert card.spec.name == "Ns"
        assert card.class_names == ("circle", "square", "triangle", "star")
        assert card.image_size == (64, 64)
        assert card.lineage["from"] == load(begun_from).card.lineage
        assert metrics(result.folder)[0]["loss_total"] > 0
