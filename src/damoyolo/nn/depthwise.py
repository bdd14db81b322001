"""Depthwise convolution whose gradients are fast on CPUs.

oneDNN, the CPU backend of PyTorch, has no fast path for two gradients of a depthwise convolution, least of
all in bfloat16, where they made a nano model's training slower than in float32:

- The weight gradient is computed channel by channel. That of a *grouped* convolution over blocks of 16
  channels goes through the fast kernels; 15 of 16 products are thrown away, and it is still faster.
- The input gradient of a strided convolution scatters. Spreading the incoming gradient out with zeros first
  makes it a plain depthwise convolution with the kernel turned around.

The numbers are the same up to rounding. `benchmarks/depthwise.py` measures both together: forward and
backward are 1.2 to 1.4 times faster in float32 and 7 to 19 times in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

_BLOCKS = (16, 8)
"""Channels per group, by preference."""


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one group per channel and no bias; on a CPU its gradients are computed faster."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride, padding=kernel // 2, groups=channels, bias=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        """Filter each channel by its own kernel."""
        block = next((size for size in _BLOCKS if self.groups % size == 0), None)
        trains = torch.is_grad_enabled() and self.weight.requires_grad and not torch.compiler.is_compiling()
        if block is None or not trains or x.device.type != "cpu":
            return super().forward(x)
        out: Tensor = _Blockwise.apply(x, self.weight.to(x.dtype), self.stride[0], self.padding[0], block)
        return out


class _Blockwise(torch.autograd.Function):
    """A depthwise convolution with the gradients described above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, block: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding, ctx.block = stride, padding, block
        return nn.functional.conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        (out,) = gradients
        x, weight = ctx.saved_tensors
        for_x = for_weight = None
        if ctx.needs_input_grad[0]:
            for_x = nn.functional.conv2d(
                _spread(out, x, ctx.stride), weight.flip(2, 3), padding=ctx.padding, groups=len(weight)
            )
        if ctx.needs_input_grad[1]:
            for_weight = _own_products(x, out, weight, ctx.stride, ctx.padding, ctx.block)
        return for_x, for_weight, None, None, None


def _spread(
    out: Float[Tensor, "b c h2 w2"], x: Float[Tensor, "b c h w"], stride: int
) -> Float[Tensor, "b c h w"]:
    """The gradient at the positions its kernels were centred on, zeros between them."""
    if stride == 1:
        return out
    spread = torch.zeros_like(x, dtype=out.dtype)
    spread[..., ::stride, ::stride] = out
    return spread


def _own_products(
    x: Float[Tensor, "b c h w"],
    out: Float[Tensor, "b c h2 w2"],
    weight: Float[Tensor, "c 1 k k"],
    stride: int,
    padding: int,
    block: int,
) -> Float[Tensor, "c 1 k k"]:
    """The weight gradient: of all products within a block, those of a channel with itself."""
    channels = len(weight)
    wide = weight.new_empty(channels, block, *weight.shape[2:])
    _, products, _ = torch.ops.aten.convolution_backward(
        out,
        x,
        wide,
        bias_sizes=None,
        stride=[stride] * 2,
        padding=[padding] * 2,
        dilation=[1, 1],
        transposed=False,
        output_padding=[0, 0],
        groups=channels // block,
        output_mask=(False, True, False),
    )
    own = products.unflatten(0, (-1, block)).diagonal(dim1=1, dim2=2)  # (groups, k, k, block)
    gradient = torch.empty_like(weight)  # in the weight's own memory format, as DDP wants it
    gradient.squeeze(1).unflatten(0, (-1, block)).copy_(own.permute(0, 3, 1, 2))
    return gradient
