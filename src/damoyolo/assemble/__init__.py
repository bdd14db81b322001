"""Where configurations are read and objects are built: the library behind the command line."""

from damoyolo.assemble.demo import demo
from damoyolo.assemble.inference import choose_device, convert, evaluate, load, open_finder, prepare
from damoyolo.assemble.inspection import inspect_assignment
from damoyolo.assemble.models import build
from damoyolo.assemble.report import write_report
from damoyolo.assemble.settings import CONFIG_FILE, read_config, resolve
from damoyolo.assemble.shipping import Exported, export_model, verify
from damoyolo.assemble.training import TrainResult, train

__all__ = [
    "CONFIG_FILE",
    "Exported",
    "TrainResult",
    "build",
    "choose_device",
    "convert",
    "demo",
    "evaluate",
    "export_model",
    "inspect_assignment",
    "load",
    "open_finder",
    "prepare",
    "read_config",
    "resolve",
    "train",
    "verify",
    "write_report",
]
