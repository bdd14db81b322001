"""What ExecuTorch makes of a detector, run by its own runtime.

Its compiler is slow: here is one file with all that is special; the plain one is made by what its page tells
to type (tests/contracts/test_docs.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from damoyolo.assemble import Exported, export_model, verify
from damoyolo.errors import UserError
from damoyolo.export.runtime import open_runtime
from damoyolo.export.sessions import open_session
from damoyolo.prediction import detect
from exportable import lively, photograph, quick_exports  # noqa: F401 (a fixture)

pytest.importorskip("executorch")
pytestmark = pytest.mark.slow
DETECTOR = lively(resize="letterbox")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The best 300 of two images of bytes, which are boxed in."""
    path = tmp_path_factory.mktemp("executorch") / "x.pte"
    return export_model(DETECTOR, path, head="topk", preprocess="bgr", batch=2, max_detections=300)


def test_the_file_is_equal_to_the_model(exported: Exported) -> None:
    assert exported.proof.passed
    assert exported.proof.comparison.score < 1e-5
    assert exported.proof.comparison.box_px < 5e-3
    assert exported.proof.comparison.agree > 20
    assert verify(exported.file).passed


def test_a_photograph_of_any_size_gives_what_torch_detects(exported: Exported) -> None:
    runtime = open_runtime(exported.file)
    (expected,) = detect(DETECTOR, [photograph()], score=0.3)
    found = runtime(photograph(), score=0.3)
    assert runtime.card == exported.card
    assert len(expected) > 3
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    apart = np.abs(found.boxes[:, None] - expected.boxes).max(axis=2)  # scores near 1 are in any order
    apart[found.labels[:, None] != expected.labels] = np.inf
    assert max(apart.min(axis=0).max(), apart.min(axis=1).max()) < 1e-2


def test_half_a_file_is_refused_in_a_sentence(exported: Exported, tmp_path: Path) -> None:
    content = exported.file.read_bytes()
    (tmp_path / "x.pte").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"x\.pte: ExecuTorch cannot load it .*; export it again"):
        open_session(tmp_path / "x.pte")
