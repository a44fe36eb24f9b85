"""How surely samples must be copies of training data before a model is flagged."""

EXPECTED = 0.01
"""Share of held-out samples that the bound of what counts as a copy lets through."""
FLAGGED = 0.04
"""Share of samples that is surely exceeded when a model is flagged."""
