"""From a video, in a file or as it comes, to what is in its frames."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from damoyolo.data.draw import Outline, draw, draw_outlines
from damoyolo.data.resize import size_of
from damoyolo.detections import Detections
from damoyolo.errors import UserError
from damoyolo.prediction.counting import Counting, check_inside
from damoyolo.prediction.detection import Finder, Image
from damoyolo.prediction.flow import ahead, batches, closing
from damoyolo.prediction.reader import Frame, VideoReader
from damoyolo.prediction.recording import Recording
from damoyolo.prediction.tracking import NO_ID, Tracker


@dataclass(frozen=True)
class FoundFrame:
    """A frame of a video and what is in it.

    Where things are tracked, `ids` has the number of each, None for what has none yet; `counts` are what was
    counted up to this frame.
    """

    video: str
    frame: Frame
    detections: Detections
    ids: tuple[int | None, ...] | None = None
    counts: tuple[dict[str, Any], ...] = ()

    def to_record(self) -> dict[str, Any]:
        """JSON-ready."""
        height, width = size_of(self.frame.image)
        detections = self.detections.to_records()
        if self.ids is not None:
            detections = [{"id": number, **each} for number, each in zip(self.ids, detections, strict=True)]
        return {
            "video": self.video,
            "frame": self.frame.number,
            "time_s": round(self.frame.time_s, 3),
            "width": width,
            "height": height,
            "detections": detections,
            **({"counts": list(self.counts)} if self.counts else {}),
        }


class Watcher:
    """Tracks things from frame to frame of one video, and counts them."""

    def __init__(self, tracker: Tracker, counting: Sequence[Counting] = ()) -> None:
        self.tracker, self.counting = tracker, counting

    def __call__(self, video: str, frame: Frame, detections: Detections) -> FoundFrame:
        """The next frame; of its unsure detections, those that are tracked."""
        tracked = self.tracker.update(detections, frame.time_s)
        for each in self.counting:
            each.update(tracked, frame.time_s)
        ids = tuple(None if each == NO_ID else int(each) for each in tracked.ids)
        return FoundFrame(
            video, frame, tracked.detections, ids, tuple(each.to_record() for each in self.counting)
        )

    def outlines(self) -> list[Outline]:
        """Of the lines and zones, to be drawn."""
        return [each.outline() for each in self.counting]


def predict_video(
    finder: Finder,
    reader: VideoReader,
    recording: Recording | None = None,
    *,
    batch_size: int = 1,
    watcher: Watcher | None = None,
) -> Generator[FoundFrame, None, None]:
    """What is in each frame, in order; what is recorded is complete however this ends.

    Decoding, the network, and drawing with encoding are at work at the same time, in a thread each; a few
    batches of frames are in memory at once, however long the video. Of a live source that is faster than the
    network, frames are left out: those found are always the latest.

    Args:
        finder: what is in an image.
        reader: is read to its end and closed.
        recording: where pictures and lines go, if anywhere.
        batch_size: frames detected at once; a live source's come one by one.
        watcher: tracks and counts what is found; `finder` shall give it boxes down to `tracking.LOW_SCORE`.

    Raises:
        UserError: if the watcher counts at a place that is wholly outside the picture.
    """
    if watcher and reader.size:
        try:
            for each in watcher.counting:
                check_inside(each, reader.size, reader.name)
        except UserError:
            reader.close()
            raise
    size = 1 if reader.live else batch_size
    frames = ahead(reader.frames(), room=size, newest=reader.live)
    found = ahead(_find(finder, frames, size), room=size)
    with closing(found), recording or nullcontext():
        for frame, detections in found:
            result = (watcher or FoundFrame)(reader.name, frame, detections)
            if recording:
                picture = _drawn(result, watcher) if recording.video else None
                recording.add(result.to_record(), picture, frame.time_s)
            yield result


def _find(finder: Finder, frames: Iterable[Frame], size: int) -> Iterator[tuple[Frame, Detections]]:
    for batch in batches(frames, size):
        yield from zip(batch, finder([frame.image for frame in batch]), strict=True)


def _drawn(result: FoundFrame, watcher: Watcher | None) -> Image:
    picture = draw(result.frame.image, result.detections, result.ids or ())
    return draw_outlines(picture, watcher.outlines()) if watcher and watcher.counting else picture
