"""Which boxes of a video's frames are the same thing: ByteTrack, arXiv 2110.06864.

Boxes that are sure are matched with the tracks first, then the unsure ones with the tracks that are left: a
thing that is half hidden is seen worse, not gone. As published, but for three things: only boxes of a track's
own class are matched with it, motion is that of a box's corners, and times may be uneven, as a camera's are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64

from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.prediction.merging import areas, intersections

LOW_SCORE = 0.1
"""Boxes that are less sure are of no use."""
SURE_IOU, UNSURE_IOU = 0.1, 0.5
"""A box is a track's if it overlaps more with the box that is expected."""
HITS = 2
"""Frames in a row that a new thing must be seen in."""
LOST_S = 1.5
"""So long a thing may be out of sight and keep its number."""
NO_ID = -1
"""Of a box that is no track's yet."""

POSITION_STD, VELOCITY_STD = 1 / 20, 1 / 40
"""Of what a corner does by chance in a frame, in heights of the box; the first also of a measurement."""
FIRST_VELOCITY_STD = 1 / 4
"""Of what is not known of a new thing's motion: in a slow video things move far in a frame."""


@dataclass(frozen=True)
class Tracked:
    """Boxes of a frame, and for each the number of its track, from 1, or `NO_ID`."""

    detections: Detections
    ids: Int64[np.ndarray, " n"]


@dataclass(eq=False)
class Track:
    """A thing in motion: a Kalman filter whose four corners' coordinates have the same uncertainty."""

    label: int
    state: Float64[np.ndarray, "position_and_velocity=2 xyxy=4"]
    covariance: Float64[np.ndarray, "2 2"]
    seen_s: float
    hits: int = 1
    id: int = NO_ID

    @classmethod
    def at(cls, box: Float32[np.ndarray, "xyxy=4"], label: int, time_s: float) -> Track:
        """A thing that was not there before; velocity in pixels a frame."""
        variances = np.array([2 * POSITION_STD, FIRST_VELOCITY_STD]) ** 2
        state = np.stack([box.astype(np.float64), np.zeros(4)])
        return cls(label, state, np.diag(variances) * _height(box) ** 2, time_s)

    def predict(self, frames: float) -> None:
        """Go on in time."""
        step = np.array([[1.0, frames], [0.0, 1.0]])
        chance = np.diag(np.array([POSITION_STD, VELOCITY_STD]) ** 2) * _height(self.state[0]) ** 2
        self.state = step @ self.state
        self.covariance = step @ self.covariance @ step.T + chance * frames

    def update(self, box: Float32[np.ndarray, "xyxy=4"], time_s: float) -> None:
        """It was seen there."""
        noise = (POSITION_STD * _height(box)) ** 2
        gain = self.covariance[:, 0] / (self.covariance[0, 0] + noise)
        self.state = self.state + gain[:, None] * (box - self.state[0])
        self.covariance = self.covariance - np.outer(gain, self.covariance[0])
        self.seen_s = time_s
        self.hits += 1


class Tracker:
    """Numbers things from frame to frame of one video."""

    def __init__(self, score: float, rate: float) -> None:
        """Begin.

        Args:
            score: lowest of a box that a track may begin with; unsure boxes, down to `LOW_SCORE`, only go on
                with one.
            rate: of the video, in frames per second.

        Raises:
            UserError: if scipy is missing.
        """
        self._score, self._rate = score, rate
        self._tracks: list[Track] = []
        self._time_s, self._last_id = 0.0, 0
        self._assign = _solver()

    def update(self, found: Detections, time_s: float) -> Tracked:
        """The next frame's sure boxes, and those unsure ones that are a track's; in the order given."""
        before, self._time_s = self._time_s, time_s
        for track in self._tracks:
            track.predict((time_s - before) * self._rate)
        sure = found.scores >= self._score
        owners: list[Track | None] = [None] * len(found)
        rest = self._match(self._tracks, found, np.flatnonzero(sure), SURE_IOU, owners)
        rest = [track for track in rest if track.seen_s == before]
        self._match(rest, found, np.flatnonzero(~sure), UNSURE_IOU, owners)
        self._tracks = [track for track in self._tracks if self._is_alive(track)]
        self._tracks += [
            Track.at(found.boxes[i], int(found.labels[i]), time_s)
            for i in np.flatnonzero(sure)
            if owners[i] is None
        ]
        ids = np.array([owner.id if owner else NO_ID for owner in owners], dtype=np.int64)
        shown = sure | (ids != NO_ID)
        boxes, scores, labels = found.boxes[shown], found.scores[shown], found.labels[shown]
        return Tracked(Detections(boxes, scores, labels, found.class_names), ids[shown])

    def _match(
        self,
        tracks: Sequence[Track],
        found: Detections,
        candidates: Int64[np.ndarray, " n"],
        least: float,
        owners: list[Track | None],
    ) -> list[Track]:
        """Give candidates to tracks so that they overlap most in all; the tracks that get none."""
        overlaps = np.zeros((len(tracks), len(candidates)))
        for row, track in zip(overlaps, tracks, strict=True):
            row[:] = _overlaps(track, found.boxes[candidates], found.labels[candidates])
        left = list(tracks)
        for i, j in zip(*self._assign(np.where(overlaps > least, overlaps, 0.0), maximize=True), strict=True):
            if overlaps[i, j] > least:
                owners[candidates[j]] = tracks[i]
                left.remove(tracks[i])
                self._see(tracks[i], found.boxes[candidates[j]])
        return left

    def _see(self, track: Track, box: Float32[np.ndarray, "xyxy=4"]) -> None:
        track.update(box, self._time_s)
        if track.id == NO_ID and track.hits >= HITS:
            self._last_id += 1
            track.id = self._last_id

    def _is_alive(self, track: Track) -> bool:
        """Seen just now, or known and not lost for long."""
        unseen_s = self._time_s - track.seen_s
        return unseen_s == 0 or (track.id != NO_ID and unseen_s <= LOST_S)


def _overlaps(
    track: Track, boxes: Float32[np.ndarray, "n 4"], labels: Int64[np.ndarray, " n"]
) -> Float32[np.ndarray, " n"]:
    """Intersection over union of where a thing is expected with boxes; 0 for those of another class."""
    expected = track.state[0].astype(np.float32)
    shared = intersections(expected, boxes)
    union = areas(expected[None])[0] + areas(boxes) - shared
    overlaps: Float32[np.ndarray, " n"] = np.where(labels == track.label, shared / np.maximum(union, 1e-9), 0)
    return overlaps.astype(np.float32)


def _height(box: np.ndarray) -> float:
    return max(1.0, float(box[3] - box[1]))


def _solver() -> Callable[..., Any]:
    """Of assignment problems."""
    try:
        return importlib.import_module("scipy.optimize").linear_sum_assignment  # type: ignore[no-any-return]
    except ImportError as error:
        raise UserError(f"track: tracking needs scipy ({error}); pip install 'damoyolo[track]'") from error
