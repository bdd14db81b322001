"""Networks: tensors in, tensors out. No labels, no files, no configuration."""
