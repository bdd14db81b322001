from __future__ import annotations

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference_files
from damoyolo.errors import UserError
from damoyolo.spec import ModelCard, ModelSpec
from damoyolo.zoo import SIZES, coco_class_names, read_spec
from damoyolo.zoo.layout import hollow_detector
from damoyolo.zoo.reference import convert_reference, reference_keys

LAYOUTS = ("train", "deploy")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_names_are_a_bijection_onto_the_references_with_equal_shapes(size: str, layout: str) -> None:
    spec = read_spec(size)
    card = ModelCard(spec=spec, class_names=coco_class_names(), image_size=(64, 64))
    detector = hollow_detector(card, fused=layout == "deploy")
    names, state = reference_keys(detector), detector.state_dict()

    theirs = reference_files.shapes(size, layout)
    assert theirs.pop("head.integral.project") == (spec.head.bins,)
    assert len(set(names.values())) == len(names) == len(state)
    assert {names[key]: tuple(tensor.shape) for key, tensor in state.items()} == theirs


def test_layers_without_repconv_and_with_a_projected_shortcut_have_the_references_names() -> None:
    spec = read_spec("T").model_dump(mode="json")
    spec["structure"]["rep"] = False
    spec["structure"]["blocks"][3]["out"] = 200
    card = ModelCard(spec=ModelSpec.model_validate(spec), class_names=("any",), image_size=(64, 64))
    names = set(reference_keys(hollow_detector(card, fused=False)).values())
    assert "backbone.block_list.4.block_list.0.residual_proj.conv1.weight" in names
    assert "backbone.block_list.4.block_list.0.residual_proj.bn1.running_mean" in names
    assert "backbone.block_list.4.block_list.1.conv2.conv1.weight" in names
    assert not any("rbr" in name for name in names if name.startswith("backbone"))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
def test_size_and_layout_are_inferred_from_shapes(size: str, layout: str) -> None:
    conversion = convert_reference(reference_files.state(size, layout))
    assert conversion.spec == read_spec(size)
    assert conversion.num_classes == 80
    assert conversion.fused == (layout == "deploy" and size in ("T", "S", "M", "L"))


def test_every_number_arrives_under_its_own_name() -> None:
    theirs = reference_files.state("M")
    conversion = convert_reference(theirs)
    card = ModelCard(spec=conversion.spec, class_names=coco_class_names(), image_size=(64, 64))
    names = reference_keys(hollow_detector(card, fused=False))
    assert len(conversion.state) == len(theirs) - 1
    assert all(torch.equal(tensor, theirs[names[key]]) for key, tensor in conversion.state.items())


def test_a_leading_module_is_dropped() -> None:
    state = {f"module.{key}": tensor for key, tensor in reference_files.state("Ns").items()}
    assert convert_reference(state).spec.name == "Ns"


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 2000).filter(lambda channels: channels != 81))
def test_any_number_of_classes_is_read(channels: int) -> None:
    conversion = convert_reference(reference_files.state("Ns", channels=channels))
    assert conversion.num_classes == channels
    assert conversion.state["head.classify.2.bias"].shape == (channels,)


def _with_marked_background(channels: int) -> dict[str, torch.Tensor]:
    state = reference_files.state("Ns", channels=channels)
    for level in range(3):
        bias = torch.zeros(channels)
        bias[-1] = 99.0
        state[f"head.gfl_cls.{level}.bias"] = bias
    return state


@pytest.mark.parametrize(("channels", "legacy"), [(81, None), (81, True), (4, True)])
def test_a_background_channel_is_cut_off_at_the_end(channels: int, legacy: bool | None) -> None:
    conversion = convert_reference(_with_marked_background(channels), legacy_background=legacy)
    assert conversion.num_classes == channels - 1
    for level in range(3):
        assert len(conversion.state[f"head.classify.{level}.weight"]) == channels - 1
        assert conversion.state[f"head.classify.{level}.bias"].tolist() == [0.0] * (channels - 1)


def test_eighty_one_true_classes_are_kept_on_request() -> None:
    conversion = convert_reference(_with_marked_background(81), legacy_background=False)
    assert conversion.num_classes == 81
    assert conversion.state["head.classify.0.bias"][-1] == 99.0


def test_a_single_channel_cannot_be_background() -> None:
    with pytest.raises(UserError, match=r"^x\.pth: has one class channel"):
        convert_reference(reference_files.state("Ns", channels=1), legacy_background=True, where="x.pth")


def test_missing_keys_are_counted_and_the_first_ten_listed() -> None:
    state = reference_files.state("Ns")
    dropped = [key for key in islice(state, 100, 150) if key.endswith("weight")][:12]
    for key in dropped:
        del state[key]
    with pytest.raises(UserError, match=r"^x\.pth: does not fit Ns.*: 12 missing \(") as error:
        convert_reference(state, where="x.pth")
    assert [key in str(error.value) for key in dropped] == [True] * 10 + [False] * 2


def test_unexpected_and_misshapen_keys_are_listed_with_both_shapes() -> None:
    state = reference_files.state("T")
    state["head.extra.weight"] = torch.zeros(3)
    state["neck.merge_5.conv3.bn.bias"] = torch.zeros(7)
    with pytest.raises(UserError) as error:
        convert_reference(state)
    message = str(error.value)
    assert "1 unexpected (head.extra.weight)" in message
    assert "1 misshapen (neck.merge_5.conv3.bn.bias [7] instead of [64])" in message
    assert "missing" not in message


@pytest.mark.parametrize("key", ["head.gfl_cls.0.weight", "head.integral.project", "head.scales.1.scale"])
def test_a_missing_part_of_the_head_is_no_exception(key: str) -> None:
    state = reference_files.state("Ns")
    del state[key]
    with pytest.raises(UserError, match=f"missing \\({key}"):
        convert_reference(state)


def test_heads_of_unequal_class_counts_are_misshapen() -> None:
    state = reference_files.state("Ns")
    state["head.gfl_cls.1.bias"] = torch.zeros(79)
    with pytest.raises(UserError, match=r"1 misshapen \(head\.gfl_cls\.1\.bias \[79\] instead of \[80\]\)"):
        convert_reference(state)


def test_half_a_module_prefix_is_an_error() -> None:
    state = reference_files.state("Ns")
    state["module.head.gfl_cls.0.bias"] = state.pop("head.gfl_cls.0.bias")
    with pytest.raises(UserError, match=r"1 unexpected \(module\.head"):
        convert_reference(state)


def test_half_fused_weights_are_an_error() -> None:
    state, fused = reference_files.state("T"), reference_files.state("T", "deploy")
    prefix = "backbone.block_list.1.block_list.0.conv2."
    mixed = {key: tensor for key, tensor in state.items() if not key.startswith(prefix)}
    mixed |= {key: tensor for key, tensor in fused.items() if key.startswith(prefix)}
    with pytest.raises(UserError, match=r"missing \(.*unexpected \("):
        convert_reference(mixed)


def test_other_bin_values_would_move_every_box_and_are_an_error() -> None:
    state = reference_files.state("Ns")
    state["head.integral.project"] = state["head.integral.project"] * 2
    with pytest.raises(UserError, match=r"head\.integral\.project is not 0 \.\. 7"):
        convert_reference(state)


@pytest.mark.parametrize("state", [{}, {"conv.weight": torch.zeros(3, 3)}])
def test_weights_of_something_else_are_not_taken_for_a_damaged_size(state: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match="fit no size of DAMO-YOLO"):
        convert_reference(state)
