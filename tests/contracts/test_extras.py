"""What needs no extra works without any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXTRAS = (
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "ncnn",
    "coremltools",
    "executorch",
    "ray",
    "scipy",
    "fastapi",
    "prometheus_client",
    "starlette",
    "uvicorn",
    "huggingface_hub",
)
PROGRAM = f"""
import sys
from pathlib import Path
for name in {EXTRAS}:
    sys.modules[name] = None
import damoyolo, damoyolo.assemble, damoyolo.cli
from damoyolo.cli import VERBS, main
for verb in VERBS:
    if verb not in ("export", "verify", "bench", "profile"):
        main([verb, "--help"])
assert main(["search", "--max-layers", "19", "--candidates", "50", "--output", sys.argv[1]]) == 0
"""


def test_the_package_is_imported_and_searches_without_extras(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "found")], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr.count("Traceback")) == (0, 0), run.stderr[-2000:]
