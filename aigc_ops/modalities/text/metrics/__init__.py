"""Scores of text models."""

# Raise it with any change that changes a score, features of data, or what a family generates:
# stored values of earlier versions are then computed again instead of compared.
EVALUATION_VERSION = 1
