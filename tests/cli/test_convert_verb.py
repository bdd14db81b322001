from __future__ import annotations

from pathlib import Path

import pytest
import torch

from damoyolo.assemble import load
from damoyolo.cli import main
from damoyolo.nn.detector import build_detector
from damoyolo.spec import ModelCard
from damoyolo.zoo import read_spec
from damoyolo.zoo.reference import reference_keys


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What the reference would save for an Ns with three class channels."""
    torch.manual_seed(0)
    card = ModelCard(spec=read_spec("Ns"), class_names=("a", "b", "c"), image_size=(64, 64))
    detector = build_detector(card)
    names = reference_keys(detector)
    state = {names[key]: tensor for key, tensor in detector.state_dict().items()}
    bins = torch.arange(card.spec.head.bins, dtype=torch.float32)
    torch.save({"model": state | {"head.integral.project": bins}}, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


@pytest.mark.parametrize("as_file", [False, True])
def test_class_names_come_from_the_line_or_a_file(
    as_file: bool, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "red cell, white cell,platelet"
    if as_file:
        (tmp_path / "names.txt").write_text("red cell\nwhite cell\n\nplatelet\n")
        names = str(tmp_path / "names.txt")
    output = tmp_path / "ours.safetensors"
    assert main(["convert", str(checkpoint), str(output), "--class-names", names]) == 0
    assert capsys.readouterr().out == f"{output}: Ns, 3 classes\n"
    assert load(output).card.class_names == ("red cell", "white cell", "platelet")


def test_a_background_channel_can_be_cut_off(checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "ours.safetensors"
    assert main(["convert", str(checkpoint), str(output), "--legacy-background"]) == 0
    assert len(load(output).card.class_names) == 2


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("ours.pth", [], "give it a name ending in .safetensors"),
        ("ours.safetensors", ["--class-names", "a,b"], "has 2 names, but the head has 3 classes"),
        ("ours.safetensors", ["--class-names", "absent.txt"], "no file absent.txt"),
    ],
)
def test_a_wrong_request_writes_nothing(
    output: str,
    options: list[str],
    message: str,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["convert", str(checkpoint), str(tmp_path / output), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / output).exists()
