"""Where configurations are read and objects are built: the library behind the command line."""

from damoyolo.assemble.data_sets import as_coco, as_yolo, convert_data
from damoyolo.assemble.demo import demo
from damoyolo.assemble.diagnosis import Diagnosis, doctor, fix_data
from damoyolo.assemble.inference import (
    choose_device,
    convert,
    evaluate,
    load,
    open_finder,
    prepare,
    usual_lanes,
)
from damoyolo.assemble.inspection import inspect_assignment
from damoyolo.assemble.models import build
from damoyolo.assemble.report import write_report
from damoyolo.assemble.searching import search_backbone
from damoyolo.assemble.settings import CONFIG_FILE, read_config, resolve
from damoyolo.assemble.shipping import Exported, export_model, verify
from damoyolo.assemble.training import TrainResult, train

__all__ = [
    "CONFIG_FILE",
    "Diagnosis",
    "Exported",
    "TrainResult",
    "as_coco",
    "as_yolo",
    "build",
    "choose_device",
    "convert",
    "convert_data",
    "demo",
    "doctor",
    "evaluate",
    "export_model",
    "fix_data",
    "inspect_assignment",
    "load",
    "open_finder",
    "prepare",
    "read_config",
    "resolve",
    "search_backbone",
    "train",
    "usual_lanes",
    "verify",
    "write_report",
]
