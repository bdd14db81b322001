"""Reading files of tensors from strangers: only tensors come out, no code is ever run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from damoyolo.errors import UserError

_WRAPPERS = ("model", "state_dict")
"""Keys under which checkpoints keep the state dict."""


def kind_of(path: str | Path) -> Literal["safetensors", "torch"]:
    """What a file is by its first bytes, whatever its name; `UserError` if it is neither."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if not head:
        raise UserError(f"{path}: is empty; fetch it again")
    if head[8:] == b"{":
        return "safetensors"
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return "torch"
    if path.suffix == ".onnx":
        raise UserError(f"{path}: is an ONNX graph; give the weights it was made from (.safetensors or .pth)")
    raise UserError(f"{path}: holds no weights; give a .safetensors or a .pth file")


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU, and the metadata."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: is truncated or damaged ({error}); fetch or write it again") from error


def read_torch(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a PyTorch checkpoint, on the CPU; wrapped (under `model` or `state_dict`) or bare.

    A file that needs more than plain tensors is refused: reading it would run code of its author's.
    """
    try:
        with Path(path).open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path}: {_why_unreadable(error)}") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    return _state_dict(content, path)


def _why_unreadable(error: Exception) -> str:
    if asked := re.search(r"GLOBAL (\S+)", str(error)):
        return (
            f"asks for '{asked[1]}' when read, which would execute code that came with it, so it is refused; "
            "if you trust its author, save its state dict alone with torch.save and give that"
        )
    return f"is truncated, damaged or no PyTorch checkpoint ({type(error).__name__}); fetch it again"


def _state_dict(content: Any, path: str | Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise UserError(
                f"{path}: entry {key!r} is a {type(value).__name__}, expected a state dict of named tensors, "
                f"bare or under {' or '.join(_WRAPPERS)}"
            )
    return dict(content)
