"""Where tests find golden numbers and real photographs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
GOLDEN = Path(os.environ.get("DAMOYOLO_GOLDEN", ROOT / "tests" / "golden"))
DATA = Path(os.environ.get("DAMOYOLO_DATA", ROOT.parent / "shared" / "data"))

torch.set_num_threads(1)  # the fast tests run in parallel processes


def golden(name: str) -> Path:
    """A golden file; the test is skipped, with the reason, where a folder of goldens lacks it."""
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"no {name} in {GOLDEN}")
    return path


def shared_data(name: str) -> Path:
    """A folder of real data outside the repository; the test is skipped, with the reason, without it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in {DATA}; set DAMOYOLO_DATA")
    return path
