"""`damoyolo predict`."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from damoyolo.cli.ranges import Count, Share

if TYPE_CHECKING:
    from rich.progress import Task

    from damoyolo.detections import Detections
    from damoyolo.prediction import Finder, Watcher


def predict(
    source: str,
    /,
    *,
    weights: str,
    output: Path = Path("runs/predict"),
    score: Share = 0.4,
    iou: Annotated[Share | None, Parameter(alias="--nms-iou")] = None,
    max_detections: Count = 500,
    image_size: str | None = None,
    batch_size: Annotated[Count, Parameter(alias="--batch")] = 8,
    device: str = "auto",
    tile: Count | None = None,
    tile_overlap: Share | None = None,
    ensemble_flip: Annotated[bool, Parameter(negative="")] = False,
    track: Annotated[bool, Parameter(negative="")] = False,
    count_line: Annotated[list[str] | None, Parameter(negative="")] = None,
    count_zone: Annotated[list[str] | None, Parameter(negative="")] = None,
    draw: Annotated[bool, Parameter(negative="--no-draw")] = True,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Detect things in images and videos, and draw them.

    Parameters
    ----------
    source
        An image, a video, a folder, a pattern in quotes such as 'photos/**/*.jpg', the number of a camera, or
        a stream such as rtsp://host/path.
    weights
        A model size (Ns Nm Nl T S M L), a weights file (.safetensors, .pth, hf://owner/name) or an
        exported one (.onnx, .xml).
    output
        Folder for the pictures, detections.json and detections.csv; for videos, and a .jsonl beside each.
        What an earlier call wrote there is replaced.
    score
        Lowest score shown, 0 to 1.
    iou
        Two boxes of a class that overlap more than this are one thing; default the model's own.
    max_detections
        Most boxes in one image.
    image_size
        Network input in pixels, a side or HEIGHTxWIDTH, multiples of 32; default the model's own.
    batch_size
        Images or frames detected at once; those of a camera or stream come one by one.
    device
        auto, cpu, cuda, cuda:1 or mps.
    tile
        For large images: look at them also in tiles of this side in pixels, such as 640.
    tile_overlap
        Of neighbouring tiles, as a share of their side; default a quarter.
    ensemble_flip
        Look at each image also in the mirror, in twice the time.
    track
        Number things from frame to frame of a video.
    count_line
        Count what crosses a line x1,y1,x2,y2, in pixels of the video, by class and side; tracks, too. Where
        it begins with a negative number, write --count-line=-20,10,90,10.
    count_zone
        Count what is, and what ever was, in a zone x1,y1,x2,y2,x3,y3,...; tracks, too.
    draw
        Write pictures and annotated videos.
    as_json
        Print the detections as JSON and nothing else: a list for images, lines where there are videos.
    """
    from damoyolo import assemble
    from damoyolo.errors import UserError
    from damoyolo.prediction import LOW_SCORE, OVERLAP, find_media, video_places

    media = find_media(source)
    places = video_places(media.videos, output)
    watch = _watch(score, count_line or [], count_zone or []) if track or count_line or count_zone else None
    if watch and media.images:
        option = "--track" if track else "--count-line" if count_line else "--count-zone"
        raise UserError(f"{option}: is for videos, and {source} has images; name the videos")
    if tile_overlap is not None and tile is None:
        raise UserError("--tile-overlap: is of tiles; give --tile too, such as --tile 640, or leave it out")
    finder = assemble.open_finder(
        weights,
        device=device,
        image_size=image_size,
        score=min(score, LOW_SCORE) if watch else score,
        nms_iou=iou,
        max_detections=max_detections,
        ensemble_flip=ensemble_flip,
        tile=tile,
        tile_overlap=OVERLAP if tile_overlap is None else tile_overlap,
        batch_size=batch_size,
        lanes=assemble.usual_lanes(batch_size) if media.waits or tile else 1,
    )
    if tile:  # it is the tiles of one large image that come in batches
        batch_size = 1
    good = 0
    if media.images:
        good += _predict_images(finder, media.images, output, batch_size, draw, as_json, bool(media.videos))
    for video, place in places.items():
        good += _predict_video(finder, video, place, batch_size, watch, draw, as_json)
    return 0 if good else 2


def _watch(score: float, lines: Sequence[str], zones: Sequence[str]) -> Callable[[float], Watcher]:
    """A new watcher for a video of a frame rate; what is wrong with the options is said before the first."""
    from damoyolo.prediction import Tracker, Watcher, read_line, read_zone

    def watch(rate: float) -> Watcher:
        return Watcher(Tracker(score, rate), [*map(read_line, lines), *map(read_zone, zones)])

    watch(1.0)
    return watch


def _predict_images(
    finder: Finder,
    paths: Sequence[Path],
    output: Path,
    batch_size: int,
    draw: bool,
    as_json: bool,
    as_lines: bool,
) -> int:
    """How many could be read."""
    from damoyolo.errors import counted
    from damoyolo.prediction import Found, predict_into

    records, good, boxes = [], 0, 0
    for result in predict_into(finder, paths, output, batch_size, drawn=draw):
        records.append(result.to_record())
        if not isinstance(result, Found):
            print(f"error: {result.error}", file=sys.stderr)
            continue
        good, boxes = good + 1, boxes + len(result.detections)
        if not as_json:
            print(f"{result.path}: {_summary(result.detections)}")
    if as_json and as_lines:
        print(*map(json.dumps, records), sep="\n")
    elif as_json:
        print(json.dumps(records, indent=1))
    else:
        bad = f"; {len(records) - good} could not be read" if good < len(records) else ""
        pictures = f"{counted(good, 'picture')}, " if draw else ""
        print(f"{pictures}detections.json and detections.csv in {output}{bad}")
    if good and not boxes:
        print("nothing was found in any picture; a lower --score shows what is less sure", file=sys.stderr)
    return good


def _predict_video(
    finder: Finder,
    video: str,
    place: Path,
    batch_size: int,
    watch: Callable[[float], Watcher] | None,
    draw: bool,
    as_json: bool,
) -> int:
    """How many frames could be read. Ctrl-C is how a camera or stream ends, but cuts a file short."""
    from damoyolo.cli import by_option
    from damoyolo.errors import RunError, UserError, counted
    from damoyolo.prediction import Recording, VideoReader, predict_video

    try:
        reader = VideoReader(video, tell=lambda sentence: print(sentence, file=sys.stderr))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 0
    lines = place.with_suffix(".jsonl")
    recording = Recording(lines, place if draw else None, reader.rate, by_the_wall=reader.live)
    watcher = watch(reader.rate) if watch else None
    results = predict_video(finder, reader, recording, batch_size=batch_size, watcher=watcher)
    frames, ended, begin = 0, None, time.perf_counter()
    try:
        with _ended_by_signal(), _progress(reader.name, reader.total) as advance, closing(results):
            for result in results:
                frames += 1
                advance()
                if as_json:
                    print(json.dumps(result.to_record()), flush=True)
    except UserError as error:  # a line outside this video; another one may be larger
        print(f"error: {by_option(str(error), ['predict'])}", file=sys.stderr)
        return 0
    except (KeyboardInterrupt, RunError) as error:
        ended = error
        frames = recording.count_frames()
    if not as_json:
        rate = frames / (time.perf_counter() - begin)
        cut = isinstance(ended, KeyboardInterrupt) and reader.total
        shown = f"{frames} of {reader.total} frames, stopped" if cut else counted(frames, "frame")
        kept = f"{place} and {lines}" if draw else lines
        print(f"{reader.name}: {shown}, {rate:.1f} frames/s; {kept}")
        for outline in watcher.outlines() if watcher else ():
            print(f"{'zone' if outline.closed else 'line'}: {outline.text}")
    if isinstance(ended, RunError) or (ended and not reader.live):
        raise ended
    return frames


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[], None]]:
    """How far, and how many frames in a second, if there is a terminal; to be called at each frame."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed or 0:.1f} frames/s")

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), Rate(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=False,  # where JSON may go
        speed_estimate_period=3,
    ) as bar:
        task = bar.add_task(escape(name), total=total or None)
        yield lambda: bar.advance(task)


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """A request to terminate ends a video as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _summary(detections: Detections) -> str:
    """Such as `3 person, 1 dog`; the most frequent first."""
    counts = Counter(detections.names).most_common()
    return ", ".join(f"{count} {name}" for name, count in counts) or "nothing found"
