"""What a structure is worth before it is trained: the entropy of its last maps, in closed form.

With unit Gaussian weights and inputs the variance of a convolution's output is its fan-in times that of its
input, so the logarithm of the standard deviation grows by half the logarithm of the fan-in in every
convolution on the main branch: no forward pass is needed. Shortcuts, normalisation and activations do not
enter, nor do the branches and the pooling that a csp backbone wraps around its blocks.
MAE-DET (arXiv 2111.13336), DeepMAD (CVPR 2023); natural logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float64

from damoyolo.search.ops import main_branch
from damoyolo.search.space import BlockType, Frame, Genes, Genome

Score = Callable[[Genome], float]
"""Says what a genome is worth; more is better."""


def block_fan_ins(kind: BlockType, cin: int, genes: Genes) -> tuple[list[int], list[int]]:
    """Inputs to each output of a super block's convolutions: in its first layer, and in each further one."""
    first, further = (
        [op.weights // op.cout for op in main_branch(kind, entering, genes, 1, 1, adds=True)]
        for entering in (cin, genes.out)
    )
    return first, further


def block_entropy(kind: BlockType, cin: int, genes: Genes) -> float:
    """What a super block adds to the logarithm of the standard deviation."""
    first, further = block_fan_ins(kind, cin, genes)
    return path_entropy(first) + (genes.layers - 1) * path_entropy(further)


def stage_entropies(frame: Frame, genome: Genome) -> list[float]:
    """From the image to the end of each of the stages C1 .. C5."""
    total = path_entropy([_stem_fan_in(frame, genome)])
    totals = [total]
    for kind, cin, genes in zip(frame.types, frame.inputs(genome), genome[1:], strict=True):
        total += block_entropy(kind, cin, genes)
        totals.append(total)
    return [totals[end] for end in frame.stage_ends]


class MadNas:
    """The score of MAE-NAS: the weighted sum over stages of entropy and logarithm of channels.

    Args:
        frame: of the structures.
        weights: of the stages C1 .. C5.
    """

    def __init__(self, frame: Frame, weights: Sequence[float] = (0.0, 0.0, 1.0, 1.0, 16.0)) -> None:
        self.frame, self.weights = frame, tuple(weights)
        ends = frame.stage_ends
        self._later = [
            sum(weight for weight, end in zip(weights, ends, strict=True) if end >= position)
            for position in range(len(frame.types) + 1)
        ]
        self._at_end = dict(zip(ends, weights, strict=True))
        self._parts: dict[tuple[int, int, Genes], float] = {}

    def __call__(self, genome: Genome) -> float:
        """Entropy is a sum over blocks, so each block's share is computed once and remembered."""
        parts, total, cin = self._parts, 0.0, 0
        for position, genes in enumerate(genome):
            key = (position, cin, genes)
            part = parts.get(key)
            if part is None:
                part = parts[key] = self._share(position, cin, genes, genome)
            total += part
            cin = genes.out
        return total

    def stages(self, genome: Genome) -> list[float]:
        """The weighted terms of the sum."""
        entropies = stage_entropies(self.frame, genome)
        return [
            weight * (entropy + math.log(genome[end].out))
            for weight, entropy, end in zip(self.weights, entropies, self.frame.stage_ends, strict=True)
        ]

    def _share(self, position: int, cin: int, genes: Genes, genome: Genome) -> float:
        """A block counts in its own stage and all later ones; the last of a stage brings its width."""
        entropy = (
            block_entropy(self.frame.types[position - 1], cin, genes)
            if position
            else path_entropy([_stem_fan_in(self.frame, genome)])
        )
        return self._later[position] * entropy + self._at_end.get(position, 0) * math.log(genes.out)


class DeepMad:
    """The score of DeepMAD: entropy times the logarithm of a map's size, less a penalty for uneven depth.

    The original code multiplies by the entropy itself (with its factor of one half) and takes the standard
    deviation of the depths, where the paper has their variance; so does this.

    Args:
        frame: of the structures.
        resolution: side in pixels of what the stem's convolution sees; the original code always took 224.
        weights: of the stages C1 .. C5.
        penalty: weight of the exponential of the depths' standard deviation.
    """

    WEIGHTS = (1.0, 1.0, 1.0, 1.0, 8.0)

    def __init__(
        self,
        frame: Frame,
        resolution: int = 224,
        weights: Sequence[float] = WEIGHTS,
        penalty: float = 10.0,
    ) -> None:
        self.frame, self.weights, self.penalty = frame, tuple(weights), penalty
        sides = [-(-resolution // _stem_stride(frame))]
        for stride in frame.strides:
            sides.append(-(-sides[-1] // stride))
        self._log_areas = [2 * math.log(sides[end]) for end in frame.stage_ends]
        left_out = {"k1kxk1": 2, "kxkx": 1}.get(frame.types[0], 0)  # first blocks, a quirk of the original's
        self._evened = slice(1 + left_out, None)

    def __call__(self, genome: Genome) -> float:
        """Weighted sum over stages, less the penalty."""
        entropies = stage_entropies(self.frame, genome)
        ends = self.frame.stage_ends
        total = sum(
            weight * entropy * (math.log(genome[end].out) + area)
            for weight, entropy, end, area in zip(self.weights, entropies, ends, self._log_areas, strict=True)
        )
        depths = [genes.layers for genes in genome[self._evened]]
        return total - self.penalty * math.exp(float(np.std(depths)))


class PaddedMadNas:
    """MAE-NAS's score as a forward pass gives it on average, zero padding included; much slower.

    The variance over a map is a product of a profile over rows and one over columns, and both are equal.

    Args:
        frame: of the structures.
        resolution: side in pixels of what the stem's convolution sees.
        weights: of the stages C1 .. C5.
    """

    def __init__(
        self, frame: Frame, resolution: int = 160, weights: Sequence[float] = (0.0, 0.0, 1.0, 1.0, 16.0)
    ) -> None:
        self.frame, self.resolution, self.weights = frame, resolution, tuple(weights)

    def __call__(self, genome: Genome) -> float:
        """Propagate the profile through every convolution of the main branch."""
        frame, profile = self.frame, np.ones(self.resolution)
        entropy, profile = _through(_stem_channels(frame), genome[0].kernel, _stem_stride(frame), profile)
        totals = [entropy]
        for kind, stride, (before, genes) in zip(frame.types, frame.strides, pairwise(genome), strict=True):
            cin = before.out
            for number in range(genes.layers):
                for op in main_branch(kind, cin, genes, 1 if number else stride, 1, adds=True):
                    inputs = op.cin if op.kind == "conv" else 1
                    gained, profile = _through(inputs, op.kernel, op.stride, profile)
                    entropy += gained
                cin = genes.out
            totals.append(entropy)
        ends = frame.stage_ends
        return sum(
            w * (totals[end] + math.log(genome[end].out)) for w, end in zip(self.weights, ends, strict=True)
        )


def _through(
    inputs: int, kernel: int, stride: int, profile: Float64[np.ndarray, " n"]
) -> tuple[float, Float64[np.ndarray, " m"]]:
    """Entropy gained in a convolution of these inputs, and the profile of variance after it, of mean 1."""
    summed = np.convolve(profile, np.ones(kernel))[kernel // 2 : kernel // 2 + len(profile)][::stride]
    mean = float(summed.mean())
    return 0.5 * math.log(inputs) + math.log(mean), summed / mean


def path_entropy(fan_ins: Iterable[int]) -> float:
    """What convolutions one after another add to the logarithm of the standard deviation."""
    return sum(0.5 * math.log(fan_in) for fan_in in fan_ins)


def _stem_channels(frame: Frame) -> int:
    return 12 if frame.template.stem.type == "focus" else 3


def _stem_stride(frame: Frame) -> int:
    return 1 if frame.template.stem.type == "focus" else 2


def _stem_fan_in(frame: Frame, genome: Genome) -> int:
    return _stem_channels(frame) * genome[0].kernel ** 2
