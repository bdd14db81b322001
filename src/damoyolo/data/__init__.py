"""From files to batches: reading, resizing, augmenting, loading, and a small data set to start with."""
