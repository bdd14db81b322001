from copy import deepcopy

import pytest
import torch

from damoyolo.nn.blocks import RepConv


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_of_a_strided_repconv_with_few_channels_are_right(precision: torch.dtype) -> None:
    layer = RepConv(8, 40, stride=2)
    image = torch.randn(8, 8, 80, 80, generator=torch.Generator().manual_seed(0))
    exact = deepcopy(layer).double()
    exact(image.double()).square().mean().backward()
    layer.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", precision, enabled=precision != torch.float32):
        out = layer(image.to(memory_format=torch.channels_last))
    out.float().square().mean().backward()
    for ours, wanted in zip(layer.parameters(), exact.parameters(), strict=True):
        error = (ours.grad - wanted.grad).norm() / max(wanted.grad.norm(), 1e-2)
        assert error < (1e-4 if precision == torch.float32 else 0.05)
