"""From a configuration to training samples."""

from __future__ import annotations

from damoyolo.config import TrainConfig
from damoyolo.data.augment import Augment
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
        augment=Augment(**config.augment.model_dump()),
        seed=config.seed,
    )
