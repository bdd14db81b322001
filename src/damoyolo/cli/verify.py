"""`damoyolo verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def verify(
    file: Path,
    /,
    *,
    weights: str | None = None,
    data: Path | None = None,
    split: str = "val",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Prove again that an exported file computes what its model does, on this machine.

    One of INT8 must still give what it gave when it was exported. Exit code 0: it does; 1: it does not; 2:
    this could not be found out.

    Parameters
    ----------
    file
        What `damoyolo export` wrote, with its FILE.proof.json beside it.
    weights
        The model it came from (.safetensors, .pth); without it the numbers kept in the proof are compared.
    data
        A data set to compare the AP on, too; needs --weights. One of INT8 may lose what it was exported with.
    split
        Which annotations of the data set.
    as_json
        Print the result as JSON and nothing else.
    """
    from damoyolo import assemble

    model = assemble.load(weights) if weights else None
    result = assemble.verify(file, model, data, split)
    if as_json:
        print(json.dumps(result.model_dump(mode="json"), indent=1))
    else:
        print(f"{file}: {result.verdict(weights or 'the model in its proof')}")
        for line in result.lines():
            print(f"  {line}")
    return 0 if result.passed else 1
