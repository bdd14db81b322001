"""From a detector to files that run without PyTorch, and the proof that they are equal."""

import sys

# OpenVINO's converter tells its makers over the network that it is used; without this package it is silent.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
