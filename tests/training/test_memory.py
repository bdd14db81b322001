from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard
from damoyolo.training import memory
from damoyolo.training.freeze import freeze
from damoyolo.training.memory import FEWEST_STEPS, MOST_IMAGES, SMALL_BATCH, largest_batch, sensible_batch
from tiny_runs import SMALL_SPEC

CPU = torch.device("cpu")
GIB = 2**30


def new_detector(side: int = 64) -> Detector:
    torch.manual_seed(0)
    card = ModelCard(spec=SMALL_SPEC, class_names=("a", "b"), image_size=(side, side))
    return freeze(build_detector(card), ())


def fitting(
    monkeypatch: pytest.MonkeyPatch, free: float, detector: Detector, precision: torch.dtype = torch.float32
) -> int:
    monkeypatch.setattr(memory, "_free_bytes", lambda _: int(free))
    return largest_batch(detector, precision, CPU)


def test_the_batch_grows_with_the_memory_and_is_never_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = new_detector()
    sizes = [fitting(monkeypatch, free, detector) for free in (0, 1e6, 1e8, GIB, 4 * GIB)]
    assert sizes[:2] == [1, 1]
    assert sizes == sorted(sizes)
    assert sizes[4] == pytest.approx(4 * sizes[3], rel=0.02)


def test_an_image_takes_memory_in_proportion_to_its_area(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = (fitting(monkeypatch, 64 * GIB, new_detector(side)) for side in (64, 128))
    assert small / large == pytest.approx(4, rel=0.03)


def test_half_the_precision_takes_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = new_detector()
    full, half = (fitting(monkeypatch, GIB, detector, each) for each in (torch.float32, torch.bfloat16))
    assert 1.2 * full < half < 2.5 * full


def test_what_is_frozen_takes_less_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    all_, part = (fitting(monkeypatch, GIB, freeze(new_detector(), each)) for each in ((), ("backbone",)))
    assert part > 1.2 * all_


def test_measuring_leaves_the_detector_as_it_was() -> None:
    detector = new_detector()
    before = {key: value.clone() for key, value in detector.state_dict().items()}
    largest_batch(detector, torch.float32, CPU)
    assert all(torch.equal(value, before[key]) for key, value in detector.state_dict().items())
    assert all(parameter.grad is None for parameter in detector.parameters())
    assert all(module.training for module in detector.modules())


@given(fitting=st.integers(1, 10_000), images=st.integers(1, 10**6))
def test_a_sensible_batch_is_a_power_of_two_that_fits_memory_and_data(fitting: int, images: int) -> None:
    size = sensible_batch(fitting, images)
    assert size.bit_count() == 1
    assert size <= min(fitting, MOST_IMAGES)
    assert size <= SMALL_BATCH or size * FEWEST_STEPS <= images
    assert sensible_batch(fitting + 1, images) >= size
    assert sensible_batch(fitting, images + 1) >= size
    assert sensible_batch(fitting, images, processes=4) >= size
    assert 2 * size > min(fitting, MOST_IMAGES, max(SMALL_BATCH, images // FEWEST_STEPS))


@pytest.mark.parametrize(
    ("limit", "used", "free"), [("1000", "300", 700.0), ("max", "300", float("inf")), ("", "", float("inf"))]
)
def test_a_container_s_limit_counts(limit: str, used: str, free: float, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    assert memory._free_in_container(tmp_path) == free
    assert memory._free_in_container(tmp_path / "absent") == float("inf")


def test_there_is_free_memory_on_this_machine() -> None:
    assert 2**20 < memory._free_bytes(CPU) <= memory._free_on_machine() < 2**50
