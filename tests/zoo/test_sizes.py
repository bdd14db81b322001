from __future__ import annotations

import subprocess
import sys

import pytest

from damoyolo.errors import UserError
from damoyolo.zoo import SIZES, coco_class_names, read_spec


@pytest.mark.parametrize("size", SIZES)
def test_every_size_has_a_spec_of_its_name_whatever_the_case(size: str) -> None:
    assert read_spec(size).name == size
    assert read_spec(size.upper()) == read_spec(size.lower()) == read_spec(size)


def test_an_unknown_size_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"'Nx' is no model size; did you mean 'N[sml]'\?"):
        read_spec("Nx")


def test_a_hopeless_size_is_answered_with_all() -> None:
    with pytest.raises(UserError, match="known sizes: Ns Nm Nl T S M L"):
        read_spec("yolov8")


def test_coco_has_its_eighty_classes_in_order() -> None:
    names = coco_class_names()
    assert len(names) == len(set(names)) == 80
    assert (names[0], names[24], names[56], names[79]) == ("person", "backpack", "chair", "toothbrush")


def test_importing_the_zoo_imports_no_torch() -> None:
    code = "import damoyolo.zoo, sys; damoyolo.zoo.read_spec('S'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
