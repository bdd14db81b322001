"""The API against its own description: Schemathesis sends what that allows, and what it forbids."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.schemas import APIOperation, BaseSchema
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from live_server import encoded

UNHURRIED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
OPERATIONS = ["POST /predict", "GET /model", "GET /health", "GET /metrics"]


@pytest.fixture(scope="module")
def schema(address: str) -> BaseSchema:
    return schemathesis.openapi.from_url(f"{address}openapi.json")


def operation(schema: BaseSchema, label: str) -> APIOperation[Any, Any, Any, Any]:
    verb, path = label.split()
    found: APIOperation[Any, Any, Any, Any] = schema[path][verb]
    return found


def test_all_of_the_api_is_tried(schema: BaseSchema) -> None:
    assert [result.ok().label for result in schema.get_all_operations()] == OPERATIONS


@pytest.mark.parametrize(
    ("label", "mode"),
    [*((label, GenerationMode.POSITIVE) for label in OPERATIONS), (OPERATIONS[0], GenerationMode.NEGATIVE)],
)
def test_the_api_does_what_it_says(schema: BaseSchema, label: str, mode: GenerationMode) -> None:
    known = operation(schema, label)

    @UNHURRIED
    @given(case=known.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        # that random bytes are no image no description can say
        case.call_and_validate(excluded_checks=[positive_data_acceptance], timeout=120)

    send()


def test_real_images_are_accepted_with_every_option_that_is_allowed(schema: BaseSchema) -> None:
    known, images = (
        operation(schema, OPERATIONS[0]),
        [encoded(suffix=suffix) for suffix in (".png", ".jpg", ".webp")],
    )

    @UNHURRIED
    @given(case=known.as_strategy(generation_mode=GenerationMode.POSITIVE), image=st.sampled_from(images))
    def send(case: schemathesis.Case, image: bytes) -> None:
        case.body = image
        # bytes put in afterwards count as none that the description allows
        answer = case.call_and_validate(excluded_checks=[negative_data_rejection], timeout=120)
        assert answer.status_code == 200

    send()
