"""The digits and the small network that measures them."""

from tests.evaluation.conftest import digits, extractor

__all__ = ["digits", "extractor"]
