from __future__ import annotations

import inspect

import pytest
import torch

from damoyolo.assemble import choose_device, load, prepare
from damoyolo.errors import UserError
from damoyolo.nn.blocks import RepConv
from damoyolo.nn.detector import Detector, build_detector
from damoyolo.spec import ModelCard
from damoyolo.zoo import read_spec


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A T, which has RepConv, with two classes."""
    torch.manual_seed(0)
    card = ModelCard(spec=read_spec("T"), class_names=("dust", "cell"), image_size=(64, 64))
    return build_detector(card).eval()


def is_fused(detector: Detector) -> bool:
    return all(hasattr(module, "fused") for module in detector.modules() if isinstance(module, RepConv))


def test_a_prepared_model_is_a_fused_copy_that_computes_the_same(detector: Detector) -> None:
    prepared = prepare(detector, device="cpu")
    assert is_fused(prepared)
    assert not is_fused(detector)
    assert not prepared.training
    images = torch.rand(1, 3, 64, 64) * 255
    with torch.inference_mode():
        torch.testing.assert_close(
            prepared(images).class_logits, detector(images).class_logits, rtol=1e-3, atol=1e-3
        )


def test_an_image_size_is_put_on_the_copys_card(detector: Detector) -> None:
    assert prepare(detector, device="cpu", image_size=128).card.image_size == (128, 128)
    assert detector.card.image_size == (64, 64)


@pytest.mark.parametrize(
    ("side", "advice"),
    [(100, "take 96"), (0, "must be at least 64"), (-64, "is no image size"), ("96x100", "take 96")],
)
def test_an_image_size_off_the_grid_is_refused(detector: Detector, side: int | str, advice: str) -> None:
    with pytest.raises(UserError, match=f"^image_size: .*{advice}"):
        prepare(detector, device="cpu", image_size=side)


def test_a_device_is_chosen_or_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("gpu", "meta", ""):
        with pytest.raises(UserError, match=f"device: '{name}' cannot be used"):
            choose_device(name)


def test_a_refusal_is_short_and_offers_what_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("gpu", "xla"):
        with pytest.raises(UserError, match=r"; take auto, or what is here: cpu$") as caught:
            choose_device(name)
        assert len(str(caught.value)) < 200
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"what is here: cuda, cpu$"):
        choose_device("meta")


def test_a_name_that_is_neither_size_nor_file_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"'Nss' is neither a model size nor a weights file; did you mean 'Ns'\?"
    ):
        load("Nss")
    with pytest.raises(UserError, match=r"runs/absent\.safetensors: cannot be read"):
        load("runs/absent.safetensors")


def test_a_path_in_place_of_a_model_is_refused() -> None:
    with pytest.raises(UserError, match=r"a str is no detector; get one from damoyolo\.load"):
        inspect.unwrap(prepare)("best.safetensors")  # as users call it, without the tests' checks of types
