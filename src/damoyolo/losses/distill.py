"""Learning from a larger detector's feature maps (paper section 3.5).

Student and teacher see the same images. At each level the student's map is brought to the teacher's channels
by a 1x1 convolution, both are normalised by the statistics of the batch, and then compared: channel by
channel (`ChannelWise`, the paper's choice), element by element (`Mimic`), or after a map of which most was
erased has been completed (`MaskedGeneration`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from damoyolo.errors import UserError


class ChannelWise(nn.Module):
    """Where each channel looks: Kullback-Leibler divergence over positions (CWD, arXiv 2011.13256).

    The teacher's distribution is the target; `temperature` softens both.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        """Mean over images and channels, times the squared temperature."""
        looks = (student / self.temperature).flatten(2).log_softmax(dim=2)
        should = (teacher / self.temperature).flatten(2).log_softmax(dim=2)
        divergence = F.kl_div(looks, should, reduction="sum", log_target=True)
        return self.temperature**2 * divergence / (student.shape[0] * student.shape[1])


class Mimic(nn.Module):
    """Mean squared difference (FitNets, arXiv 1412.6550)."""

    def forward(
        self, student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        """Mean over everything."""
        return F.mse_loss(student, teacher)


class MaskedGeneration(nn.Module):
    """The teacher's map completed from a student's with erased positions (MGD, arXiv 2205.01529).

    Args:
        channels: of both maps.
        erased: share of positions that are erased, drawn anew in each step.
        scale: factor on the summed squared difference; it is as large as the map.
        seed: of what is erased. How often that was drawn is part of the state, so that a resumed run goes on.
    """

    def __init__(self, channels: int, erased: float = 0.65, scale: float = 2e-5, seed: int = 0) -> None:
        super().__init__()
        self.erased, self.scale, self.seed = erased, scale, seed
        self.draws = 0
        self.generate = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(
        self, student: Float[Tensor, "b c h w"], teacher: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        """Sum over channels and positions, mean over images, scaled."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.draws)
        self.draws += 1
        kept = torch.rand(student[:, :1].shape, generator=generator) >= self.erased
        difference = F.mse_loss(self.generate(student * kept.to(student.device)), teacher, reduction="sum")
        return self.scale * difference / len(student)

    def get_extra_state(self) -> int:
        """How often a mask was drawn."""
        return self.draws

    def set_extra_state(self, state: int) -> None:
        """Go on after so many masks."""
        self.draws = state


class Level(nn.Module):
    """One level: align channels, normalise both maps, compare.

    `normalise` says by whose statistics: those of the `batch`, or of each `image` alone.
    """

    def __init__(
        self, student: int, teacher: int, compare: nn.Module, normalise: Literal["batch", "image"] = "batch"
    ) -> None:
        super().__init__()
        self.align = nn.Conv2d(student, teacher, 1)
        norm = {"batch": nn.BatchNorm2d, "image": nn.InstanceNorm2d}[normalise]
        self.normalise = norm(teacher, affine=False, track_running_stats=False)
        self.compare = compare

    def forward(
        self, student: Float[Tensor, "b s h w"], teacher: Float[Tensor, "b t h w"]
    ) -> Float[Tensor, ""]:
        """In float32, whatever the maps are in."""
        aligned = self.align(student)
        with torch.autocast(student.device.type, enabled=False):
            loss: Tensor = self.compare(self.normalise(aligned.float()), self.normalise(teacher.float()))
        return loss


class Distillation(nn.Module):
    """The sum of all levels; its weights belong to the training run, not to the student.

    Args:
        student: channels of the student's P3, P4, P5.
        teacher: channels of the teacher's.
        compare: makes the comparison for a level with so many channels.
        normalise: both maps by the statistics of the `batch` (paper) or of each `image`.
    """

    def __init__(
        self,
        student: Sequence[int],
        teacher: Sequence[int],
        compare: Callable[[int], nn.Module],
        normalise: Literal["batch", "image"] = "batch",
    ) -> None:
        super().__init__()
        if len(student) != len(teacher):
            raise UserError(
                f"teacher: has {len(teacher)} feature levels and the student {len(student)}; "
                "take one with the same strides"
            )
        self.levels = nn.ModuleList(
            Level(mine, other, compare(other), normalise)
            for mine, other in zip(student, teacher, strict=True)
        )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Float[Tensor, ""]:
        """Maps of both, finest first; `UserError` where a level's height and width differ."""
        for number, (mine, other) in enumerate(zip(student, teacher, strict=True)):
            if mine.shape[2:] != other.shape[2:]:
                mine_size, other_size = (" x ".join(map(str, each.shape[2:])) for each in (mine, other))
                raise UserError(
                    f"teacher: its feature level {number} is {other_size} cells and the student's "
                    f"{mine_size}; take a teacher with the same strides"
                )
        pairs = zip(self.levels, student, teacher, strict=True)
        return torch.stack([level(mine, other) for level, mine, other in pairs]).sum()
