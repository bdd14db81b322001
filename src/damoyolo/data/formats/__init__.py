"""Data sets in the formats that people have: COCO JSON, YOLO text, Pascal VOC XML, found by looking."""

from damoyolo.data.formats.coco import read_coco
from damoyolo.data.formats.found import find_place, overlooked, read_dataset, read_entries, splits_in

__all__ = ["find_place", "overlooked", "read_coco", "read_dataset", "read_entries", "splits_in"]
