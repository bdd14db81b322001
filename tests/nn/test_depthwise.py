"""The fast weight gradient is the ordinary one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from damoyolo.nn.depthwise import DepthwiseConv2d


@pytest.mark.parametrize("channels", [8, 24, 48, 12], ids=lambda c: f"{c}ch")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_output_and_gradients_equal_the_plain_convolution_s(channels, stride, kernel):
    torch.manual_seed(0)
    ours = DepthwiseConv2d(channels, kernel, stride).double()
    plain = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False).double()
    plain.load_state_dict(copy.deepcopy(ours.state_dict()))
    images = torch.randn(2, channels, 12, 16, dtype=torch.float64).to(memory_format=torch.channels_last)
    upstream = None
    found = []
    for conv in (ours, plain):
        x = images.clone().requires_grad_()
        y = conv(x)
        upstream = torch.randn_like(y) if upstream is None else upstream
        y.backward(upstream)
        found.append((y, x.grad, conv.weight.grad))
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)
