"""Scores of a modality that must not get worse than the champion's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """A score that must not get worse than the champion's by more than a limit."""

    higher_is_better: bool
    limit: float
    """Default of `promotion.guards.NAME`."""
    description: str
    """What the limit means, for the config's help."""
    at_least: float = 0.0
    at_most: float | None = None
    """Range of the limit; None: there is no upper bound."""
    former_name: str | None = None
    """Name of the limit in `promotion` before there were guards by modality."""
