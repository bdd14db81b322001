"""From a configuration to training samples."""

from __future__ import annotations

from damoyolo.config import AugmentConfig, TrainConfig
from damoyolo.data.augment import Augment
from damoyolo.data.box_augment import BoxAugment
from damoyolo.data.dataset import Dataset
from damoyolo.data.loader import TrainingSet
from damoyolo.data.resize import Resize
from damoyolo.data.source import Source
from damoyolo.spec import ModelCard


def training_set(config: TrainConfig, dataset: Dataset, card: ModelCard) -> TrainingSet:
    """The samples that a run trains on, for the model that `card` describes."""
    return TrainingSet(
        source=Source(dataset.records, config.cache_mb),
        resize=Resize(card.resize, card.image_size),
        augment=augmentation(config.augment),
        seed=config.seed,
    )


def augmentation(config: AugmentConfig) -> Augment:
    """How these settings make a training sample."""
    chance, clip, plain = config.box_augment, config.box_clip, config.box_plain
    return Augment(
        **config.model_dump(exclude={"box_augment", "box_clip", "box_plain"}),
        boxes=BoxAugment(chance, clip, plain) if chance else None,
    )
