"""Distillation: every golden case with its gradients, what each comparison says, and what does not fit."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conftest import golden
from damoyolo.errors import UserError
from damoyolo.losses.distill import ChannelWise, Distillation, MaskedGeneration, Mimic

GOLDEN = dict(np.load(golden("golden-distill.npz")))
CASES = sorted({key.split("/")[0] for key in GOLDEN})


def read_case(case: str, name: str) -> list[Tensor]:
    levels = int(GOLDEN[f"{case}/levels"])
    return [torch.from_numpy(GOLDEN[f"{case}/{name}{level}"]) for level in range(levels)]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_equal_every_golden_case(case: str) -> None:
    students = [each.requires_grad_() for each in read_case(case, "student")]
    teachers = read_case(case, "teacher")
    temperature = float(GOLDEN[f"{case}/tau"])
    distillation = Distillation(
        [each.shape[1] for each in students],
        [each.shape[1] for each in teachers],
        lambda _: ChannelWise(temperature),
    )
    aligns = [level.align for level in distillation.levels]
    for align, weight, bias in zip(aligns, read_case(case, "w"), read_case(case, "b"), strict=True):
        align.load_state_dict({"weight": weight, "bias": bias})
    loss = distillation(students, teachers)
    loss.backward()
    assert loss.item() == pytest.approx(float(GOLDEN[f"{case}/loss"]), rel=1e-5)
    for student, gradient in zip(students, read_case(case, "grad_student"), strict=True):
        torch.testing.assert_close(student.grad, gradient, rtol=1e-3, atol=1e-7)
    for align, gradient in zip(aligns, read_case(case, "grad_w"), strict=True):
        torch.testing.assert_close(align.weight.grad, gradient, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("case", [case for case in CASES if f"{case}/raw_cwd" in GOLDEN])
def test_the_bare_divergence_equals_every_golden_case(case: str) -> None:
    compare = ChannelWise(float(GOLDEN[f"{case}/tau"]))
    pairs = zip(read_case(case, "student"), read_case(case, "teacher"), strict=True)
    total = sum(compare(student, teacher).item() for student, teacher in pairs)
    assert total == pytest.approx(float(GOLDEN[f"{case}/raw_cwd"]), rel=1e-5)


@given(shift=st.floats(-5, 5), seed=st.integers(0, 99))
def test_channel_wise_sees_where_a_channel_looks_and_not_how_bright_it_is(shift: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher = torch.randn(2, 3, 4, 5, generator=generator)
    student = torch.randn(2, 3, 4, 5, generator=generator)
    compare = ChannelWise(2.0)
    assert compare(teacher + shift, teacher).item() == pytest.approx(0, abs=1e-4)
    loss = compare(student, teacher).item()
    assert loss > 0.01
    assert compare(student + shift, teacher).item() == pytest.approx(loss, rel=1e-3)


def test_mimic_is_the_mean_squared_difference() -> None:
    assert Mimic()(torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0)).item() == 4.0


def test_masked_generation_erases_the_stated_share_of_positions_in_all_channels() -> None:
    torch.manual_seed(0)
    compare = MaskedGeneration(4, erased=0.65, scale=1.0)
    seen: list[Tensor] = []
    compare.generate.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    compare(torch.ones(8, 4, 40, 40), torch.zeros(8, 4, 40, 40))
    (masked,) = seen
    assert masked.mean().item() == pytest.approx(0.35, abs=0.01)
    assert torch.equal(masked.amin(dim=1), masked.amax(dim=1))


def test_masked_generation_is_the_scaled_sum_per_image_and_trains_its_convolutions() -> None:
    compare = MaskedGeneration(4, erased=1.0, scale=2e-5)
    for parameter in compare.parameters():
        torch.nn.init.zeros_(parameter)
    loss = compare(torch.ones(2, 4, 3, 3), torch.ones(2, 4, 3, 3))
    assert loss.item() == pytest.approx(2e-5 * 4 * 9)
    loss.backward()
    assert compare.generate[2].bias.grad is not None
    assert compare.generate[2].bias.grad.abs().sum() > 0


@pytest.mark.parametrize("compare", [lambda _: ChannelWise(), lambda _: Mimic(), MaskedGeneration])
def test_channels_may_differ_and_a_student_that_copies_the_teacher_learns_to(compare) -> None:
    torch.manual_seed(0)
    distillation = Distillation((4, 4, 4), (6, 8, 10), compare)
    student = [torch.randn(4, 4, side, side) for side in (16, 8, 4)]
    teacher = [torch.randn(4, wide, side, side) for wide, side in ((6, 16), (8, 8), (10, 4))]
    optimizer = torch.optim.Adam(distillation.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        losses.append(distillation(student, teacher))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.97 * losses[0].item()


def test_bfloat16_maps_are_compared_in_float32() -> None:
    torch.manual_seed(0)
    distillation = Distillation((4,), (4,), lambda _: ChannelWise())
    student, teacher = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    exact = distillation([student], [teacher])
    with torch.autocast("cpu", torch.bfloat16):
        rough = distillation([student.bfloat16()], [teacher.bfloat16()])
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.02)


def test_by_image_an_odd_image_does_not_change_what_the_others_count_and_by_batch_it_does() -> None:
    torch.manual_seed(0)
    flat, teachers = torch.zeros(4, 3, 6, 6), torch.randn(4, 3, 6, 6)
    glaring = teachers.clone()
    glaring[0] *= 100.0

    def loss_of_the_rest(normalise: Literal["batch", "image"], maps: Tensor) -> Tensor:
        seen: list[Tensor] = []
        distillation = Distillation((3,), (3,), lambda _: ChannelWise(), normalise)
        distillation.levels[0].compare.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
        distillation([flat], [maps])
        return ChannelWise()(flat[1:], seen[0][1:])

    torch.testing.assert_close(loss_of_the_rest("image", glaring), loss_of_the_rest("image", teachers))
    assert loss_of_the_rest("batch", glaring) < 0.5 * loss_of_the_rest("batch", teachers)


def test_levels_that_do_not_fit_are_named() -> None:
    with pytest.raises(UserError, match="has 2 feature levels and the student 3"):
        Distillation((4, 4, 4), (4, 4), lambda _: Mimic())
    distillation = Distillation((4,), (4,), lambda _: Mimic())
    with pytest.raises(UserError, match="level 0 is 4 x 5 cells and the student's 8 x 8"):
        distillation([torch.rand(1, 4, 8, 8)], [torch.rand(1, 4, 4, 5)])
