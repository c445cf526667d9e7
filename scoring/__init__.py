"""Scoring: metrics, densities and fixations as arrays, without networks or the command line."""
