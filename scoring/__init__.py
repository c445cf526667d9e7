"""Scoring: metrics, densities and fixations as arrays. Nothing here knows a network or the command line."""
