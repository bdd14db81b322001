"""From images and video, in files or as they come, to the things found in them."""

from damoyolo.prediction.counting import read_line, read_zone
from damoyolo.prediction.detection import Finder, Image, detect, predict
from damoyolo.prediction.flip import flipped
from damoyolo.prediction.lanes import in_lanes
from damoyolo.prediction.reader import Frame, VideoReader
from damoyolo.prediction.recording import Recording
from damoyolo.prediction.sources import Media, find_images, find_media, video_places
from damoyolo.prediction.stills import Broken, Found, predict_files, predict_into
from damoyolo.prediction.tiles import OVERLAP, tiled
from damoyolo.prediction.tracking import LOW_SCORE, Tracker
from damoyolo.prediction.video import FoundFrame, Watcher, predict_video

__all__ = [
    "LOW_SCORE",
    "OVERLAP",
    "Broken",
    "Finder",
    "Found",
    "FoundFrame",
    "Frame",
    "Image",
    "Media",
    "Recording",
    "Tracker",
    "VideoReader",
    "Watcher",
    "detect",
    "find_images",
    "find_media",
    "flipped",
    "in_lanes",
    "predict",
    "predict_files",
    "predict_into",
    "predict_video",
    "read_line",
    "read_zone",
    "tiled",
    "video_places",
]
