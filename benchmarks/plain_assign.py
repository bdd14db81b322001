"""AlignedOTA the straightforward way: a loop over images, every point against every box.

The yardstick of `benchmarks/assign.py` and the oracle of the assigner's tests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from damoyolo.boxes.geometry import box_iou
from damoyolo.boxes.points import Pyramid
from damoyolo.boxes.types import Assignment, Targets


def plain_aligned_ota(scores, boxes, pyramid: Pyramid, targets: Targets, overlap="log", focal_power=2):
    """The same arguments and result as `AlignedOTA()(...)`."""
    points, strides = pyramid.points(), pyramid.point_strides()
    found = [
        _one_image(*each, points, strides, overlap, focal_power)
        for each in zip(scores, boxes, targets.boxes, targets.labels, targets.mask, strict=True)
    ]
    return Assignment(*(torch.stack(part) for part in zip(*found, strict=True)))


def _one_image(scores, boxes, truth, labels, mask, points, strides, overlap, focal_power):
    truth, labels = truth[mask], labels[mask]
    gt_index = torch.full((len(points),), -1)
    iou_target = torch.zeros(len(points))
    if len(truth) == 0:
        return gt_index, iou_target
    x, y = points[:, None].unbind(2)
    x1, y1, x2, y2 = truth[None].unbind(2)
    reach = 2.5 * strides[:, None]
    cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
    in_box = (x > x1) & (x < x2) & (y > y1) & (y < y2)
    in_centre = (x > cx - reach) & (x < cx + reach) & (y > cy - reach) & (y < cy + reach)
    valid = (in_box | in_centre).any(dim=1)
    if not valid.any():
        return gt_index, iou_target
    iou = box_iou(boxes[valid, None], truth[None])
    target = F.one_hot(labels, scores.shape[1]).float()[None] * iou[..., None]
    p = scores[valid, None].expand(-1, len(truth), -1)
    class_cost = (
        F.binary_cross_entropy(p, target, reduction="none") * (target - p).abs() ** focal_power
    ).sum(2)
    overlap_cost = -(iou + 1e-7).log() if overlap == "log" else -iou
    cost = class_cost + overlap_cost * 3.0 + (~(in_box & in_centre)[valid]) * 1e8
    k = iou.topk(min(10, len(iou)), dim=0).values.sum(dim=0).long().clamp(min=1)
    matching = torch.zeros_like(cost, dtype=torch.bool)
    for box in range(len(truth)):
        matching[cost[:, box].argsort(stable=True)[: k[box]], box] = True
    contested = matching.sum(dim=1) > 1
    matching[contested] = False
    matching[contested, cost[contested].argmin(dim=1)] = True
    positive, box = matching.nonzero(as_tuple=True)
    where = valid.nonzero()[positive, 0]
    gt_index[where] = box
    iou_target[where] = iou[positive, box]
    return gt_index, iou_target
