"""How good a weights file says that it is."""

from __future__ import annotations

from typing import Any, NamedTuple

from damoyolo.spec import ModelCard
from damoyolo.zoo import coco_class_names

PUBLISHED = "COCO val2017, as the authors published it for this size; this file was not measured"


class KnownAp(NamedTuple):
    """AP and AP50 by COCO, 0..1, and what they were measured on; AP50 is None where it is not known."""

    ap: float
    ap50: float | None
    of: str


def known_ap(card: ModelCard) -> KnownAp | None:
    """What a training recorded, or for weights of the reference what its authors published; else None.

    The card may be a stranger's: what is no share is not known.
    """
    validation = card.lineage.get("validation")
    if isinstance(validation, dict):
        ap = _share(validation.get("ap"))  # -1 where there was nothing to find
        if ap is not None:
            of = f"the validation images of {card.lineage.get('data', 'its data')}"
            return KnownAp(ap, _share(validation.get("ap50")), of)
    converted = card.lineage.get("source") == "converted" and card.class_names == coco_class_names()
    if converted and card.spec.published:
        return KnownAp(card.spec.published.ap / 100, None, PUBLISHED)
    return None


def _share(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value <= 1 else None
