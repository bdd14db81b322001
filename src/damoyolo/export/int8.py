"""What became of a model in INT8. No torch."""

from __future__ import annotations

from damoyolo.spec import Frozen

NOTABLE_GAIN = 1.05
"""Below it, a file is as fast as the other."""


class Measured(Frozen):
    """AP on a data set, and the milliseconds of the network alone for one image."""

    ap: float
    p50: float
    p95: float


class Quantization(Frozen):
    """How a file came to its numbers of eight bits, and what they cost.

    `whole` has every layer in INT8; `partial`, where that lost too much, has those of `in_float` in float32,
    and is what was written. All are measured with the head `raw` on one image of the file's size; where the
    engine only stands in for another, its AP counts and its times do not.
    """

    data: str
    split: str
    engine: str
    stands_in: bool = False
    calibration_images: int
    max_drop: float
    in_float: tuple[str, ...]
    fp32: Measured
    whole: Measured
    partial: Measured | None = None

    def lines(self) -> list[str]:
        """For people."""
        kinds = (("fp32", self.fp32), ("INT8", self.whole), ("partial INT8", self.partial))
        slow = self.fp32.p50 < NOTABLE_GAIN * (self.partial or self.whole).p50
        engine = (
            f"{self.engine} in another's place (its times do not count)" if self.stands_in else self.engine
        )
        left = f"left in float: {', '.join(self.in_float)}" if self.in_float else "nothing is left in float"
        return [
            f"{self.data} {self.split}, {engine}, calibrated on {self.calibration_images} images:",
            *(self._line(name, each) for name, each in kinds if each),
            left,
            *(["INT8 is not faster here; take the float file"] if slow and not self.stands_in else []),
        ]

    def _line(self, name: str, measured: Measured) -> str:
        """Beside the float model."""
        change, factor = measured.ap - self.fp32.ap, self.fp32.p50 / measured.p50
        beside = (
            "" if measured is self.fp32 else f"  AP {100 * change:+.2f} points, {factor:.2f} times as fast"
        )
        return f"  {name:12}  AP {measured.ap:.4f}  {measured.p50:.2f} ms (p95 {measured.p95:.2f}){beside}"
