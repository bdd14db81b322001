"""From a detector to files that run without PyTorch, and the proof that they are equal."""
