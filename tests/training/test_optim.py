"""Schedule and averaging against the golden numbers; grouping of parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from conftest import golden
from damoyolo.plan import Plan
from damoyolo.training.ema import Ema
from damoyolo.training.optim import Schedule, build_optimizer, set_learning_rate


@pytest.mark.parametrize(("recipe", "peak"), [("T", 0.04), ("nano", 0.004)])
def test_schedule_equals_the_reference_s(recipe, peak):
    numbers = np.load(golden("golden-lr.npz"))
    epoch = int(numbers["iters_per_epoch"])
    plan = Plan(300 * epoch, epoch, warmup=5 * epoch, plain=16 * epoch)
    schedule = Schedule(peak, floor_ratio=0.05, plan=plan)
    found = [schedule(int(step)) for step in numbers["iters"]]
    np.testing.assert_allclose(found, numbers[f"{recipe}/lr"], rtol=1e-12, atol=1e-18)


def test_decay_of_the_average_equals_the_reference_s():
    numbers = np.load(golden("golden-lr.npz"))
    ema = Ema(nn.Linear(1, 1), decay=0.9998, warmup_steps=2000.0)
    found = [ema.decay_at(int(step)) for step in numbers["iters"]]
    np.testing.assert_allclose(found, numbers["ema_decay"], rtol=1e-12, atol=1e-18)


def test_schedule_without_warmup_or_flat_end_is_defined_everywhere():
    schedule = Schedule(1.0, floor_ratio=0.1, plan=Plan(10, 5))
    rates = [schedule(step) for step in range(10)]
    assert rates[0] == 1.0
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0.1
    assert Schedule(1.0, floor_ratio=0.1, plan=Plan(4, 2, plain=9))(0) == 0.1


def test_schedule_follows_a_plan_that_changes():
    plan = Plan(100, 10, warmup=10, plain=20)
    schedule = Schedule(1.0, floor_ratio=0.1, plan=plan)
    late = schedule(60)
    plan.steps = 70
    assert schedule(60) == 0.1 < late


def test_average_follows_parameters_and_running_statistics_but_not_counters():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    ema = Ema(model, decay=0.5, warmup_steps=1e-9)
    before = {key: value.clone() for key, value in ema.model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    model(torch.randn(2, 3, 5, 5))
    ema.update(step=0)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(ema.model.state_dict()[key], value)
    after_first = {key: value.clone() for key, value in ema.model.state_dict().items()}
    with torch.no_grad():
        model[0].weight.add_(2.0)
    ema.update(step=5)
    torch.testing.assert_close(ema.model[0].weight, (after_first["0.weight"] + model[0].weight) / 2)
    assert ema.model.state_dict()["1.num_batches_tracked"] == before["1.num_batches_tracked"]


def test_only_convolution_weights_and_scales_are_decayed():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ParameterList([nn.Parameter(torch.ones(()))])
    )
    decayed, plain = build_optimizer(model, "sgd", weight_decay=0.1, momentum=0.9).param_groups
    assert [p.ndim for p in decayed["params"]] == [4, 0]
    assert len(plain["params"]) == 3
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


def test_a_slow_part_has_its_share_of_the_rate_and_what_is_frozen_is_left_out():
    model = nn.ModuleDict(
        {"backbone": nn.Conv2d(3, 4, 1), "neck": nn.Conv2d(4, 4, 1), "head": nn.Linear(4, 2)}
    )
    model["head"].requires_grad_(False)
    optimizer = build_optimizer(model, "adamw", 0.1, 0.9, slow=model["backbone"], slow_lr=0.25)
    set_learning_rate(optimizer, 0.8)
    rates = {
        name: {
            group["lr"] for group in optimizer.param_groups for each in group["params"] if each is parameter
        }
        for name, parameter in model.named_parameters()
    }
    assert rates == {
        "backbone.weight": {0.2},
        "backbone.bias": {0.2},
        "neck.weight": {0.8},
        "neck.bias": {0.8},
        "head.weight": set(),
        "head.bias": set(),
    }
