"""Train, judge, promote and serve generative models as one reviewable pipeline."""

__version__ = "0.1.0"
