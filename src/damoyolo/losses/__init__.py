"""What is minimised: predictions and targets in, scalars out. A loss never sees an image."""
