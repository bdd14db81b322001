"""Geometry and decisions about boxes: no weights, no files."""
