"""What the `train` phase consists of beside its story."""
