"""The numbers that options take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter, Token
from cyclopts.validators import Number


def _whole(_: type, tokens: Sequence[Token]) -> int:
    """Refuses 8.5, which cyclopts would round."""
    return int(tokens[0].value)


Whole = Annotated[int, Parameter(converter=_whole)]
Seed = Annotated[Whole, Parameter(validator=Number(gte=0))]
Count = Annotated[Whole, Parameter(validator=Number(gte=1))]
Port = Annotated[Whole, Parameter(validator=Number(gte=0, lte=65535))]
Share = Annotated[float, Parameter(validator=Number(gte=0, lte=1))]
