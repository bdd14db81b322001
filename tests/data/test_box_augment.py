from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import golden
from damoyolo.data.blending import gaussians
from damoyolo.data.box_augment import BANDS, POLICIES, BoxAugment, Policy
from damoyolo.data.box_colour import COLOUR_OPS
from damoyolo.data.box_geometry import GEOMETRIC_OPS, change_geometry
from damoyolo.data.sample import Sample

SIZE = (48, 64)
WHOLE = (0, 0, 64, 48)
NAMES = {"hflip": "mirror", "rotate": "rotate", "shearX": "shear_x", "shearY": "shear_y"} | {
    "translateX": "translate_x",
    "translateY": "translate_y",
}
LEVELS = {"hflip": 2, "rotate": 6, "shearX": 5, "shearY": 5, "translateX": 2, "translateY": 2}


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    with np.load(golden("golden-sada.npz")) as file:
        return dict(file)


def pixels(image: np.ndarray, most: float = 255) -> np.ndarray:
    """From (3 h w) to (h w 3)."""
    return np.moveaxis(image, 0, 2).astype(np.float32) * np.float32(most)


def sample_of(truth: dict[str, np.ndarray]) -> Sample:
    image = np.rint(pixels(truth["img"])).astype(np.uint8, order="C")
    return Sample(image, truth["boxes"], np.array([3, 1, 2]), "golden")


@pytest.mark.parametrize(
    ("name", "level"),
    [("solarizeadd", level) for level in (2, 4, 5)]
    + [(name, level) for name in ("color", "contrast", "brightness", "sharpness") for level in (2, 4, 6, 8)],
)
def test_colours_change_as_in_the_reference(truth: dict[str, np.ndarray], name: str, level: int) -> None:
    ours = {"color": "colour", "solarizeadd": "solarize_add"}.get(name, name)
    changed = COLOUR_OPS[ours](pixels(truth["img"]), WHOLE, level)
    np.testing.assert_allclose(changed, pixels(truth[f"{name}_{level}"]), atol=0.07)  # kept as float16


def test_contrast_is_stretched_and_equalized_as_in_the_reference(truth: dict[str, np.ndarray]) -> None:
    image = pixels(truth["img"])
    stretched = COLOUR_OPS["autocontrast"](image * 0.5 + 51, WHOLE, 0)
    np.testing.assert_allclose(stretched, pixels(truth["autocontrast"]), atol=1e-3)
    np.testing.assert_allclose(COLOUR_OPS["equalize"](image, WHOLE, 0), pixels(truth["equalize"]), atol=1e-3)


def test_gaussians_are_those_of_the_reference(truth: dict[str, np.ndarray]) -> None:
    boxes = truth["boxes"].tolist()
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    np.testing.assert_allclose(BANDS.scaled_limits(SIZE), truth["splits"])
    spreads = [BANDS.spread(area, SIZE) for area in areas]
    for number, (box, spread) in enumerate(zip(boxes, spreads, strict=True)):
        assert_covers(gaussians([box], [spread], SIZE), truth[f"gmap_{number}"])
    assert_covers(gaussians(boxes[1:2], [1.0], SIZE), truth["gmap_plain_1"])
    image = pixels(truth["img"])
    weights, (x1, y1, x2, y2) = gaussians(boxes, spreads, SIZE)
    image[y1:y2, x1:x2] += weights[..., None] * (pixels(truth["autocontrast"]) - image)[y1:y2, x1:x2]
    np.testing.assert_allclose(image, pixels(truth["merge"]), atol=0.5)


def assert_covers(made: tuple[np.ndarray, tuple[int, int, int, int]], expected: np.ndarray) -> None:
    """The window holds the expected values, and without it nothing that could be seen is left."""
    weights, (x1, y1, x2, y2) = made
    np.testing.assert_allclose(weights, expected[y1:y2, x1:x2], atol=1e-6)
    rest = expected.copy()
    rest[y1:y2, x1:x2] = 0
    assert rest.max() < 1 / 512


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", [0, 3])
def test_geometry_changes_as_in_the_reference(truth: dict[str, np.ndarray], name: str, seed: int) -> None:
    sample = sample_of(truth)
    rng = Random(seed)
    _ = [rng.random() for _ in sample.boxes]  # the selection
    changed = change_geometry(sample, [0, 1, 2], NAMES[name], LEVELS[name], rng, clip_copies=False)
    assert np.abs(changed.image - pixels(truth[f"{name}_{seed}"])).max() < 2.7  # both round crops to 8 bits
    np.testing.assert_allclose(changed.boxes, truth[f"{name}_{seed}_boxes"])
    np.testing.assert_array_equal(changed.labels, truth[f"{name}_{seed}_labels"])


def test_whole_calls_are_those_of_the_reference(truth: dict[str, np.ndarray]) -> None:
    sample, image = sample_of(truth), pixels(truth["img"])
    for seed in truth["call_seeds"].tolist():
        changed = BoxAugment(0.3, clip=False)(sample, 0.9, Random(seed))
        expected = pixels(truth[f"call_{seed}"], 1) - image
        assert np.abs(expected).max() > 20
        assert np.abs(changed.image.astype(float) - sample.image - expected).max() < 2.7
        np.testing.assert_allclose(changed.boxes, truth[f"call_{seed}_boxes"])


@pytest.mark.parametrize("operation", sorted(COLOUR_OPS))
def test_a_part_of_a_changed_image_is_that_part(operation: str) -> None:
    image = np.random.default_rng(0).integers(20, 230, (40, 50, 3), dtype=np.uint8)
    for x1, y1, x2, y2 in ((0, 0, 20, 10), (7, 5, 30, 40), (20, 1, 50, 39)):
        whole = COLOUR_OPS[operation](image, (0, 0, 50, 40), 3)
        part = COLOUR_OPS[operation](image, (x1, y1, x2, y2), 3)
        np.testing.assert_allclose(part, whole[y1:y2, x1:x2], atol=1e-3)


def one_box(box: tuple[float, float, float, float], seed: int = 0) -> Sample:
    image = np.random.default_rng(seed).integers(0, 256, (100, 160, 3), dtype=np.uint8)
    return Sample(image, np.array([box], dtype=np.float32), np.array([7]), "one")


@given(
    st.sampled_from(["translate_x", "translate_y"]),
    st.integers(0, 10),
    st.tuples(st.integers(0, 140), st.integers(0, 80), st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 100),
)
def test_a_copy_lies_within_the_image_and_its_middle_shows_that_of_the_original(
    name: str, level: int, where: tuple[int, int, int, int], seed: int
) -> None:
    x, y, width, height = where
    sample = one_box((x, y, x + width, y + height))
    changed = change_geometry(sample, [0], name, level, Random(seed))
    np.testing.assert_array_equal(changed.boxes[0], sample.boxes[0])
    np.testing.assert_array_equal(changed.labels, [7] * len(changed.boxes))
    for x1, y1, x2, y2 in changed.boxes[1:].astype(int):
        assert 0 <= x1 < x2 <= 160
        assert 0 <= y1 < y2 <= 100
        shift = 12 * level * (-1 if Random(seed).random() < 0.5 else 1)
        dx, dy = (shift, 0) if name == "translate_x" else (0, shift)
        u, v = x1 + (x2 - x1) // 2, y1 + (y2 - y1) // 2
        np.testing.assert_array_equal(changed.image[v, u], sample.image[v - dy, u - dx])


def test_a_copy_that_would_lie_outside_is_left_out() -> None:
    sample = one_box((5, 5, 25, 25))
    seed = next(seed for seed in range(9) if Random(seed).random() < 0.5)  # to the left
    assert len(change_geometry(sample, [0], "translate_x", 4, Random(seed)).boxes) == 1
    original = change_geometry(sample, [0], "translate_x", 4, Random(seed), clip_copies=False)
    np.testing.assert_array_equal(original.boxes[1], [-20, 5, 0, 25])


def test_the_chance_grows_with_the_progress_of_the_run_and_is_none_at_its_start() -> None:
    sample = one_box((40, 30, 80, 70))
    changes = [
        sum(
            not np.array_equal(BoxAugment(1.0)(sample, progress, Random(seed)).image, sample.image)
            for seed in range(300)
        )
        for progress in (0.0, 0.5, 1.0)
    ]
    assert changes[0] == 0
    assert changes[1] > 10
    assert 1.4 < changes[2] / changes[1] < 2.8


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32), st.booleans())
def test_anything_may_be_a_box_and_inputs_are_never_written_into(seed: int, clip: bool) -> None:
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (50, 70, 3), dtype=np.uint8)
    low = draw.uniform(0, [70, 50], (6, 2))
    boxes = np.concatenate([low, np.minimum(low + draw.exponential(15, (6, 2)), [70, 50])], axis=1)
    boxes[0, 2] = boxes[0, 0]
    sample = Sample(image, boxes.astype(np.float32), np.arange(6), "any")
    image.setflags(write=False)
    always = tuple(
        Policy(colour, 1.0, int(draw.integers(11)), geometry, 1.0, int(draw.integers(11)))
        for colour in COLOUR_OPS
        for geometry in GEOMETRIC_OPS
    )
    changed = BoxAugment(3.0, clip=clip, policies=always)(sample, 1.0, Random(seed))
    np.testing.assert_array_equal(changed.boxes[:6], sample.boxes)
    assert changed.size == sample.size
    if clip:
        assert ((changed.boxes >= 0) & (changed.boxes <= [70, 50, 70, 50])).all()


def test_the_policies_name_operations_that_exist() -> None:
    assert {policy.colour for policy in POLICIES} <= COLOUR_OPS.keys()
    assert {policy.geometry for policy in POLICIES} <= set(GEOMETRIC_OPS)
