"""Where configurations are read and objects are built: the library behind the command line."""

from damoyolo.assemble.demo import demo
from damoyolo.assemble.inference import choose_device, convert, evaluate, load, prepare
from damoyolo.assemble.training import TrainResult, build, read_config, resolve, train

__all__ = [
    "TrainResult",
    "build",
    "choose_device",
    "convert",
    "demo",
    "evaluate",
    "load",
    "prepare",
    "read_config",
    "resolve",
    "train",
]
