from __future__ import annotations

from collections.abc import Iterator

import pytest

from damoyolo.assemble.serving import ServedModel
from live_server import running, tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return tiny_model(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def address(model: ServedModel) -> Iterator[str]:
    """Of a server with the usual limits."""
    with running(model) as where:
        yield where
