"""Packages that only some formats need. No torch."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

from damoyolo.errors import UserError

TALKATIVE = ("coremltools", "torch.utils._pytree")
"""Loggers that warn of versions and deprecations nobody here can mend."""


def need(module: str, extra: str) -> Any:
    """Import a module; without it a `UserError` names the extra of damoyolo's that brings it."""
    try:
        with quietly():
            return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{module} cannot be imported ({error}); pip install 'damoyolo[{extra}]' brings what is missing"
        ) from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without what converters warn of among themselves."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Without what an engine writes past Python to standard error; its exceptions say what is wrong."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        for each in (kept, nowhere):
            os.close(each)
