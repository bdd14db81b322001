"""Writing ncnn's two files, .ncnn.param and .ncnn.bin, with pnnx."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import torch
from torch import nn

from damoyolo.errors import RunError
from damoyolo.export.card import INPUT, ExportCard
from damoyolo.export.extras import need, quietly
from damoyolo.export.sessions import card_path
from damoyolo.files import write_atomically


def save_ncnn(graph: nn.Module, card: ExportCard, path: Path) -> None:
    """Write `path` (.ncnn.param), the .ncnn.bin and the card beside it. The .ncnn.param comes last.

    Args:
        graph: in float32; pnnx rounds the weights where the card says fp16.
        card: for one image of a fixed size.
        path: of the structure, which is text.

    Raises:
        RunError: if pnnx cannot convert the graph.
    """
    pnnx = need("pnnx", "ncnn")
    shape = ",".join(str(size) for size in card.input_shape)
    with tempfile.TemporaryDirectory() as folder:
        with quietly(), torch.no_grad():  # pnnx takes nothing newer than a trace
            images = torch.zeros(card.input_shape)
            program = torch.export.export(graph, (images,)).module()
            torch.jit.trace(program, images, check_trace=False).save(f"{folder}/model.pt")
        command = [
            pnnx.EXEC_PATH,
            "model.pt",
            f"inputshape=[{shape}]",
            f"fp16={int(card.precision == 'fp16')}",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        param, weights = (Path(folder) / f"model.ncnn.{suffix}" for suffix in ("param", "bin"))
        if done.returncode or not (param.exists() and weights.exists()):
            told = (done.stderr.strip() or "nothing was written").splitlines()[-1]
            raise RunError(
                f"{path}: pnnx failed, with code {done.returncode} ({told}); try another version of it"
            )
        write_atomically(path.with_suffix(".bin"), weights.read_bytes())
        write_atomically(card_path(path), card.to_json().encode())
        write_atomically(path, _named(param.read_text(), card).encode())


def _named(param: str, card: ExportCard) -> str:
    """The structure with the card's names for what pnnx calls in0, out0, out1."""
    names = {"in0": INPUT, **{f"out{number}": name for number, name in enumerate(card.outputs)}}
    lines = (" ".join(names.get(word, word) for word in line.split()) for line in param.splitlines())
    return "\n".join(lines) + "\n"
