"""Batch normalisation over the images of all processes, on any device."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from damoyolo.training.distributed import World


class SyncBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics while training are those of the batches of all processes together.

    Outputs, gradients and running statistics are those of one process with the whole batch; processes may
    hold different numbers of images, even none. In eval mode, and in a world of one, it is an
    `nn.BatchNorm2d`. Torch's own SyncBatchNorm refuses tensors on the CPU.
    """

    def __init__(self, num_features: int, world: World, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.world = world

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise, in the type of `x`, with statistics in float32 or better."""
        if self.world.size == 1 or not self.training:
            return super().forward(x)
        mean, var, total = _statistics(x.detach(), self.world)
        self._remember(mean, var * (total / (total - 1).clamp(min=1)))
        mean, var = mean.to(_precise(x)), var.to(_precise(x))
        out: Tensor = _Normalise.apply(x, self.weight, self.bias, mean, var, total, self.eps, self.world)
        return out

    @torch.no_grad()
    def _remember(self, mean: Float64[Tensor, " c"], unbiased_var: Float64[Tensor, " c"]) -> None:
        """Move the running statistics towards those of the batch."""
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_(unbiased_var.to(self.running_var), momentum)


def synchronise_norms(module: nn.Module, world: World) -> nn.Module:
    """The module with a `SyncBatchNorm2d` in the place of every `nn.BatchNorm2d`, in place below the top.

    Parameters and buffers are the same objects under the same names. A world of one changes nothing.
    """
    if world.size == 1:
        return module
    if type(module) is nn.BatchNorm2d:
        return _synchronised(module, world)
    for name, child in module.named_children():
        setattr(module, name, synchronise_norms(child, world))
    return module


def _synchronised(norm: nn.BatchNorm2d, world: World) -> SyncBatchNorm2d:
    names = ("eps", "momentum", "affine", "track_running_stats")
    new = SyncBatchNorm2d(norm.num_features, world, **{name: getattr(norm, name) for name in names})
    for name, value in (*norm.named_parameters(), *norm.named_buffers()):
        setattr(new, name, value)
    return new.train(norm.training)


def _statistics(
    x: Float[Tensor, "b c h w"], world: World
) -> tuple[Float64[Tensor, " c"], Float64[Tensor, " c"], Float64[Tensor, ""]]:
    """Mean and biased variance per channel, and number of values per channel, over all processes.

    Chan, Golub and LeVeque's parallel formula: no difference of large squares.
    """
    channels = x.shape[1]
    own = x.new_zeros(2 * channels + 1, dtype=torch.float64)
    if len(x):
        zeros = x.new_zeros(channels, dtype=_precise(x))  # stay as they are; the results get their type
        means, variances = torch.batch_norm_update_stats(x, zeros, zeros, 0.0)
        own = torch.cat([means, variances, means.new_tensor([x.numel() // channels])]).double()
    means, variances, counts = world.stack(own).split([channels, channels, 1], dim=1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return mean, var, total


def _precise(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


class _Normalise(torch.autograd.Function):
    """`(x - mean) / sqrt(var + eps) * weight + bias`, with a gradient through all processes' statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        total: Tensor,
        eps: float,
        world: World,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, total)
        ctx.eps, ctx.world = eps, world
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, total = ctx.saved_tensors
        direct, by_weight, by_bias = torch.empty_like(x), torch.zeros_like(mean), torch.zeros_like(mean)
        if len(x):  # torch's kernel cannot take none; it treats mean and var as constants
            direct, by_weight, by_bias = torch.ops.aten.native_batch_norm_backward(
                grads[0], x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
            )
        scale = (var + ctx.eps).rsqrt()
        over_all = ctx.world.sum(torch.stack([by_weight, by_bias])) / total.to(mean)
        slope = -over_all[0] * scale**2 * (1 if weight is None else weight)
        offset = -over_all[1] * scale * (1 if weight is None else weight) - slope * mean
        shape = (1, -1, 1, 1)
        grad = direct.addcmul_(x, slope.view(shape)).add_(offset.view(shape))
        own = (None, None) if weight is None else (by_weight, by_bias)
        return grad, *own, None, None, None, None, None
