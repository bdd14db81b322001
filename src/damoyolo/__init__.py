"""DAMO-YOLO as real software."""
