"""A device whose times are a formula, so that what is made of them can be checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from damoyolo.config import DeviceName
from damoyolo.export.card import Precision
from damoyolo.nn.detector import Detector
from damoyolo.search.cost import CostModel
from damoyolo.search.ops import Op
from damoyolo.search.space import Frame, genome_of
from damoyolo.spec import Activation


def work(op: Op) -> float:
    """Milliseconds: something for starting, for moving and for computing."""
    moved = op.cin * op.side**2 + op.cout * op.out_side**2
    return 0.005 + 1e-7 * moved + 5e-9 * op.flops


class FakeDevice:
    """A whole detector takes `factor` times the sum of its operators and `fixed_ms`.

    Args:
        factor: see above.
        fixed_ms: see above.
    """

    name: DeviceName = "openvino-cpu"
    runtime = "formula 1.0"
    precision: Precision = "fp32"
    threads: int | None = 1

    def __init__(self, factor: float = 1.25, fixed_ms: float = 0.5) -> None:
        self.factor, self.fixed_ms = factor, fixed_ms
        self.timed: list[Op] = []
        self.activations: set[Activation] = set()
        self.opens = 0

    def time_ops(self, ops: Sequence[Op], activation: Activation) -> list[float]:
        """By the formula."""
        self.timed += ops
        self.activations.add(activation)
        return [work(op) for op in ops]

    def opened(self, detector: Detector) -> Callable[[int], list[float]]:
        """As slow as its operators are together."""
        self.opens += 1
        spec, classes = detector.card.spec, len(detector.card.class_names)
        frame, side = Frame(spec.structure), detector.card.image_size[0]
        ops = CostModel(frame, side, "detector", spec.neck, spec.head, classes).ops(genome_of(spec.structure))
        ms = self.factor * sum(map(work, ops)) + self.fixed_ms
        return lambda calls: [ms] * calls
