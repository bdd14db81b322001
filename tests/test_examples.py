"""The clients in `examples` find what our runtime finds."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

from conftest import ROOT
from damoyolo.assemble import export_model
from damoyolo.export.runtime import open_runtime
from exportable import lively, photograph, quick_exports  # noqa: F401 (a fixture)

SCORE, IOU = 0.3, 0.6
Row = tuple[str, float, list[float]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_model(lively(), tmp_path_factory.mktemp("client") / "model.onnx").file


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("client") / "image.png"
    cv2.imwrite(str(path), photograph(90, 150)[..., ::-1])
    return path


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ client, compiled."""
    if not shutil.which("g++") or not shutil.which("pkg-config"):
        pytest.skip("no g++ or no pkg-config")
    found = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "opencv4"], capture_output=True, text=True, check=False
    )
    openvino = Path(pytest.importorskip("openvino").__path__[0])
    libraries = sorted((openvino / "libs").glob("libopenvino.so*"))
    if found.returncode or not libraries or not (openvino / "include").is_dir():
        pytest.skip("no headers of OpenCV (libopencv-dev), or an openvino package without them")
    output = tmp_path_factory.mktemp("client") / "detect"
    where = [f"-I{openvino}/include", str(libraries[0]), f"-Wl,-rpath,{openvino}/libs"]
    source = str(ROOT / "examples" / "detect.cpp")
    subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Werror", source, "-o", str(output), *where, *found.stdout.split()],
        check=True,
    )
    return output


def rows(*command: str | Path) -> list[Row]:
    """Class, score and corners of each line printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(name, float(score), [float(side) for side in box]) for name, score, *box in lines]


def assert_same(found: list[Row], expected: list[Row]) -> None:
    assert [name for name, *_ in found] == [name for name, *_ in expected]
    np.testing.assert_allclose([row[1] for row in found], [row[1] for row in expected], rtol=0, atol=2e-4)
    np.testing.assert_allclose([row[2] for row in found], [row[2] for row in expected], rtol=0, atol=0.02)


def expected(model: Path, image: Path) -> tuple[list[Row], list[Row]]:
    """What our runtime finds, by number and by name of class."""
    found = open_runtime(model)(image, score=SCORE, nms_iou=IOU)
    assert len(found) > 5
    assert len(set(found.names)) > 1
    facts = list(zip(found.scores.tolist(), found.boxes.tolist(), strict=True))
    numbered = [(str(label), *each) for label, each in zip(found.labels, facts, strict=True)]
    return numbered, [(name, *each) for name, each in zip(found.names, facts, strict=True)]


def test_the_python_client_finds_what_the_runtime_finds(model: Path, image: Path) -> None:
    script = ROOT / "examples" / "detect.py"
    options = ("--score", str(SCORE), "--iou", str(IOU))
    assert_same(rows(sys.executable, script, model, image, *options), expected(model, image)[1])


@pytest.fixture(scope="module")
def wrong(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Half a file, one for two images, one of something else."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "half.onnx").write_bytes(model.read_bytes()[:5000])
    real = onnx.TensorProto.FLOAT
    for name, given, scores in (("pair", [2, 3, 64, 96], [2, 126, 3]), ("other", [1, 3, 64, 96], [1, 1000])):
        values = (("images", given), ("output", scores), ("boxes", [*scores[:2], 4]))
        images, *outputs = (onnx.helper.make_tensor_value_info(each, real, shape) for each, shape in values)
        zeros = [
            onnx.numpy_helper.from_array(np.zeros(shape, np.float32), f"{each}_0")
            for each, shape in values[1:]
        ]
        nodes = [onnx.helper.make_node("Identity", [f"{each}_0"], [each]) for each, _ in values[1:]]
        graph = onnx.helper.make_graph(nodes, name, [images], outputs, zeros)
        versions = {"opset_imports": [onnx.helper.make_opsetid("", 18)], "ir_version": 10}
        onnx.save(onnx.helper.make_model(graph, **versions), folder / f"{name}.onnx")
    return sorted(folder.iterdir())


def assert_refused(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2), done.stderr
    assert "onnx: " in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_the_python_client_refuses_other_files_in_a_sentence(wrong: list[Path], image: Path) -> None:
    assert len(wrong) == 3
    for path in wrong:
        assert_refused(sys.executable, ROOT / "examples" / "detect.py", path, image)


def test_the_python_client_finds_nothing_where_there_is_nothing(model: Path, image: Path) -> None:
    assert rows(sys.executable, ROOT / "examples" / "detect.py", model, image, "--score", "1") == []


@pytest.mark.slow  # compiles for ten seconds
def test_the_cpp_client_refuses_other_files_in_a_sentence(
    client: Path, wrong: list[Path], image: Path
) -> None:
    for path in wrong:
        assert_refused(client, path, image)


@pytest.mark.slow  # compiles for ten seconds
def test_the_cpp_client_finds_what_the_runtime_finds(client: Path, model: Path, image: Path) -> None:
    assert_same(rows(client, model, image, str(SCORE), str(IOU)), expected(model, image)[0])
