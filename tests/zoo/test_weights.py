from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import reference_files
from damoyolo.errors import RunError, UserError
from damoyolo.nn.detector import Detector, build_detector, fuse
from damoyolo.spec import ModelCard, ModelSpec
from damoyolo.zoo import coco_class_names
from damoyolo.zoo.weights import load_any, load_reference, load_weights, save_weights

TINY = ModelSpec.model_validate(
    {
        "name": "tiny",
        "structure": {
            "kind": "res",
            "stem": {"type": "conv", "out": 8},
            "blocks": [{"type": "k1kx", "out": 8, "bottleneck": 8, "stride": 2, "layers": 2}] * 4,
            "activation": "relu",
            "rep": True,
        },
        "neck": {"out": [8, 8, 8], "depth": 1, "activation": "silu"},
        "head": {"bins": 4, "kernel": 1},
        "image_size": 64,
    }
)
IMAGES = torch.linspace(0, 255, 3 * 64 * 64).view(1, 3, 64, 64)


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    card = ModelCard(
        spec=TINY,
        class_names=("Löwe", "獅子"),
        image_size=(64, 96),
        resize="letterbox",
        lineage={"source": "trained", "epochs": 3, "ap": 0.125, "data": {"name": "zoo"}},
    )
    return build_detector(card).eval()


@pytest.fixture
def written(detector: Detector, tmp_path: Path) -> Path:
    save_weights(detector, tmp_path / "ours.safetensors")
    return tmp_path / "ours.safetensors"


def rewritten(path: Path, description: str | None, **changes: torch.Tensor | None) -> Path:
    """The same tensors with another description, and some tensors replaced or, with None, dropped."""
    tensors: dict[str, Any] = {**load_file(path), **changes}
    metadata = {} if description is None else {"damoyolo": description}
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path, metadata)
    return path


def description_in(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return str(file.metadata()["damoyolo"])


def test_one_file_keeps_the_whole_detector(detector: Detector, written: Path) -> None:
    loaded = load_weights(written)
    assert loaded.card == detector.card
    assert not loaded.training
    assert torch.equal(loaded(IMAGES).class_logits, detector(IMAGES).class_logits)
    assert torch.equal(loaded(IMAGES).side_logits, detector(IMAGES).side_logits)
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_a_fused_detector_comes_back_fused(detector: Detector, tmp_path: Path) -> None:
    fused = fuse(detector)
    save_weights(fused, tmp_path / "fused.safetensors")
    loaded = load_weights(tmp_path / "fused.safetensors")
    assert loaded.state_dict().keys() == fused.state_dict().keys() != detector.state_dict().keys()
    assert torch.equal(loaded(IMAGES).class_logits, fused(IMAGES).class_logits)


def test_equal_detectors_give_equal_bytes(detector: Detector, written: Path, tmp_path: Path) -> None:
    save_weights(load_weights(written).to(memory_format=torch.channels_last), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == written.read_bytes()


def test_loading_draws_nothing_at_random(written: Path) -> None:
    before = torch.get_rng_state()
    load_weights(written)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    detector: Detector, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written.read_bytes()

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with torch.no_grad():
        detector.head.scales[0].zero_()  # type: ignore[index, union-attr]
    with pytest.raises(RunError, match=r"ours\.safetensors: cannot be written \(No space left on device\)"):
        save_weights(detector, written)
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<html>404</html>", "holds no weights; give a .safetensors"),
        (b'{"a": [1, 2]}', "holds no weights"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{", "is truncated or damaged"),
        (b"PK\x03\x04 but no archive", "is truncated, damaged or no PyTorch checkpoint"),
        (b"\x80\x02 but no pickle", "is truncated, damaged or no PyTorch checkpoint"),
    ],
)
def test_a_file_of_something_else_is_named_and_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"x\.pth: {message}"):
        load_any(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.pth: cannot be read \(No such file"):
        load_any(tmp_path / "gone.pth")
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory"):
        load_any(tmp_path)


def test_an_onnx_graph_is_told_from_weights(tmp_path: Path) -> None:
    (tmp_path / "s.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    with pytest.raises(UserError, match=r"s\.onnx: is an ONNX graph; give the weights"):
        load_any(tmp_path / "s.onnx")


@pytest.mark.parametrize("kept", [0.2, 0.99])
def test_truncated_weights_are_refused(written: Path, kept: float) -> None:
    content = written.read_bytes()
    written.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r"ours\.safetensors: is truncated or damaged"):
        load_any(written)


def test_safetensors_of_someone_else_come_with_the_way_to_convert(written: Path) -> None:
    with pytest.raises(
        UserError, match=r"was not written by damoyolo .*`damoyolo convert .*ours\.safetensors"
    ):
        load_weights(rewritten(written, None))


def test_weights_of_a_newer_format_ask_for_an_update(written: Path) -> None:
    description = json.loads(description_in(written)) | {"format": 2}
    with pytest.raises(UserError, match=r"has format 2, this damoyolo reads 1; update"):
        load_weights(rewritten(written, json.dumps(description)))


def test_a_damaged_description_is_named(written: Path) -> None:
    with pytest.raises(UserError, match=r"ours\.safetensors: metadata 'damoyolo' is not JSON"):
        load_weights(rewritten(written, "{"))
    with pytest.raises(UserError, match=r"ours\.safetensors: card: Field required"):
        load_weights(rewritten(written, '{"format": 1, "fused": false}'))


def test_tensors_that_do_not_fit_the_description_are_listed(written: Path) -> None:
    changes = {"head.scales.0": None, "head.scales.1": torch.zeros(2), "more": torch.zeros(1)}
    with pytest.raises(UserError) as error:
        load_weights(rewritten(written, description_in(written), **changes))
    for part in (r"1 missing (head.scales.0)", "1 unexpected (more)", "head.scales.1 [2] instead of []"):
        assert part in str(error.value)


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reference_files.checkpoint(
        tmp_path_factory.mktemp("reference") / "nano.pth", epoch=300, optimizer={}
    )


def test_a_checkpoint_of_the_reference_becomes_a_detector_that_knows_its_origin(nano: Path) -> None:
    detector = load_reference(nano)
    assert detector.card.spec.name == "Ns"
    assert detector.card.class_names == coco_class_names()
    assert (detector.card.image_size, detector.card.resize) == ((416, 416), "stretch")
    digest = hashlib.sha256(nano.read_bytes()).hexdigest()
    assert detector.card.lineage == {"source": "converted", "file": "nano.pth", "sha256": digest}
    expected = reference_files.state("Ns")["head.scales.2.scale"]
    assert torch.equal(detector.state_dict()["head.scales.2"], expected)


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
@pytest.mark.parametrize("zipped", [True, False])
def test_wrapped_and_bare_dicts_of_new_and_old_torch_are_read(
    tmp_path: Path, wrapper: str | None, zipped: bool
) -> None:
    state = {key: tensor.clone().half() for key, tensor in reference_files.state("Ns", channels=3).items()}
    path = tmp_path / "x.pth"
    content = state if wrapper is None else {wrapper: state}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    detector = load_reference(path)
    assert detector.card.class_names == ("class0", "class1", "class2")
    assert detector.state_dict()["head.classify.0.weight"].dtype == torch.float32


def test_tensors_of_the_reference_are_read_from_safetensors_too(tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in reference_files.state("Ns").items()}
    save_file(state, tmp_path / "x.safetensors")
    assert load_reference(tmp_path / "x.safetensors").card.spec.name == "Ns"


def test_a_file_of_ours_needs_no_conversion(written: Path) -> None:
    with pytest.raises(UserError, match="is a file of damoyolo's own already"):
        load_reference(written)


def test_class_names_are_given_and_must_be_as_many_as_the_classes(tmp_path: Path) -> None:
    state = {key: tensor.clone() for key, tensor in reference_files.state("Ns", channels=3).items()}
    torch.save(state, tmp_path / "x.pth")
    assert load_reference(tmp_path / "x.pth", ["a", "b", "c"]).card.class_names == ("a", "b", "c")
    legacy = load_reference(tmp_path / "x.pth", ["a", "b"], legacy_background=True)
    assert legacy.card.class_names == ("a", "b")
    with pytest.raises(UserError, match=r"if the last is background, say so .*--legacy-background\)"):
        load_reference(tmp_path / "x.pth", ["a", "b"])
    with pytest.raises(UserError, match=r"x\.pth: class_names repeats 'b'"):
        load_reference(tmp_path / "x.pth", ["a", "b", "b"])
    with pytest.raises(UserError, match=r"x\.pth: class_names has 7 names, but the head has 3 classes$"):
        load_reference(tmp_path / "x.pth", list("abcdefg"))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_execute_code_is_refused_unexecuted(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "x.pth", tmp_path / "trace"
    torch.save(
        {"model": {}, "extra": reference_files.Malice(trace)}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(
        UserError, match=r"x\.pth: asks for 'posix\.mkdir' when read, which would execute code"
    ):
        load_any(path)
    assert not trace.exists()


def test_a_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Conv2d(1, 1, 1)}, tmp_path / "x.pth")
    with pytest.raises(
        UserError, match=r"asks for 'torch\.nn\.modules\.conv\.Conv2d'.*save its state dict alone"
    ):
        load_any(tmp_path / "x.pth")


@pytest.mark.parametrize("kept", [0.3, 0.999])
def test_a_truncated_checkpoint_is_refused(nano: Path, tmp_path: Path, kept: float) -> None:
    content = nano.read_bytes()
    (tmp_path / "x.pth").write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=r"x\.pth: is truncated, damaged or no PyTorch checkpoint"):
        load_any(tmp_path / "x.pth")


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"x\.pth: is truncated, damaged or no PyTorch checkpoint"):
        load_any(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(3), "holds a Tensor, expected a state dict"),
        ([1, 2], "holds a list, expected a state dict"),
        ({"epoch": 3, "weights": {}}, "entry 'epoch' is a int, expected a state dict of named tensors"),
        ({"model": {"a": [1.0]}}, "entry 'a' is a list"),
        ({"model": {}}, "holds 0 tensors"),
    ],
)
def test_a_checkpoint_without_a_state_dict_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match=rf"x\.pth: {message}"):
        load_any(tmp_path / "x.pth")


def test_content_decides_not_the_name(written: Path, nano: Path, tmp_path: Path) -> None:
    (tmp_path / "ours.pth").write_bytes(written.read_bytes())
    (tmp_path / "theirs.safetensors").write_bytes(nano.read_bytes())
    assert load_any(tmp_path / "ours.pth").card.spec.name == "tiny"
    assert load_any(tmp_path / "theirs.safetensors").card.spec.name == "Ns"
    with pytest.raises(UserError, match=r"is a PyTorch checkpoint; convert it with `damoyolo convert"):
        load_weights(tmp_path / "theirs.safetensors")
