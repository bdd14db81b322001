"""`damoyolo demo`."""

from __future__ import annotations

import sys
from pathlib import Path

from damoyolo.cli.ranges import Count, Seed


def demo(*, output: Path = Path("runs/demo"), seed: Seed = 0, epochs: Count | None = None) -> None:
    """Train, evaluate and detect on a small data set drawn on the spot; about three minutes on two cores.

    Parameters
    ----------
    output
        Folder for the data, the run, the pictures and the summary page.
    seed
        Of the drawings and of the training.
    epochs
        Train for so many; fewer are quicker and worse.
    """
    from damoyolo import assemble

    try:
        assemble.demo(output, seed, {} if epochs is None else {"epochs": epochs})
    except KeyboardInterrupt:
        print("stopped; it begins anew in another --output, or when the folder is gone", file=sys.stderr)
        raise
