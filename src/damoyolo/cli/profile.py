"""`damoyolo profile`."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from damoyolo.config import ProfileConfig

if TYPE_CHECKING:
    from damoyolo.search.profile import Profile


def profile(
    *,
    settings: Annotated[ProfileConfig | None, Parameter(name="*", negative_bool=())] = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Measure how long operators take on a device, so that `damoyolo search` can search for it.

    Parameters
    ----------
    settings
        What is measured.
    as_json
        Print what was found as JSON and nothing else.
    """
    from damoyolo.assemble.profiling import profile_device

    try:
        measured, path = profile_device(settings or ProfileConfig(), say=partial(print, file=sys.stderr))
    except KeyboardInterrupt:
        print("stopped; nothing was written, the same command measures anew", file=sys.stderr)
        return 130
    if as_json:
        print(json.dumps(_facts(measured, path), indent=1))
        return 0
    print(
        f"{measured.runtime} on {measured.machine}: {len(measured.rows)} operators of space "
        f"{measured.space} at {measured.image_size} px"
    )
    print(measured.trust())
    print(
        f"a detector takes {measured.scale:.2f} times the sum of its operators and {measured.fixed_ms:.2f} ms"
    )
    print(
        f"search with: damoyolo search --space {measured.space} --image-size {measured.image_size} "
        f"--num-classes {measured.num_classes}{_like(settings)} --latency-table {path} --max-latency-ms MS"
    )
    return 0


def _like(settings: ProfileConfig | None) -> str:
    """The options that a search must repeat."""
    if settings is None:
        return ""
    like = f" --like {settings.like}" if settings.like else ""
    like += f" --activation {settings.activation}" if settings.activation else ""
    return like + (" --search-neck" if settings.search_neck else "")


def _facts(measured: Profile, path: Path) -> dict[str, Any]:
    facts = measured.model_dump(mode="json", exclude={"rows"})
    return {"file": str(path), "operators": len(measured.rows), **facts}
