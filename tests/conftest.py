"""Where tests find golden numbers and real photographs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

if TYPE_CHECKING:
    from damoyolo.assemble.serving import ServedModel

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "tests" / "golden"
GOLDEN = Path(os.environ.get("DAMOYOLO_GOLDEN", SHIPPED))
DATA = Path(os.environ.get("DAMOYOLO_DATA", ROOT.parent / "shared" / "data"))

settings.register_profile("unhurried", deadline=None)  # the machine is shared
settings.load_profile("unhurried")
torch.set_num_threads(1)  # the fast tests run in parallel processes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests first: at the end, quick ones keep all workers busy."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def golden(name: str) -> Path:
    """A golden file: that of the golden folder or, where it has none, the one that the project ships."""
    path = GOLDEN / name
    return path if path.exists() else SHIPPED / name


def goldens(pattern: str) -> list[Path]:
    """The golden files of a kind: the golden folder's or, where it has none, those the project ships."""
    return sorted(GOLDEN.glob(pattern)) or sorted(SHIPPED.glob(pattern))


def shared_data(name: str) -> Path:
    """A folder of real data outside the repository; the test is skipped, with the reason, without it."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} in {DATA}; set DAMOYOLO_DATA")
    return path


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """A tiny model as the web app takes it."""
    from live_server import tiny_model

    return tiny_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def address(served: ServedModel) -> Iterator[str]:
    """Of a server of that model with the usual limits."""
    from live_server import running

    with running(served) as where:
        yield where
