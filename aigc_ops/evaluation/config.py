"""Settings of the evaluation: how many samples are judged, in which feature space."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from aigc_ops.devices import DeviceName, PrecisionName

ExtractorName = Literal["efficientnet-lite0", "inception-v3"]


class EvaluationConfig(BaseModel):
    """What a checkpoint's samples are compared with, and by whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_samples: int = Field(
        default=2000, ge=2, le=1_000_000, description="Images drawn from the model and judged."
    )
    num_reference: int = Field(
        default=5000,
        ge=2,
        description="Most images (or held-out texts) of the data that stand for all of it.",
    )
    reference: Literal["train", "heldout"] = Field(
        default="train", description="Split that images are compared with; texts: the held-out one."
    )
    extractor: ExtractorName = Field(
        default="efficientnet-lite0",
        description="Network whose features are compared. inception-v3 gives `fid`; "
        "efficientnet-lite0 is packaged and needs no network.",
    )
    input_size: int | None = Field(
        default=None,
        ge=32,
        le=512,
        multiple_of=32,
        description="Pixels to which efficientnet-lite0 sees each side resized; empty: 128. "
        "inception-v3 always sees 299.",
    )
    inception_weights: str | None = Field(
        default=None,
        description="File of the FID weights; empty: torch-fidelity's cache, else its download. "
        "Values of other than the standard weights bear their digest and are not called `fid`.",
    )
    inception_resize: Literal["tensorflow", "clean", "legacy"] = Field(
        default="tensorflow",
        description="How inception-v3's images are resized, which is part of the number's name: "
        "tensorflow as the first FID and torch-fidelity (`fid`), clean as clean-fid, legacy as "
        "pytorch-fid.",
    )
    num_texts: int = Field(
        default=64,
        ge=2,
        le=100_000,
        description="Texts drawn from the model and judged.",
    )
    text_extractor: Literal["minilm"] | None = Field(
        default="minilm",
        description="Network whose embeddings of texts are compared, where its package is "
        "installed; empty: texts are not compared by embeddings.",
    )
    general_path: str | None = Field(
        default=None,
        min_length=1,
        description="Other texts (as data.path) on which a text model is scored too, beside the "
        "model that its training started from: what has it forgotten?",
    )
    num_beginnings: int = Field(
        default=128,
        ge=0,
        le=100_000,
        description="Most training texts whose beginnings a text model goes on from, to see "
        "whether it knows them by heart, and as many held-out ones; 0: none.",
    )
    num_controls: int = Field(
        default=8,
        ge=0,
        description="Most controls of an image model, in its own order, whose effect is pictured "
        "and measured; 0: none.",
    )
    num_draws: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Random draws for each held-out image where a family tells its likelihood: a "
        "VAE's importance samples.",
    )
    batch_size: int = Field(default=32, ge=1, le=4096, description="Images in a batch.")
    device: DeviceName = Field(default="auto", description="auto: CUDA, then MPS, then the CPU.")
    precision: PrecisionName = Field(
        default="auto",
        description="auto: bf16 where the processor has it for efficientnet-lite0; fp32 for "
        "inception-v3, so that `fid` is what others report.",
    )
