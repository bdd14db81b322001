"""The API against what its own description allows, and what it does not."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.schemas import BaseSchema

EXAMPLES = 20
"""Of each operation."""


@pytest.fixture(scope="module")
def api(address: str) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{address}openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
def test_the_api_does_what_it_says(case: schemathesis.Case) -> None:
    case.call_and_validate(timeout=20)
