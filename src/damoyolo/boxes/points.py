"""The grid of points that predictions belong to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Pyramid:
    """Sizes (rows, columns) and strides (pixels) of the feature maps; their cells, in order, are the points.

    The point of cell (row r, column c) of a level with stride s is (c s, r s) in input pixels, the cell's
    top-left corner, as in the published models. Levels follow each other, each row by row.
    """

    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]

    @classmethod
    def of_image(cls, height: int, width: int, strides: tuple[int, ...] = (8, 16, 32)) -> Pyramid:
        """The pyramid over an image whose sides are multiples of the largest stride."""
        return cls(tuple((height // stride, width // stride) for stride in strides), strides)

    @property
    def counts(self) -> tuple[int, ...]:
        """Points of each level."""
        return tuple(rows * columns for rows, columns in self.sizes)

    def points(self, device: torch.device | str = "cpu") -> Float[Tensor, "p 2"]:
        """(x, y) of every point in input pixels."""
        levels = []
        for (rows, columns), stride in zip(self.sizes, self.strides, strict=True):
            y = torch.arange(rows, device=device, dtype=torch.float32) * stride
            x = torch.arange(columns, device=device, dtype=torch.float32) * stride
            levels.append(
                torch.stack([x.expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1).view(-1, 2)
            )
        return torch.cat(levels)

    def point_strides(self, device: torch.device | str = "cpu") -> Float[Tensor, " p"]:
        """The stride of every point's level, in pixels."""
        return torch.cat(
            [
                torch.full((count,), float(stride), device=device)
                for count, stride in zip(self.counts, self.strides, strict=True)
            ]
        )
