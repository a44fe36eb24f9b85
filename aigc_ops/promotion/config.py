"""When a version takes the champion's place, and who is asked; each threshold with its reason."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Approval = Literal["automatic", "review"]


class PromotionConfig(BaseModel):
    """When a version takes the champion's place, and who decides."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
    max_coverage_loss: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="How much less of the data may be covered than by the champion: less is "
        "what a collapse looks like while the distance still falls.",
    )
    max_agreement_loss: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="How many more samples may show another class than asked for: users see "
        "each of them.",
    )
    max_spread_loss: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="How much less varied the least varied class may be, as a fraction of the "
        "real class's spread.",
    )
    max_duplicates_gain: float = Field(
        default=0.03,
        ge=0,
        le=1,
        description="How many more samples may be near duplicates of one another.",
    )
    max_repetition_gain: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="How much more texts may repeat themselves, in four-word runs.",
    )
    max_forgetting: float = Field(
        default=0.1,
        ge=0,
        description="Bits a byte by which general texts may be predicted worse than by the "
        "champion (evaluation.general_path).",
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
