"""What others may rely on: the public names, cheap imports, and options that are explained."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import damoyolo as dy
from damoyolo.cli import VERBS, build_app
from damoyolo.zoo.weights import save_weights

MOST_NAMES = 16
TORCHLESS = (
    "damoyolo",
    "damoyolo.spec",
    "damoyolo.config",
    "damoyolo.detections",
    "damoyolo.data.resize",
    "damoyolo.export.runtime",
)


def test_the_public_names_are_few_sorted_and_have_homes() -> None:
    assert set(dy.__all__) == dy._HOMES.keys()
    assert len(dy.__all__) == len(set(dy.__all__)) <= MOST_NAMES
    assert dy.__all__ == sorted(dy.__all__)
    assert dir(dy) == dy.__all__


@pytest.mark.parametrize("name", dy.__all__)
def test_every_public_name_is_itself_and_explained(name: str) -> None:
    found = getattr(dy, name)
    assert found.__name__ == name
    assert inspect.getdoc(found)


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'damoyolo' has no attribute 'trian'"):
        _ = dy.trian


@pytest.mark.parametrize("module", TORCHLESS)
def test_a_deployment_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_the_types_of_a_deployment_come_without_torch() -> None:
    code = "import sys, damoyolo as dy; dy.ModelSpec, dy.TrainConfig, dy.Detections, dy.UserError"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize("size", ["Ns", "T"])
def test_detecting_starts_without_pytorch_s_compiler(size: str, tmp_path: Path) -> None:
    """To import it takes as long as PyTorch."""
    save_weights(dy.build(size), tmp_path / "x.safetensors")
    code = f"""
import sys, numpy, damoyolo as dy
model = dy.load({str(tmp_path / "x.safetensors")!r})
dy.predict(model, numpy.zeros((64, 64, 3), numpy.uint8), score=0.0)
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=90, check=False).returncode == 0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_function_of_that_name_whose_options_are_explained(verb: str) -> None:
    name = verb.replace("-", "_")
    function = getattr(importlib.import_module(f"damoyolo.cli.{name}"), name)
    assert inspect.getdoc(function)
    arguments = build_app()[verb].assemble_argument_collection(parse_docstring=True)
    unexplained = [argument.name for argument in arguments if not argument.parameter.help]
    assert not unexplained
