"""`damoyolo train`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from damoyolo.zoo.recipes import Settings


class Flags(Settings):
    """The settings as options; DATA is an argument."""

    data: Annotated[Path | None, Parameter(parse=False)] = None


def train(
    data: Path | None = None,
    /,
    *,
    recipe: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    settings: Annotated[
        Flags | None, Parameter(name="*", show_default=False, negative_iterable=(), consume_multiple=True)
    ] = None,
) -> None:
    """Train a detector on DATA.

    Parameters
    ----------
    data
        A folder or YAML file of a data set: COCO JSON, YOLO text or Pascal VOC XML, found by looking.
    recipe
        quick (small data, from scratch), finetune (from weights), coco (as published), or a YAML file;
        by default finetune where --model is a weights file, and quick otherwise.
    resume
        Go on with the interrupted run in --output, which ends as it would have; where none began, begin.
    settings
        Everything else; what is not given is set by the recipe.
    """
    from damoyolo import assemble

    given: dict[str, Any] = settings.model_dump(exclude_unset=True) if settings else {}
    if data is not None:
        given["data"] = data
    folder = given.get("output", Settings().output)
    began = (folder / assemble.CONFIG_FILE).exists()
    if resume and recipe is None and (began or "data" not in given):
        config = assemble.read_config(folder, given)
    else:
        config = assemble.resolve(recipe, given)
    try:
        result = assemble.train(config, resume=resume)
    except KeyboardInterrupt:
        print(f"stopped; go on with: damoyolo train --output {config.output} --resume", file=sys.stderr)
        raise
    if os.environ.get("RANK", "0") != "0":  # under torchrun the first process tells
        return
    chosen = "" if result.best_by == "ap" else f" by {result.best_by} {result.value:.3f}"
    print(f"best AP {result.ap:.3f}{chosen}: {result.best}")
    if not resume:
        _advise(result.ap)


def _advise(ap: float) -> None:
    """What to do where the number is none, or is shown as 0.000."""
    if ap < 0:
        print("there is no AP, as val has no boxes; label its images", file=sys.stderr)
    elif ap < 0.0005:
        print("nothing was learnt yet; more --epochs may help, or weights to begin from", file=sys.stderr)
