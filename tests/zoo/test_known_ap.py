"""What weights say about themselves."""

from __future__ import annotations

from typing import Any

import pytest

from damoyolo.spec import ModelCard
from damoyolo.zoo import coco_class_names, read_spec
from damoyolo.zoo.known_ap import KnownAp, known_ap


def card(lineage: dict[str, Any], class_names: tuple[str, ...] = ("cat",)) -> ModelCard:
    return ModelCard(spec=read_spec("Ns"), class_names=class_names, image_size=(64, 64), lineage=lineage)


def test_a_training_records_it() -> None:
    lineage = {"source": "trained", "data": "pets", "validation": {"epoch": 3, "ap": 0.25, "ap50": 0.5}}
    assert known_ap(card(lineage)) == KnownAp(0.25, 0.5, "the validation images of pets")


def test_of_the_reference_it_is_what_its_authors_published_for_its_classes() -> None:
    converted = {"source": "converted", "file": "ns.pth"}
    known = known_ap(card(converted, coco_class_names()))
    assert known is not None
    assert known.ap == pytest.approx(0.323)
    assert known_ap(card(converted)) is None


@pytest.mark.parametrize("ap", [-1.0, 1.5, float("nan"), True, None, "much", [0.5]])
def test_what_is_no_share_is_not_known(ap: Any) -> None:
    assert known_ap(card({"validation": {"ap": ap, "ap50": ap}})) is None
    known = known_ap(card({"validation": {"ap": 0.5, "ap50": ap}}))
    assert known == KnownAp(0.5, None, "the validation images of its data")


@pytest.mark.parametrize("validation", [None, 0.5, [0.5], {}])
def test_nothing_recorded_is_nothing_known(validation: Any) -> None:
    assert known_ap(card({"validation": validation})) is None
