"""The command line: every verb is a thin shell over one library function.

A verb's module is imported when the verb is called, and torch when it runs, so that help is quick.
"""

from __future__ import annotations

import importlib.metadata
import io
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnusedCliTokensError,
    ValidationError,
)
from cyclopts.exceptions import ConsumeMultipleError, RepeatArgumentError
from cyclopts.validators import Number

from damoyolo.errors import RunError, UserError, nearest

if TYPE_CHECKING:
    import pydantic

VERBS = {
    "models": "List the model suite with its published facts.",
    "predict": "Detect things in images and videos, and draw them.",
    "evaluate": "Compute the COCO numbers of a model, or of any detector's results.",
    "profile": "Measure how long operators take on a device, to search for it.",
    "search": "Search a backbone within a budget, without training.",
    "train": "Train a detector on your data.",
    "report": "Write a page of curves, numbers and pictures about a training run.",
    "inspect-assignment": "Show which points learn which objects.",
    "export": "Write a model as a file that runs without PyTorch, and prove that it computes the same.",
    "verify": "Prove again that an exported file computes what its model does.",
    "bench": "Measure exported files side by side: time, images per second and memory.",
    "convert": "Turn a checkpoint of the original DAMO-YOLO into one file of ours.",
    "push": "Upload a weights file to the Hugging Face Hub, with a page about it.",
    "doctor": "Look a data set over before a training: faults, leaks, advice, a corrected copy.",
    "convert-data": "Write a data set in another format: COCO JSON or YOLO text.",
    "app": "Try a model in the browser, and serve it over HTTP.",
    "demo": "Train, evaluate and detect on a small data set drawn on the spot.",
}

RECIPE_FOLDER = Path(__file__).parents[1] / "zoo" / "recipes"
MORE = {
    "train": f"What is not given is set by the recipe, a file in `{RECIPE_FOLDER}`; all settings of a run "
    "are in config.yaml in its --output."
}
"""What the help of a verb says after its summary."""


def build_app() -> App:
    """The verbs, none of them imported yet."""
    app = App(
        name="damoyolo",
        help="Train, evaluate and use DAMO-YOLO object detectors.",
        version=lambda: importlib.metadata.version("damoyolo"),
        suppress_keyboard_interrupt=False,
    )
    for verb, summary in VERBS.items():
        name = verb.replace("-", "_")
        app.command(
            f"damoyolo.cli.{name}:{name}", name=verb, help=f"{summary}\n\n{MORE.get(verb, '')}".strip()
        )
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code is 0 if it worked, 1 if the run failed, 2 for a mistake of the user's."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files and classes the terminal has no letters for
        sys.stdout.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        _refuse_empty(given)
        code = build_app()(
            given,
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        sys.stdout.flush()
    except UserError as error:
        return _failed(by_option(str(error), given), 2, getattr(error, "__notes__", ()))
    except CycloptsError as error:
        return _failed(_explain(error), 2)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough; rich ends the same way
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError as error:
        return _failed(f"not enough memory ({error}); take a smaller --image-size or --batch-size", 1)
    except (RunError, OSError) as error:  # an OSError is, for instance, a full disk
        return _failed(str(error), 1)
    return code or 0


def _explain(error: CycloptsError) -> str:
    """What is wrong with the command as it was typed: the option, the value, and what to do."""
    if isinstance(error, UnknownCommandError):
        word = (error.unused_tokens or [""])[0]
        hint = nearest(word, VERBS) or f"; there are {', '.join(VERBS)}"
        return f"'{word}' is no command{hint}"
    if isinstance(error, UnusedCliTokensError):
        extra = " ".join((error.unused_tokens or [])[:3])
        return f"unexpected argument: {extra}; an option begins with --, and a pattern must be in quotes"
    if isinstance(error, RepeatArgumentError):
        return f"{error.token.keyword}: is there more than once; give it once"
    name = error.argument.name if error.argument else ""
    if isinstance(error, MissingArgumentError) and not isinstance(error, ConsumeMultipleError):
        if error.tokens_so_far:
            return f"{name}: {' '.join(error.tokens_so_far)} is too little; give its values apart by spaces"
        if error.keyword:
            return f"{name}: has no value; give one, as {name}=VALUE if it begins with a hyphen"
        guess = str(error).partition("Did you mean ")[2]
        verb = " ".join(error.command_chain or ())
        remedy = f"did you mean {guess}" if guess else f"`damoyolo {verb} --help` tells of it"
        return f"{name}: is missing; {remedy}"
    import pydantic

    cause = error.__cause__
    if isinstance(cause, pydantic.ValidationError):
        return _explain_setting(cause)
    if isinstance(error, ValidationError) and error.argument:
        given, limits = error.argument.tokens[0].value, error.argument.parameter.validator
        return f"{name}: is {given}; take {_within(limits)}"
    if isinstance(error, CoercionError) and error.token:
        value, kinds = error.token.value, get_args(error.target_type) or [error.target_type]
        choices = [each for each in kinds if isinstance(each, str)]
        if choices:
            return f"{name}: '{value}' is none of {', '.join(choices)}{nearest(value, choices)}"
        return f"{name}: '{value}' is no {'whole ' if int in kinds else ''}number; give one"
    return str(error)


def _within(validators: Any) -> str:
    """`0 to 65535`, `1 or more`, `more than 0`: the numbers that an option takes."""
    limits = next(each for each in validators if isinstance(each, Number))
    if limits.gte is not None and limits.lte is not None:
        return f"{limits.gte} to {limits.lte}"
    return f"{limits.gte} or more" if limits.gte is not None else f"more than {limits.gt}"


def _explain_setting(cause: pydantic.ValidationError) -> str:
    """Where pydantic found a setting wrong, the setting, the reason and the value."""
    from damoyolo import config
    from damoyolo.spec import explain_first
    from damoyolo.zoo.recipes import Settings

    name = cause.title.removeprefix("nullable[").removesuffix("]")
    location, reason = explain_first(getattr(config, name, Settings), cause)
    option = ".".join(part for part in location if isinstance(part, str)).replace("_", "-")
    in_list = bool(location) and isinstance(location[-1], int)
    if in_list and "is none of" in reason and "did you mean" not in reason:
        reason += "; an argument such as DATA goes before the options"
    return f"--{option}: {reason}" if option else reason


def by_option(message: str, given: Sequence[str]) -> str:
    """The message by the option it is about: `image_size: ...`, or `'Nx' ...` that is an option's value."""
    for before, word in itertools.pairwise(given):
        option, _, value = word.rpartition("=")
        if (option or before).startswith("--") and message.startswith(f"'{value}' "):
            return f"{option or before}: {message}"
    setting, colon, rest = message.partition(": ")
    option = f"--{setting.replace('_', '-')}"
    values = [word.rpartition("=")[2] for word in given]
    if not (colon and given and given[0] in VERBS) or Path(setting) in map(Path, values):  # it is a path
        return message
    for argument in build_app()[given[0]].assemble_argument_collection():
        if option in argument.names and argument.parse:
            return f"{option}: {rest}"
    return message


def _refuse_empty(arguments: Sequence[str]) -> None:
    """An empty path would be the folder one is in."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if not argument or re.fullmatch("--[^=]+=", argument):
            option = argument.rstrip("=") or (before if before.startswith("-") else "an argument")
            raise UserError(f"{option}: is empty; give a value, or leave it out")


def _failed(message: str, code: int, notes: Sequence[str] = ()) -> int:
    """Show what went wrong in one line, the last, after what there is to list."""
    for note in notes:
        print(f"  {' '.join(note.split())}", file=sys.stderr)
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code
