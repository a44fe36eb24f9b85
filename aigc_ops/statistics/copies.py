"""Thresholds for samples that are copies of training data."""

EXPECTED = 0.01
"""Proportion of held-out samples that count as copies, which sets the distance of a copy."""
FLAGGED = 0.04
"""A model is flagged when the lower confidence bound of its copies exceeds this proportion."""
