"""Scores of text models."""

EVALUATION_VERSION = 1
"""Raised with any change that changes a score, features of data, or what a family generates."""
