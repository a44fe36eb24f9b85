"""When a version takes the champion's place, and who is asked; each threshold with its reason."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, create_model

from aigc_ops.core.errors import ConfigError
from aigc_ops.interfaces.discovery import find_modality, modality_names
from aigc_ops.interfaces.guard import Guard
from aigc_ops.interfaces.sections import SectionConfig, SectionedConfig

Approval = Literal["automatic", "review"]


def _limits() -> type[SectionConfig]:
    """Return the config type with a field for each guard of every modality."""
    guards: dict[str, Guard] = {}
    for modality in modality_names():
        for name, guard in find_modality(modality).guards.items():
            if guards.setdefault(name, guard) != guard:
                raise ConfigError(
                    f"the modality {modality} has a guard {name!r} as another one has, with "
                    "another limit or direction; rename its score"
                )
    fields: dict[str, Any] = {name: (float, _limit(guard)) for name, guard in guards.items()}
    limits = create_model("GuardLimits", __base__=SectionConfig, __module__=__name__, **fields)
    limits.__doc__ = "Most by which a score may be worse than the champion's."
    limits.former_names = {
        name: guard.former_name for name, guard in guards.items() if guard.former_name
    }
    return limits


def _limit(guard: Guard) -> Any:
    return Field(
        default=guard.limit,
        ge=guard.at_least,
        le=guard.at_most,
        description=guard.description,
    )


if TYPE_CHECKING:
    GuardLimits = SectionConfig
else:
    GuardLimits = _limits()


class PromotionConfig(SectionedConfig):
    """When a version takes the champion's place, and who decides."""

    section_types: ClassVar[Mapping[str, type[SectionConfig]]] = {"guards": GuardLimits}

    approval: Approval = Field(
        default="review",
        description="review: a person approves or rejects what the gate did not keep back; "
        "automatic: what the gate says is done at once and recorded as such, so that unattended "
        "retraining is a choice that the config shows.",
    )
    reviewers: int = Field(
        default=1,
        ge=1,
        le=2,
        description="Different people who must approve; 2 where no one may promote alone.",
    )
    min_improvement: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Improvement worth a change, as a fraction of the champion's primary score: "
        "a version surely less than so much better is kept back. 0.05 is what max_samples can "
        "tell of most image models, and every change costs a rollout.",
    )
    false_promotion_rate: float = Field(
        default=0.02,
        gt=0,
        le=0.2,
        description="How often a version no better than the champion may be promoted, all looks "
        "together: one in fifty is what most teams would call rare.",
    )
    max_samples: int = Field(
        default=8000,
        ge=2,
        le=1_000_000,
        description="Most samples drawn of each of the two before an undecided comparison is a "
        "person's: the interval halves with each fourfold.",
    )
    max_copies: float = Field(
        default=0.04,
        ge=0,
        le=1,
        description="Share of near copies of training images among a version's samples, or of "
        "training texts that it knows by heart, that must not surely be exceeded; of held-out "
        "ones 0.01 count as such.",
    )
    guards: GuardLimits = Field(
        default=GuardLimits(),
        description="By how much other scores may be worse than the champion's.",
    )
    max_slowdown: float = Field(
        default=2.0,
        ge=1,
        description="Times as long as the champion drawing as much may take: what is served must "
        "still fit its machines.",
    )
    max_growth: float = Field(
        default=4.0,
        ge=1,
        description="Times as many bytes as the champion's the weights may take, for the same "
        "reason.",
    )
    guard: Literal["flag", "revert"] = Field(
        default="flag",
        description="What is done about aliases moved by hand: flag tells, revert puts them back.",
    )
    cost_per_hour: float | None = Field(
        default=None,
        ge=0,
        description="What an hour of the training machine costs, for the review packet; empty: "
        "not stated.",
    )
