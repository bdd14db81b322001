"""`damoyolo push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def push(
    weights: Path,
    name: str,
    /,
    *,
    private: Annotated[bool, Parameter(negative="")] = False,
    licence: Annotated[str, Parameter(alias="--license")] = "apache-2.0",
    replace_card: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Upload a weights file to the Hugging Face Hub, with a page about it.

    Parameters
    ----------
    weights
        A weights file of ours (.safetensors), such as best.safetensors of a run.
    name
        Where to: hf://owner/name, or hf://owner/name/file.safetensors; made if it is not there.
    private
        Make a repository that only its owner sees.
    licence
        Of the weights, as the Hub abbreviates it; it stands on the page.
    replace_card
        Write the page (README.md) even where the repository has one.
    """
    from damoyolo.zoo.hub_push import CARD_FILE
    from damoyolo.zoo.hub_push import push as push_weights

    pushed = push_weights(weights, name, private=private, licence=licence, replace_card=replace_card)
    kept = "" if CARD_FILE in pushed.files else f"; its {CARD_FILE} is kept (--replace-card)"
    print(f"{pushed.url}: {' and '.join(pushed.files)}, commit {pushed.commit[:12]}{kept}")
    print(f"use it with --weights {pushed.name}")
