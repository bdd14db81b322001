"""The neck as a part of what is searched: RepGFPN's widths and depth beside the backbone.

Beyond the paper, which searches the backbone alone. RepConv is not searched: it is fused before it is shipped
and costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from damoyolo.search.entropy import DeepMad, MadNas, path_entropy
from damoyolo.search.mutate import round8
from damoyolo.search.ops import Op, neck_path_ops
from damoyolo.search.space import Frame, Genome
from damoyolo.spec import NeckSpec

SCALES = (1.0, 0.5, 0.75, 1.25, 1.5)
DEPTHS = (1, 2, 3)


def necks_like(neck: NeckSpec) -> list[NeckSpec]:
    """This neck and others of its kind, with other widths and depths; itself first."""
    others = [
        neck.model_copy(update={"out": tuple(round8(scale * width) for width in neck.out), "depth": depth})
        for scale in SCALES
        for depth in sorted(DEPTHS, key=lambda depth: depth != neck.depth)
    ]
    return list(dict.fromkeys([neck, *others]))


def smallest_neck(neck: NeckSpec) -> NeckSpec:
    """Of those the one that costs least, whatever the backbone."""
    return min(necks_like(neck), key=lambda each: (each.depth, each.out))


class DetectorMadNas:
    """MAE-NAS's score with the maps that the head sees, P3 P4 P5, in the place of C3 C4 C5.

    The entropy of each is that of C5 and of all convolutions on the longest way from there, which leads down
    to P3 and up again.

    Args:
        frame: of the structures.
        neck: between them and the head.
        weights: of the stages C1 .. C5; the last three are those of P3 P4 P5.
    """

    def __init__(self, frame: Frame, neck: NeckSpec, weights: Sequence[float]) -> None:
        self.frame, self.neck, self.weights = frame, neck, tuple(weights[2:])
        self._backbone = MadNas(frame, (0.0, 0.0, 0.0, 0.0, 1.0))
        self._necks: dict[tuple[int, int, int], float] = {}

    def __call__(self, genome: Genome) -> float:
        """Weighted sum over the maps of entropy and logarithm of channels."""
        channels = self.frame.out_channels(genome)
        if channels not in self._necks:
            self._necks[channels] = self._neck(channels)
        of_c5 = self._backbone(genome) - math.log(channels[2])
        return sum(self.weights) * of_c5 + self._necks[channels]

    def _neck(self, channels: tuple[int, int, int]) -> float:
        total, so_far = 0.0, 0.0
        ways = neck_path_ops(channels, self.neck)
        for weight, way, out in zip(self.weights, ways, self.neck.out, strict=True):
            so_far += path_entropy(map(_fan_in, way))
            total += weight * (so_far + math.log(out))
        return total


class DetectorDeepMad:
    """DeepMAD's score with the maps that the head sees, P3 P4 P5, in the place of C3 C4 C5.

    The penalty is the backbone's, for the depths of its blocks; that of the neck does not enter.

    Args:
        frame: of the structures.
        neck: between them and the head.
        resolution: side in pixels of what the stem's convolution sees.
        image_size: side in pixels of the image.
    """

    def __init__(self, frame: Frame, neck: NeckSpec, resolution: int, image_size: int) -> None:
        self.frame, self.neck = frame, neck
        weights = DeepMad.WEIGHTS
        self._backbone = DeepMad(frame, resolution, (*weights[:2], 0.0, 0.0, 0.0))
        self._c5 = MadNas(frame, (0.0, 0.0, 0.0, 0.0, 1.0))
        self._sizes = [
            weight * (math.log(out) + 2 * math.log(image_size / stride))
            for weight, out, stride in zip(weights[2:], neck.out, (8, 16, 32), strict=True)
        ]
        self._necks: dict[tuple[int, int, int], float] = {}

    def __call__(self, genome: Genome) -> float:
        """Weighted sum over C1 C2 P3 P4 P5 of entropy times log of a map's size, less the penalty."""
        channels = self.frame.out_channels(genome)
        if channels not in self._necks:
            self._necks[channels] = self._neck(channels)
        of_c5 = self._c5(genome) - math.log(channels[2])
        return self._backbone(genome) + sum(self._sizes) * of_c5 + self._necks[channels]

    def _neck(self, channels: tuple[int, int, int]) -> float:
        total, so_far = 0.0, 0.0
        for size, way in zip(self._sizes, neck_path_ops(channels, self.neck), strict=True):
            so_far += path_entropy(map(_fan_in, way))
            total += size * so_far
        return total


def _fan_in(op: Op) -> int:
    return op.weights // op.cout
