"""Looking for what would cost a night: faults of annotations and images, and advice what to train with."""
