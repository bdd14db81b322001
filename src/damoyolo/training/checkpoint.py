"""The state of a run on disk: enough to go on as if nothing had happened."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from damoyolo.errors import UserError
from damoyolo.files import write_atomically

STATE_FILE = "state.pt"
"""Both sets of weights, optimizer, random numbers and position of the run in a folder."""


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a run; the file is there whole or as it was before."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_atomically(folder / STATE_FILE, buffer.getvalue())


def load_state(folder: Path) -> dict[str, Any] | None:
    """What `save_state` wrote, or None where a run stopped before its first checkpoint."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(
            f"{path}: is damaged or no training state ({type(error).__name__}); "
            "remove it to begin the run again"
        ) from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: holds a {type(state).__name__}; remove it to begin the run again")
    return state


def remove_unfinished(folder: Path) -> None:
    """Remove what a run that was killed had begun to write."""
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)
