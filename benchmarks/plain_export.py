"""What an exporter makes of the network as it is, to compare our graphs with; how files are timed."""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import partial

import numpy as np
import torch
from torch import nn

from damoyolo.assemble import build
from damoyolo.export.bench import Timing, in_turns, time_block
from damoyolo.nn.blocks import SPP
from damoyolo.nn.detector import as_if_trained, fuse

ENGINES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO fp32",
    "openvino-bf16": "OpenVINO bf16",
}


class SideBySidePools(nn.Module):
    """SPP as the reference computes it: windows of 5, 9 and 13, each from the map itself."""

    def __init__(self, spp):
        super().__init__()
        self.reduce, self.expand = spp.reduce, spp.expand
        self.pools = nn.ModuleList(nn.MaxPool2d(size, stride=1, padding=size // 2) for size in (5, 9, 13))

    def forward(self, x):
        x = self.reduce(x)
        return self.expand(torch.cat([x, *(pool(x) for pool in self.pools)], dim=1))


class Plain(nn.Module):
    """Scores and boxes of all points, computed as the detector is written, branches of RepConv merged."""

    def __init__(self, detector):
        super().__init__()
        self.detector = fuse(detector)
        unchain_pools(self.detector)

    def forward(self, images):
        predictions = self.detector(images)
        return predictions.scores, predictions.boxes


def unchain_pools(module):
    for name, part in module.named_children():
        if isinstance(part, SPP):
            setattr(module, name, SideBySidePools(part))
        else:
            unchain_pools(part)


def trained_like(size):
    """A detector with random weights whose batch norms are as if trained."""
    torch.manual_seed(0)
    return as_if_trained(build(size))


def export_plainly(module, image_size, path):
    """ONNX with nothing but what PyTorch's exporter does by itself."""
    images = torch.zeros(1, 3, *image_size)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        names = {"input_names": ["images"], "output_names": ["output", "boxes"]}
        torch.onnx.export(
            module.eval(), (images,), path, dynamo=True, opset_version=18, verbose=False, **names
        )


def opened(path, engine, threads):
    """A function that runs any ONNX file once, on grey noise."""
    if engine == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        return partial(session.run, None, {given.name: _noise(given.shape)})
    import openvino

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if engine == "openvino-bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    model = openvino.compile_model(path, "CPU", settings)
    shape = [size.get_length() if size.is_static else None for size in model.input(0).partial_shape]
    return partial(model.create_infer_request().infer, [_noise(shape)])


def measure(files, engine, threads, calls):
    """`Timing` of each of the named files, in one run."""
    blocks = {name: partial(time_block, opened(path, engine, threads)) for name, path in files.items()}
    for block in blocks.values():
        block(2)
    return {name: Timing.of(each) for name, each in in_turns(blocks, calls).items()}


def _noise(shape):
    sizes = [size if isinstance(size, int) else 1 for size in shape]
    return np.random.default_rng(0).uniform(0, 255, sizes).astype(np.float32)
