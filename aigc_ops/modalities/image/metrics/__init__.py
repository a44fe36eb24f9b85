"""Scores of image models, and of sets of images."""

EVALUATION_VERSION = 1
"""Raised with any change that changes a score, features of data, or what a family generates."""
