"""The parts of the `evaluate` phase."""
