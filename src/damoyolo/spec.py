"""What to build, as data: `Structure` (a backbone) and `ModelSpec` (a whole detector).

A zoo entry, a searched network and the description inside a checkpoint are the same YAML or JSON.
Nothing here imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)

from damoyolo.errors import UserError, nearest

STRIDES = (8, 16, 32)
"""Strides of the three feature maps every backbone yields and every head reads."""

LARGEST_SIDE_PX = 8192
"""Of a network's input: more fits no memory, and is a slip of the finger."""

Activation = Literal["relu", "silu"]


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"kernel {kernel} is even; take an odd one")
    return kernel


def _side(pixels: int) -> int:
    read_image_size(pixels)
    return pixels


Side = Annotated[int, Field(ge=64), AfterValidator(_side)]
"""Of a square input, in pixels, as `read_image_size` has it."""
OddKernel = Annotated[int, Field(ge=1, le=15), AfterValidator(_odd)]


class Frozen(BaseModel):
    """A value object: immutable, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stem(Frozen):
    """First layer: `focus` (space to depth, then a convolution) or a plain stride-2 `conv`."""

    type: Literal["focus", "conv"]
    out: PositiveInt
    kernel: OddKernel = 3


class Block(Frozen):
    """One super block of the search space: `layers` equal residual layers, the first with `stride`.

    `k1kx`, `kxkx` and `k1kxk1` are dense (1x1 then kxk, kxk then kxk, 1x1 kxk 1x1) and need `bottleneck`;
    `inverted` is the depthwise inverted residual of the nano models and needs `expansion`.
    """

    type: Literal["k1kx", "kxkx", "k1kxk1", "inverted"]
    out: PositiveInt
    stride: Literal[1, 2]
    layers: PositiveInt
    kernel: OddKernel = 3
    bottleneck: PositiveInt | None = None
    expansion: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _width_is_given(self) -> Block:
        needed, other = (
            ("expansion", "bottleneck") if self.type == "inverted" else ("bottleneck", "expansion")
        )
        if getattr(self, needed) is None:
            raise ValueError(f"a block of type '{self.type}' needs '{needed}'")
        if getattr(self, other) is not None:
            raise ValueError(f"a block of type '{self.type}' takes no '{other}'")
        return self


class Structure(Frozen):
    """A backbone: what MAE-NAS searches and what the detector is built from.

    `kind` says how the blocks are wired: `res` stacks dense residual blocks, `csp` wraps each stage in a
    cross-stage-partial pair of branches, `mob` stacks inverted residuals.
    """

    kind: Literal["res", "csp", "mob"]
    stem: Stem
    blocks: tuple[Block, ...] = Field(min_length=4)
    activation: Activation
    rep: bool = Field(default=False, description="the kxk convolution of a dense block is a RepConv")
    spp: bool = True
    spp_activation: Activation = "silu"
    wrap_activation: Activation = Field(default="relu", description="of the csp branches' own convolutions")

    @model_validator(mode="after")
    def _can_be_built(self) -> Structure:
        strides = [block.stride for block in self.blocks]
        if strides.count(2) != 4 or strides[0] != 2:
            raise ValueError(
                f"blocks have strides {strides}; the first must be 2 and exactly four in all, "
                "so that the last maps have strides 8, 16 and 32"
            )
        for number, block in enumerate(self.blocks):
            if (block.type == "inverted") != (self.kind == "mob"):
                raise ValueError(f"blocks.{number}.type '{block.type}' does not fit kind '{self.kind}'")
            if self.kind == "csp" and (block.out % 2 or block.type == "k1kxk1"):
                raise ValueError(
                    f"blocks.{number}: a csp stage needs an even 'out' and two-convolution blocks"
                )
        return self

    @property
    def stages(self) -> tuple[tuple[Block, ...], ...]:
        """The blocks grouped by resolution: strides 4, 8, 16, 32."""
        groups: list[list[Block]] = []
        for block in self.blocks:
            if block.stride == 2:
                groups.append([])
            groups[-1].append(block)
        return tuple(map(tuple, groups))

    @property
    def out_channels(self) -> tuple[int, int, int]:
        """Channels of C3, C4, C5 (strides 8, 16, 32)."""
        _, c3, c4, c5 = (stage[-1].out for stage in self.stages)
        return c3, c4, c5


class NeckSpec(Frozen):
    """RepGFPN (paper section 3.2): channels of P3 P4 P5, blocks per fusion, and their inner width."""

    out: tuple[PositiveInt, PositiveInt, PositiveInt]
    depth: PositiveInt = Field(description="blocks in each fusion stage")
    activation: Activation
    hidden_ratio: float = Field(default=1.0, gt=0, le=4)
    depthwise: bool = False


class HeadSpec(Frozen):
    """ZeroHead (paper section 3.3): one projection per task and scale."""

    bins: int = Field(ge=2, le=64, description="values a box side is distributed over, 0..bins-1 strides")
    kernel: OddKernel = 3


class Published(Frozen):
    """What the authors report for these weights; AP on COCO val2017."""

    ap: float
    ap_distilled: float | None = None
    teacher: str | None = None
    params_m: float
    gflops: float
    latency_ms: float
    latency_on: str
    source: str


class ModelSpec(Frozen):
    """A whole detector as data."""

    name: str
    structure: Structure
    neck: NeckSpec
    head: HeadSpec
    image_size: Side = Field(description="default square input, pixels")
    score_threshold: float = Field(default=0.05, ge=0, le=1, description="lowest score kept for evaluation")
    nms_iou: float = Field(default=0.7, gt=0, le=1)
    published: Published | None = None

    @classmethod
    def read(cls, path: str | Path) -> ModelSpec:
        """Read a YAML or JSON file; `UserError` names file, field, value and remedy."""
        return parse(cls, read_yaml(path), where=str(path))

    def to_yaml(self) -> str:
        """The text that `read` reads back to an equal spec."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def read_image_size(value: int | str) -> tuple[int, int]:
    """(height, width) in pixels of `640` or `"640"` (square) or `"384x640"` (height x width).

    Both must be multiples of 32, from 64 to `LARGEST_SIDE_PX`; `ValueError` otherwise.
    """
    sides = str(value).lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ValueError(
            f"'{value}' is no image size; give a side such as 640, or HEIGHTxWIDTH as in 384x640"
        )
    height, width = int(sides[0]), int(sides[-1])
    step = STRIDES[-1]
    for side in (height, width):
        if side < 2 * step:
            raise ValueError(f"{side} px is too small; it must be at least {2 * step}")
        if side > LARGEST_SIDE_PX:
            raise ValueError(f"{side} px is too large; it must be at most {LARGEST_SIDE_PX}, such as 640")
        if side % step:
            raise ValueError(f"{side} px is no multiple of {step}; take {round(side / step) * step}")
    return height, width


def given_image_size(value: int | str) -> tuple[int, int]:
    """`read_image_size` of what a user gave; `UserError` for a mistake."""
    try:
        return read_image_size(value)
    except ValueError as error:
        raise UserError(f"image_size: {error}") from error


class ModelCard(Frozen):
    """Everything a user of trained weights must know; it travels inside the weights file.

    `image_size` is (height, width) in pixels; `lineage` tells how the weights came to be.
    """

    spec: ModelSpec
    class_names: tuple[str, ...] = Field(min_length=1)
    image_size: tuple[PositiveInt, PositiveInt]
    resize: Literal["stretch", "letterbox"] = "stretch"
    lineage: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_the_strides(self) -> ModelCard:
        if any(side % STRIDES[-1] for side in self.image_size):
            raise ValueError(f"image_size {self.image_size} must be multiples of {STRIDES[-1]}")
        return self


Model = TypeVar("Model", bound=BaseModel)

_BOUNDS = {"gt": "more than {}", "ge": "{} or more", "lt": "less than {}", "le": "{} or less"}
"""By pydantic's names of them."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file."""
    read, name = (json.loads, "JSON") if Path(path).suffix == ".json" else (yaml.safe_load, "YAML")
    try:
        value = read(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date such as 2020-99-99, say
        raise UserError(f"{path}: is not valid {name} ({_where_in(error)}); correct it") from error
    if value is None:
        raise UserError(f"{path}: is empty; write its fields into it, a line of `name: value` for each")
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, expected a mapping of fields")
    return value


def _where_in(error: Exception) -> str:
    """`line 2, column 4: expected ',' or ']'`: what a parser could not read, without the text around it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def parse(model: type[Model], value: Any, where: str) -> Model:
    """Validate `value` as `model`; the first mistake becomes a `UserError` that names it."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(f"{where}: {first_mistake(model, error)}") from None


def first_mistake(model: type[BaseModel], error: ValidationError) -> str:
    """What kept a value from being a `model`: path, reason, value, and the nearest field.

    The first mistake, but a misspelt field rather than what is missing because of it.
    """
    mistakes = error.errors(include_url=False)
    unknown = next((each["loc"] for each in mistakes if each["type"] == "extra_forbidden"), None)
    if unknown:
        known = set(_model_at(model, unknown[:-1]).model_fields)
        hint = nearest(str(unknown[-1]), known) or f"; known fields: {', '.join(sorted(known))}"
        return f"unknown field '{'.'.join(map(str, unknown))}'{hint}"
    location, reason = explain_first(model, error)
    return f"{'.'.join(map(str, location)) or model.__name__}: {reason}"


def explain_first(model: type[BaseModel], error: ValidationError) -> tuple[tuple[int | str, ...], str]:
    """Where the first mistake is, without pydantic's names of types, and what is wrong there."""
    mistakes = error.errors(include_url=False)
    first = mistakes[0]
    place, value = first["loc"], str(first["input"])[:80]
    if first["type"] == "missing":
        return place, first["msg"]
    reason = first["msg"].removeprefix("Value error, ").partition(", unable to parse")[0]
    reason = reason.replace("Input should be", "must be", 1)
    others = []
    if _is_alternative(model, place):
        place, reason = place[:-1], reason.partition(", ")[0]
        same = [each["msg"] for each in mistakes[1:] if each["loc"][:-1] == place]
        others = [each.removeprefix("Input should be ") for each in same]
    elif first["type"] == "literal_error":
        choices = [each.strip("'") for each in re.split(", | or ", first["ctx"]["expected"])]
        return place, f"'{value}' is none of {', '.join(choices)}{nearest(value, choices)}"
    limits = first.get("ctx", {})
    if bounds := _within_bounds(model, place, limits):
        return place, " or ".join([f"is {value}; take {bounds}", *others])
    if multiple := limits.get("multiple_of"):
        return place, f"{reason} (got {value!r}); take {max(1, round(float(value) / multiple)) * multiple}"
    return place, f"{' or '.join([reason, *others])} (got {value!r}){_as_by_default(model, place)}"


def _within_bounds(model: type[BaseModel], place: tuple[int | str, ...], limits: Mapping[str, Any]) -> str:
    """`1 or more`, for what is too small or too large; otherwise empty."""
    for kind, limit in limits.items():
        if kind == "gt" and isinstance(limit, int):
            return f"{limit + 1} or more"
        if kind in _BOUNDS:
            shown = f"{limit:g}" if isinstance(limit, float) else str(limit)
            usual = _default_at(model, place) if kind == "gt" else None
            return _BOUNDS[kind].format(shown) + (f", such as {usual:g}" if usual else "")
    return ""


def _as_by_default(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    """`; take one such as 300` for what is no number at all, where a number is the default."""
    usual = _default_at(model, place)
    return "" if usual is None else f"; take one such as {usual:g}"


def _default_at(model: type[BaseModel], place: tuple[int | str, ...]) -> int | float | None:
    """The number that a field, or this part of it, has by default, if it is one."""
    whole, part = (place[:-1], place[-1]) if place and isinstance(place[-1], int) else (place, None)
    field = _model_at(model, whole[:-1]).model_fields.get(str(whole[-1])) if whole else None
    usual = field.default if field else None
    if isinstance(part, int) and isinstance(usual, tuple) and part < len(usual):
        usual = usual[part]
    return usual if isinstance(usual, int | float) and not isinstance(usual, bool) else None


def _is_alternative(model: type[BaseModel], location: tuple[int | str, ...]) -> bool:
    """Whether the last part of a location names one of several types of a field, and no field."""
    if len(location) < 2 or isinstance(location[-1], int):
        return False
    field = _model_at(model, location[:-2]).model_fields.get(str(location[-2]))
    known = _model_at(model, location[:-1]).model_fields
    return (
        field is not None and get_origin(field.annotation) in (Union, UnionType) and location[-1] not in known
    )


def _model_at(model: type[BaseModel], location: tuple[int | str, ...]) -> type[BaseModel]:
    """The model nested at `location`, or the one around it where that is none."""
    for part in location:  # positions in lists and keys of mappings are no fields
        if field := model.model_fields.get(str(part)):
            model = next(iter(_models_in(field.annotation)), model)
    return model


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models mentioned in a type annotation, outermost first."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _models_in(part)]
