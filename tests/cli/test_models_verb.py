from __future__ import annotations

import json

import pytest

from damoyolo.cli import main
from damoyolo.zoo import SIZES, read_spec


def test_the_json_holds_the_published_facts_of_every_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in facts] == list(SIZES)
    for each in facts:
        spec = read_spec(each["name"])
        assert spec.published is not None
        assert each.items() >= spec.published.model_dump().items()
        assert (each["kind"], each["image_size"]) == (spec.structure.kind, spec.image_size)


def test_the_table_fits_a_terminal_and_says_where_the_numbers_come_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "Latency of Ns Nm Nl: " in shown
    assert "Source of " in shown
    (row,) = (line for line in shown.splitlines() if line.startswith("│ S "))
    assert "46.0" in row
    assert "47.7" in row
