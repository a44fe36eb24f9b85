"""Settings of the evaluation: those of all modalities, and a section for each."""

from typing import TYPE_CHECKING

from pydantic import Field

from aigc_ops.compute.devices import DeviceName, PrecisionName
from aigc_ops.interfaces.sections import SectionedConfig, with_sections


class EvaluationConfig(SectionedConfig):
    """What a checkpoint's samples are compared with, and how."""

    num_reference: int = Field(
        default=5000,
        ge=2,
        description="Most rows of the data that stand for all of it.",
    )
    batch_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Images in a batch; empty: 8 on the CPU, whose caches hold them, 64 elsewhere.",
    )
    device: DeviceName = Field(default="auto", description="auto: CUDA, then MPS, then the CPU.")
    precision: PrecisionName = Field(
        default="auto",
        description="auto: bf16 where the processor has it for efficientnet-lite0; fp32 for "
        "the others, so that `fid` is what others report.",
    )


if not TYPE_CHECKING:
    EvaluationConfig = with_sections(EvaluationConfig, "evaluation_section")
