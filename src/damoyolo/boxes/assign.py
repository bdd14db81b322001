"""AlignedOTA: which point learns which object (paper section 3.4).

For every ground-truth box a *cost* is formed at every point from what the network predicts there now:

    cost = class cost + 3 x overlap cost            (+ 1e8 outside the box or away from its centre)
    class cost   = sum over classes of BCE(p, t) |t - p|^2,  t = IoU at the box's class, 0 elsewhere
    overlap cost = -ln IoU

The soft target t *aligns* classification with regression: a point is cheap for a box when it both overlaps
it and says so. A box takes its k cheapest points, where k is the sum of its ten best IoUs (dynamic k, OTA,
arXiv 2103.14259); a point wanted by several boxes goes to the one for which it is cheapest.

How it is fast and yet exact: only a handful of points, at most five by five cells per level around the
centre, can escape the 1e8, so costs are formed for those (`_near_centre`) instead of all pairs. What does
need every point is the IoU for k, which is bare arithmetic done in chunks (`_dynamic_k`). Boxes too small to
hold as many points as they should take are rare and treated apart (`_elsewhere`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from damoyolo.boxes.geometry import EPS, box_area, box_iou
from damoyolo.boxes.points import Pyramid
from damoyolo.boxes.types import Assignment, Targets

FAR = 1e8
"""Added to the cost of a point that is not both inside the box and near its centre."""

_LANES = 32
"""Points are padded to a multiple of this for the two-step search of the largest IoUs."""


@dataclass(frozen=True)
class AlignedOTA:
    """The assigner; call it with what the network predicts and what is true.

    The defaults are the published code's. The paper's text has `overlap="linear"` (cost -IoU) and
    `focal_power=1`.

    Args:
        center_radius: how far from a box's centre its points may lie, in strides.
        candidate_top_k: how many of the best IoUs are summed into k.
        overlap_weight: weight of the overlap cost against the class cost.
        overlap: `log` for -ln IoU, `linear` for -IoU.
        focal_power: exponent of |t - p|.
        chunk: values held at once by the dense part; bounds memory, does not change the result.
    """

    center_radius: float = 2.5
    candidate_top_k: int = 10
    overlap_weight: float = 3.0
    overlap: Literal["log", "linear"] = "log"
    focal_power: Literal[1, 2] = 2
    chunk: int = 1 << 18

    @torch.no_grad()
    def __call__(
        self,
        scores: Float[Tensor, "b p c"],
        boxes: Float[Tensor, "b p 4"],
        pyramid: Pyramid,
        targets: Targets,
    ) -> Assignment:
        """Assign a whole batch.

        Args:
            scores: class probabilities 0..1.
            boxes: decoded boxes, xyxy pixels.
            pyramid: where the points are.
            targets: ground truth; images without boxes and boxes outside the image are fine.
        """
        batch, points = scores.shape[:2]
        gt_index = torch.full((batch, points), -1, dtype=torch.int64, device=scores.device)
        iou = torch.zeros((batch, points), device=scores.device)
        if not targets.mask.any():
            return Assignment(gt_index, iou)
        in_reach = _in_reach(pyramid, targets, self.center_radius)
        costs = _Costs(self, scores.float(), boxes.float(), targets, in_reach)
        pairs = self._near_centre(pyramid, costs)
        wanted = self._dynamic_k(costs)
        image, box, point = self._cheapest(pairs, wanted, costs)
        box = self._settle_conflicts(image, box, point, pairs, costs)
        gt_index[image, point] = box
        iou[image, point] = costs.iou(image, box, point)
        return Assignment(gt_index, iou)

    def _near_centre(self, pyramid: Pyramid, costs: _Costs) -> _Pairs:
        """All (image, box, point) inside the box and within `center_radius` strides of its centre."""
        x1, y1, x2, y2 = costs.targets.boxes[..., None, None].unbind(2)
        reach = math.ceil(self.center_radius)
        steps = torch.arange(1 - reach, reach + 1, device=x1.device)
        points, near, first = [], [], 0
        for (rows, columns), stride in zip(pyramid.sizes, pyramid.strides, strict=True):
            column, in_columns = _cells_along(x1, x2, columns, stride, self.center_radius, steps)
            row, in_rows = _cells_along(y1, y2, rows, stride, self.center_radius, steps)
            points.append((first + row.mT * columns + column).flatten(2))
            near.append((in_rows.mT & in_columns).flatten(2))
            first += rows * columns
        inside = torch.cat(near, dim=2) & costs.targets.mask[..., None]
        image, box, slot = inside.nonzero(as_tuple=True)
        point = torch.cat(points, dim=2)[image, box, slot]
        return _Pairs(image, box, point, slot, costs.of(image, box, point), slots=inside.shape[2])

    def _dynamic_k(self, costs: _Costs) -> Int64[Tensor, "b n"]:
        """How many points each box takes: the sum of its best IoUs among points in reach, at least 1."""
        batch, points = costs.in_reach.shape
        padding = -points % _LANES
        reachable = torch.where(costs.in_reach[..., None], costs.boxes, 0.0)
        planes = F.pad(reachable.permute(2, 0, 1), (0, padding)).contiguous().unsqueeze(2)
        area = (planes[2] - planes[0]) * (planes[3] - planes[1])
        step = max(1, self.chunk // (batch * (points + padding)))
        sums = [
            _sum_of_largest(_iou_planes(planes, area, some), self.candidate_top_k)
            for some in costs.targets.boxes.split(step, dim=1)
        ]
        return torch.cat(sums, dim=1).long().clamp_(min=1)

    def _cheapest(
        self, pairs: _Pairs, wanted: Int64[Tensor, "b n"], costs: _Costs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Each box's cheapest points, lowest index first among equals, as (image, box, point)."""
        table = torch.full((*wanted.shape, pairs.slots), math.inf, device=wanted.device)
        table[pairs.image, pairs.box, pairs.slot] = pairs.cost
        order = table.argsort(dim=2, stable=True)
        rank = torch.empty_like(order).scatter_(
            2, order, torch.arange(pairs.slots, device=order.device).expand_as(order)
        )
        taken = rank[pairs.image, pairs.box, pairs.slot] < wanted[pairs.image, pairs.box]
        chosen = pairs.image[taken], pairs.box[taken], pairs.point[taken]
        found = table.isfinite().sum(dim=2)
        missing = torch.where(costs.targets.mask, wanted - found, 0)
        if not (missing > 0).any():
            return chosen
        elsewhere = self._elsewhere(missing, pairs, costs)
        image, box, point = (torch.cat(both) for both in zip(chosen, elsewhere, strict=True))
        return image, box, point

    def _elsewhere(
        self, missing: Int64[Tensor, "b n"], pairs: _Pairs, costs: _Costs
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Points for boxes that hold too few: the cheapest in reach of any box of the image.

        In float32 a cost above 1e8 is a multiple of 8, so most of these tie; the lowest index wins. Cost and
        index are joined into one number, exact in float64, because `topk` promises no order among equals.
        """
        points = costs.in_reach.shape[1]
        near = torch.zeros((*missing.shape, points), dtype=torch.bool, device=missing.device)
        near[pairs.image, pairs.box, pairs.point] = True
        index = torch.arange(points, device=missing.device)
        ranks = torch.arange(min(self.candidate_top_k, points), device=missing.device)
        chosen: list[Tensor] = []
        for some in (missing > 0).nonzero().split(max(1, self.chunk // points)):
            image, box = some.unbind(1)
            key = costs.far_from_centre(image, box).double() * points + index
            key.masked_fill_(near[image, box], math.inf)
            cheapest, order = key.topk(len(ranks), dim=1, largest=False)
            row, rank = ((ranks < missing[image, box, None]) & cheapest.isfinite()).nonzero(as_tuple=True)
            chosen.append(torch.stack([image[row], box[row], order[row, rank]]))
        image, box, point = torch.cat(chosen, dim=1)
        return image, box, point

    def _settle_conflicts(
        self, image: Tensor, box: Tensor, point: Tensor, pairs: _Pairs, costs: _Costs
    ) -> Int64[Tensor, " m"]:
        """The box of each match, after every contested point went to its cheapest box of all."""
        batch, points = costs.scores.shape[:2]
        boxes = costs.targets.boxes.shape[1]
        flat = image * points + point
        claims = torch.bincount(flat, minlength=batch * points)
        contested = claims[flat] > 1
        if not contested.any():
            return box
        # The cheapest pair of each point near a centre: every pair farther away costs 1e8 more.
        here = pairs.image * points + pairs.point
        best = torch.full((batch * points,), math.inf, device=box.device)
        best.scatter_reduce_(0, here, pairs.cost, "amin")
        is_best = pairs.cost == best[here]
        owner = torch.full((batch * points,), boxes, dtype=torch.int64, device=box.device)
        owner.scatter_reduce_(0, here[is_best], pairs.box[is_best], "amin")
        settled = torch.where(contested, owner[flat], box)
        lost = settled == boxes  # contested, but near no centre: compare all boxes of the image
        if lost.any():
            settled[lost] = costs.cheapest_box(image[lost], point[lost])
        return settled


@dataclass(frozen=True)
class _Pairs:
    """Every box with every point near its centre; `slot` numbers a box's candidates by rising point index."""

    image: Int64[Tensor, " m"]
    box: Int64[Tensor, " m"]
    point: Int64[Tensor, " m"]
    slot: Int64[Tensor, " m"]
    cost: Float[Tensor, " m"]
    slots: int


class _Costs:
    """The cost of any box at any point, formed only where it is asked for."""

    def __init__(
        self,
        rule: AlignedOTA,
        scores: Float[Tensor, "b p c"],
        boxes: Float[Tensor, "b p 4"],
        targets: Targets,
        in_reach: Bool[Tensor, "b p"],
    ) -> None:
        self.rule, self.scores, self.boxes = rule, scores, boxes
        self.targets, self.in_reach = targets, in_reach

    def iou(self, image: Tensor, box: Tensor, point: Tensor) -> Tensor:
        """IoU of predicted and true box; indices broadcast."""
        return box_iou(self.boxes[image, point], self.targets.boxes[image, box])

    def of(
        self, image: Int64[Tensor, " m"], box: Int64[Tensor, " m"], point: Int64[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """Cost of pairs near a centre."""
        chunks = max(1, self.rule.chunk * 4 // self.scores.shape[2])
        return torch.cat(
            [
                self._of(*some)
                for some in zip(image.split(chunks), box.split(chunks), point.split(chunks), strict=True)
            ]
        )

    def _of(self, image: Tensor, box: Tensor, point: Tensor) -> Tensor:
        iou = self.iou(image, box, point)
        scores = self.scores[image, point]
        label = self.targets.labels[image, box][:, None]
        positive = self._object_cost(scores.gather(1, label), iou[:, None])
        class_cost = self._background_cost(scores).scatter_(1, label, positive).sum(dim=1)
        return class_cost + self._overlap_cost(iou) * self.rule.overlap_weight

    def far_from_centre(self, image: Int64[Tensor, " m"], box: Int64[Tensor, " m"]) -> Float[Tensor, "m p"]:
        """Cost of each box at every point of its image, as if far from its centre; infinite out of reach."""
        iou = box_iou(self.boxes[image], self.targets.boxes[image, box][:, None])
        score = self.scores.mT[image, self.targets.labels[image, box]]
        class_cost = self._background[image] - self._background_cost(score) + self._object_cost(score, iou)
        return class_cost + self._overlap_cost(iou) * self.rule.overlap_weight + FAR

    @functools.cached_property
    def _background(self) -> Float[Tensor, "b p"]:
        """What a point would pay if it held no object, infinite out of reach; in chunks that fit a cache."""
        image, point = self.in_reach.nonzero(as_tuple=True)
        rows = max(1, self.rule.chunk // self.scores.shape[2])
        sums = [
            self._background_cost(self.scores[some]).sum(dim=1)
            for some in zip(image.split(rows), point.split(rows), strict=True)
        ]
        background = torch.full(self.in_reach.shape, math.inf, device=image.device)
        background[image, point] = torch.cat(sums)
        return background

    def cheapest_box(self, image: Int64[Tensor, " m"], point: Int64[Tensor, " m"]) -> Int64[Tensor, " m"]:
        """For points near no centre: the image's box that costs least there, lowest index among equals."""
        boxes = self.targets.boxes.shape[1]
        every = torch.arange(boxes, device=image.device).expand(len(image), -1)
        spread = [index[:, None].expand(-1, boxes).flatten() for index in (image, point)]
        cost = self.of(spread[0], every.flatten(), spread[1]).view(-1, boxes) + FAR
        return cost.masked_fill_(~self.targets.mask[image], math.inf).argmin(dim=1)

    def _background_cost(self, scores: Tensor) -> Tensor:
        """BCE(p, 0) p^power."""
        return scores.neg().log1p_().clamp_(min=-100).neg_().mul_(self._focal(scores))

    def _object_cost(self, scores: Tensor, iou: Tensor) -> Tensor:
        """BCE(p, IoU) |IoU - p|^power."""
        return F.binary_cross_entropy(scores, iou, reduction="none") * self._focal((iou - scores).abs())

    def _focal(self, distance: Tensor) -> Tensor:
        return distance if self.rule.focal_power == 1 else distance * distance

    def _overlap_cost(self, iou: Tensor) -> Tensor:
        return -(iou + 1e-7).log() if self.rule.overlap == "log" else -iou


def _cells_along(
    low: Float[Tensor, "b n 1 1"],
    high: Float[Tensor, "b n 1 1"],
    cells: int,
    stride: int,
    radius: float,
    steps: Int64[Tensor, " k"],
) -> tuple[Int64[Tensor, "b n 1 k"], Bool[Tensor, "b n 1 k"]]:
    """Cells around the centre of an interval on one axis; which are inside, near the centre, on the map."""
    centre = (low + high) / 2
    cell = (centre / stride).floor().clamp(-(2**30), 2**30).long() + steps
    inside = _inside(cell * float(stride), low, high, centre, radius * stride)
    return cell, inside & (cell >= 0) & (cell < cells)


def _inside(position: Tensor, low: Tensor, high: Tensor, centre: Tensor, reach: float) -> Tensor:
    """Strictly between `low` and `high` and strictly within `reach` of the centre."""
    return (position > torch.maximum(low, centre - reach)) & (position < torch.minimum(high, centre + reach))


def _in_reach(pyramid: Pyramid, targets: Targets, radius: float) -> Bool[Tensor, "b p"]:
    """Points inside any box of their image or near any centre.

    Rows and columns are judged apart: a point is inside when its row and its column are, so 'inside any box'
    is a product of small matrices per level.
    """
    levels = []
    for (rows, columns), stride in zip(pyramid.sizes, pyramid.strides, strict=True):
        spans = []
        for axis, cells in ((1, rows), (0, columns)):
            low, high = targets.boxes[..., axis, None], targets.boxes[..., axis + 2, None]
            centre = (low + high) / 2
            at = torch.arange(cells, device=low.device) * float(stride)
            in_box = (at > low) & (at < high)
            in_centre = (at > centre - radius * stride) & (at < centre + radius * stride)
            spans.append(
                (torch.cat([in_box, in_centre], dim=1) & targets.mask.repeat(1, 2)[..., None]).float()
            )
        levels.append((spans[0].mT @ spans[1]).flatten(1) > 0)
    return torch.cat(levels, dim=1)


def _iou_planes(
    planes: Float[Tensor, "4 b 1 p"], area: Float[Tensor, "b 1 p"], boxes: Float[Tensor, "b n 4"]
) -> Float[Tensor, "b n p"]:
    """`box_iou` of every point with every box, on coordinate planes and in place."""
    x1, y1, x2, y2 = boxes[..., None].unbind(2)
    overlap = torch.minimum(planes[2], x2).sub_(torch.maximum(planes[0], x1)).clamp_(min=0)
    overlap *= torch.minimum(planes[3], y2).sub_(torch.maximum(planes[1], y1)).clamp_(min=0)
    union = (area + box_area(boxes)[..., None]).sub_(overlap).clamp_(min=EPS)
    return overlap.div_(union)


def _sum_of_largest(values: Float[Tensor, "b n p"], k: int) -> Float[Tensor, "b n"]:
    """Sum of the k largest along the last dimension, a multiple of `_LANES` long.

    The k largest values lie in the k columns with the largest maxima, so two small searches do.
    """
    columns = values.unflatten(2, (_LANES, -1))
    best = columns.amax(dim=2).topk(min(k, columns.shape[3]), dim=2).indices
    some = columns.gather(3, best.unsqueeze(2).expand(-1, -1, _LANES, -1)).flatten(2)
    sums: Tensor = some.topk(min(k, some.shape[2]), dim=2).values.sum(dim=2)
    return sums
