from __future__ import annotations

from damoyolo.assemble.loading import augmentation
from damoyolo.config import AugmentConfig
from damoyolo.data.box_augment import BoxAugment


def test_settings_of_single_boxes_become_their_own_object() -> None:
    config = AugmentConfig(mixup=0.3, box_augment=0.5, box_clip=False, box_plain=True)
    augment = augmentation(config)
    assert augment.mixup == 0.3
    assert augment.boxes == BoxAugment(0.5, clip=False, plain=True)
    assert augmentation(AugmentConfig(box_augment=0.0, box_plain=True)).boxes is None
