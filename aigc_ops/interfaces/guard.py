"""Guards: scores that must not get worse than the champion's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Guard:
    """A score that must not get worse than the champion's by more than a limit."""

    higher_is_better: bool
    limit: float
    """Default of `promotion.guards.NAME`."""
    description: str
    """Meaning of the limit, for the config's help."""
    # Range of the limit itself, validated when the promotion config is built.
    at_least: float = 0.0
    at_most: float | None = None
    """Largest limit allowed; None: unbounded."""
    former_name: str | None = None
    """Flat field of `promotion` that older configs use for this limit; still accepted."""
