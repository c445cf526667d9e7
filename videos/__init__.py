"""Clips: reading frames, predicting a map for each, and writing videos of them."""
