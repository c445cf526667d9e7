"""The parts of the `train` phase."""
