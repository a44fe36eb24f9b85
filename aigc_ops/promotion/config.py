"""Config of the promote stage: who decides, and the thresholds of the gate."""

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
    # A limit applies to the score of that name in any modality, so two modalities may share a guard
    # only if it means the same in both.
    guards: dict[str, Guard] = {}
    for modality in modality_names():
        for name, guard in find_modality(modality).guards.items():
            if guards.setdefault(name, guard) != guard:
                raise ConfigError(
                    f"the modality {modality} has a guard {name!r} that another modality defines "
                    "with another limit or direction; rename its score"
                )
    fields: dict[str, Any] = {name: (float, _limit(guard)) for name, guard in guards.items()}
    limits = create_model("GuardLimits", __base__=SectionConfig, __module__=__name__, **fields)
    limits.__doc__ = "Maximum by which a score may be worse than the champion's."
    # Configs and stored packets of earlier versions had one field per limit, outside a section.
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


# A class made at run time is no type for mypy.
if TYPE_CHECKING:
    GuardLimits = SectionConfig
else:
    GuardLimits = _limits()


class PromotionConfig(SectionedConfig):
    """Thresholds of the gate, and who decides on a promotion."""

    section_types: ClassVar[Mapping[str, type[SectionConfig]]] = {"guards": GuardLimits}
    added_fields: ClassVar[frozenset[str]] = frozenset(
        {"unexamined", "min_copy_power", "first_version_floor", "better_than"}
    )

    approval: Approval = Field(
        default="review",
        description="review: a person approves or rejects each version that the gate does not "
        "reject. automatic: the gate's outcome is carried out at once and recorded as automatic.",
    )
    reviewers: int = Field(
        default=1,
        ge=1,
        le=2,
        description="Number of different people who must approve.",
    )
    min_improvement: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Minimum improvement, as a fraction of the champion's primary score. The gate "
        "rejects a version whose upper bound of improvement is below it. The default 0.05 is the "
        "smallest difference that max_samples resolves for most image models.",
    )
    false_promotion_rate: float = Field(
        default=0.02,
        gt=0,
        le=0.2,
        description="Maximum probability of promoting a version that is no better than the "
        "champion, over all interim analyses together.",
    )
    better_than: Literal["champion", "seed_noise"] = Field(
        default="champion",
        description="What a version must be better than. champion: the champion's own score. "
        "seed_noise: also what another training seed of the champion's config would give. With "
        "fewer than five trainings of that config, a person decides.",
    )
    max_samples: int = Field(
        default=8000,
        ge=2,
        le=1_000_000,
        description="Maximum number of samples per model. A comparison that is still undecided "
        "there is left to a person. Four times the samples halve the interval.",
    )
    max_copies: float = Field(
        default=0.04,
        ge=0,
        le=1,
        description="Maximum memorisation rate: the lower confidence bound of the share of samples "
        "that nearly copy training images, or of training texts that the model completes "
        "verbatim. By construction held-out data has a rate of 0.01.",
    )
    first_version_floor: bool = Field(
        default=True,
        description="Whether a first version must beat the trivial baseline of its modality (a "
        "Gaussian of each pixel, an n-gram of bytes) and not be collapsed. If it does not, a "
        "person decides.",
    )
    min_copy_power: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="Minimum share of planted copies of training images that the check for copies "
        "finds: mirrored, shifted by 1 or 2 pixels, JPEG of quality 30, other colours. Below it, "
        "copies count as not examined.",
    )
    unexamined: Literal["ask", "allow"] = Field(
        default="ask",
        description="Decision on a version for which copying of training data could not be "
        "examined. ask: a person decides. allow: the other evidence decides.",
    )
    guards: GuardLimits = Field(
        default=GuardLimits(),
        description="Maximum by which other scores may be worse than the champion's.",
    )
    max_slowdown: float = Field(
        default=2.0,
        ge=1,
        description="Maximum sampling time, as a multiple of the champion's.",
    )
    max_growth: float = Field(
        default=4.0,
        ge=1,
        description="Maximum size of the weights in bytes, as a multiple of the champion's.",
    )
    guard: Literal["flag", "revert"] = Field(
        default="flag",
        description="Action on aliases that were moved outside aigc-ops. flag: report them; "
        "revert: restore them.",
    )
    cost_per_hour: float | None = Field(
        default=None,
        ge=0,
        description="Price of one hour of the training machine, shown in the review packet; "
        "empty: not shown.",
    )
