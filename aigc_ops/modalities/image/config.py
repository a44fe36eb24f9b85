"""Settings of images: under `data.image`, `validation.image` and `evaluation.image`."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from aigc_ops.core.artifacts import Score
from aigc_ops.core.input_paths import InputPath
from aigc_ops.interfaces.guard import Guard
from aigc_ops.interfaces.sections import SectionConfig

ExtractorName = Literal[
    "efficientnet-lite0",
    "inception-v3",
    "dinov2-vit-s-14",
    "dinov2-vit-b-14",
    "dinov2-vit-l-14",
    "dinov2-vit-g-14",
    "backbone",
]


class ImageDataConfig(SectionConfig):
    """Settings for reading images."""

    former_names: ClassVar[Mapping[str, str]] = {
        "size": "image_size",
        "column": "image_column",
        "memory_gb": "memory_gb",
        "num_workers": "num_workers",
    }

    size: int | None = Field(
        default=None,
        ge=4,
        le=1024,
        description=(
            "Side in pixels to which images are centre-cropped and resized (bicubic, "
            "antialiased); empty: keep the size, which must be the same for all images."
        ),
    )
    column: str = Field(
        default="image",
        min_length=1,
        description="Parquet column of encoded images: bytes, or a struct with a bytes field.",
    )
    convert: Literal["8-bit"] | None = Field(
        default=None,
        description="8-bit: read TIFF, and images of 16 bits a channel as value / 257, rounded; "
        "empty: refuse them.",
    )
    memory_gb: float = Field(
        default=4.0,
        gt=0,
        description=(
            "Maximum memory for a split's images, in GiB; a larger split is streamed from its "
            "files, and rows are shuffled within a window."
        ),
    )
    num_workers: int = Field(
        default=2, ge=1, le=64, description="Threads that decode streamed images."
    )

    @property
    def memory_bytes(self) -> int:
        """`memory_gb` in bytes."""
        return int(self.memory_gb * 2**30)


class ImageValidationConfig(SectionConfig):
    """Limits that images must meet before training."""

    former_names: ClassVar[Mapping[str, str]] = {
        "min_side": "min_image_side",
        "max_side": "max_image_side",
    }

    min_side: int = Field(default=4, ge=1, description="Minimum width and height, in pixels.")
    max_side: int = Field(default=4096, ge=1, description="Maximum width and height, in pixels.")


class BackboneConfig(BaseModel):
    """Settings of a custom network whose features are compared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weights: InputPath | None = Field(
        default=None,
        description="File with a torchvision network's state_dict (.safetensors or .pth) or "
        "a torch.export program (.pt2) that returns (B, D) features for (B, 3, H, W) inputs.",
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-fA-F]{64}$",
        description="SHA-256 of the file; required for a .pt2, which can run code when loaded.",
    )
    architecture: str | None = Field(
        default=None,
        description="torchvision's name of the network, such as resnet50, for a state_dict; the "
        "features are the inputs of its last linear layer.",
    )
    input_size: int = Field(
        default=224, ge=8, le=1024, description="Input size in pixels to which images are resized."
    )
    resize: Literal["bilinear", "bicubic"] = Field(
        default="bilinear", description="Filter for resizing, antialiased."
    )
    mean: Sequence[float] = Field(
        default=[0.485, 0.456, 0.406],
        min_length=3,
        max_length=3,
        description="Mean per channel (red, green, blue in [0, 1]) for normalisation.",
    )
    std: Sequence[float] = Field(
        default=[0.229, 0.224, 0.225],
        min_length=3,
        max_length=3,
        description="Standard deviation per channel for normalisation.",
    )


class ImageEvaluationConfig(SectionConfig):
    """Settings for evaluating images, and the feature extractor."""

    former_names: ClassVar[Mapping[str, str]] = {
        name: name
        for name in (
            *("num_samples", "num_seeds", "reference", "extractor", "input_size"),
            *("inception_weights", "inception_resize", "dinov2_weights", "backbone"),
            *("num_controls", "num_draws"),
        )
    }

    num_samples: int = Field(
        default=2000, ge=2, le=1_000_000, description="Number of images generated and evaluated."
    )
    num_seeds: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Number of seeds, each giving num_samples images and a distance; the first "
        "is the score, the others show its spread.",
    )
    reference: Literal["train", "heldout"] = Field(
        default="train", description="Split that generated images are compared with."
    )
    extractor: ExtractorName = Field(
        default="efficientnet-lite0",
        description="Network whose features are compared. inception-v3 gives `fid`; "
        "efficientnet-lite0 needs no download; dinov2-vit-* are named as in torch-fidelity; "
        "backbone is a custom network.",
    )
    input_size: int | None = Field(
        default=None,
        ge=32,
        le=512,
        multiple_of=32,
        description="Input size of efficientnet-lite0 in pixels; empty: 128. The input sizes of "
        "other extractors are fixed.",
    )
    inception_weights: InputPath | None = Field(
        default=None,
        description="File with FID weights; empty: torch-fidelity's cache, else its download. "
        "With non-standard weights, metric names contain their digest instead of `fid`.",
    )
    inception_resize: Literal["tensorflow", "clean", "legacy"] = Field(
        default="tensorflow",
        description="Resizing method of inception-v3, part of the metric's name: tensorflow as in "
        "the original FID and torch-fidelity (`fid`), clean as in clean-fid, legacy as in "
        "pytorch-fid.",
    )
    dinov2_weights: InputPath | None = Field(
        default=None,
        description="File with DINOv2's weights; empty: torch hub's cache. Never downloaded.",
    )
    backbone: BackboneConfig = Field(
        default=BackboneConfig(), description="Custom network; used when extractor is `backbone`."
    )
    num_controls: int = Field(
        default=8,
        ge=0,
        description="Maximum number of the model's controls, in its own order, whose effect is "
        "shown and measured; 0: none.",
    )
    copy_control: Literal["heldout", "cross_fitted"] = Field(
        default="heldout",
        description="Images that set the bound of near copies: held-out ones, of which 100 are "
        "needed, or for small sets cross_fitted: training images, each compared with the others. "
        "The latter finds less where training images are nearer to each other than to new ones.",
    )
    num_draws: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Random draws per held-out image for likelihood estimates, such as a VAE's "
        "importance samples.",
    )


GUARDS = {
    "coverage": Guard(
        higher_is_better=True,
        limit=0.05,
        at_most=1,
        former_name="max_coverage_loss",
        description="Maximum loss of coverage against the champion; mode collapse lowers "
        "coverage even while the distance improves.",
    ),
    "label_agreement": Guard(
        higher_is_better=True,
        limit=0.03,
        at_most=1,
        former_name="max_agreement_loss",
        description="Maximum increase of the share of samples that show another class than "
        "requested.",
    ),
    "class_spread": Guard(
        higher_is_better=True,
        limit=0.1,
        at_most=1,
        former_name="max_spread_loss",
        description="Maximum loss of diversity in the least diverse class, as a fraction of the "
        "real class's spread.",
    ),
    "near_duplicates": Guard(
        higher_is_better=False,
        limit=0.03,
        at_most=1,
        former_name="max_duplicates_gain",
        description="Maximum increase of the share of samples that are near duplicates.",
    ),
}

# Shown beside each metric in reports. The keys are stored metric names; a key that ends in
# `*` matches all names that begin so.
MEANINGS = {
    "fid": "Fréchet distance to the data in Inception's features; lower is better",
    "fd_efficientnet_lite0": "Fréchet distance to the data in EfficientNet-Lite0's features",
    "kid": "kernel distance in Inception's features, unbiased; lower is better",
    "kd_efficientnet_lite0": "kernel distance in EfficientNet-Lite0's features, unbiased",
    "inception_score": "Inception Score: confident classes and a diverse mixture; higher is better",
    "precision": "share of samples within the neighbourhood of a real image",
    "recall": "share of real images within the neighbourhood of a sample",
    "density": "number of real neighbourhoods that contain a sample, over k; near 1 is good",
    "coverage": "share of real images with a sample in their neighbourhood",
    "near_duplicates": "share of samples closer to another one than 99 % of real images are",
    "label_agreement": "share of samples that a linear probe assigns to the requested class",
    "real_label_agreement": "the same for real images that the probe was not fitted to",
    "label_agreement_ratio": "label_agreement over real_label_agreement; 1: samples are recognised "
    "as often as real images",
    "discriminator_membership_auc": "share of pairs of a training and a held-out image of which "
    "the discriminator ranks the training image higher (AUC of membership inference); 0.5: "
    "no overfitting, from 0.75 on a warning",
    "class_spread": "minimum over classes of spread / real spread; 0: a class is one image",
    "copies_in_pixels": "share of samples nearer to a training image than 99 % of held-out "
    "images are; 1 % is expected",
    "copies_in_features": "the same in features",
    "copies_in_aligned": "the same in pixels after a small shift, zoom, turn or mirroring",
    "copy_power": "share of planted copies of training images that these find: mirrored, shifted "
    "by 1 or 2 pixels, JPEG of quality 30, other colours",
    "baseline_*": "trivial baseline, pixels drawn from Gaussians fitted to the training images of "
    "each class; its",
    "exact_copies": "share of samples that equal a training image",
    "real_exact_copies": "share of held-out images that equal a training image",
    "nll": "importance-weighted NLL of held-out images, in nats; lower is better",
    "elbo": "evidence lower bound of held-out images, in nats; higher is better",
    "reconstruction": "expected log-likelihood term of the bound, in nats",
    "kl": "KL divergence of the latent codes from the prior, in nats",
    "fid_*": "Fréchet distance in Inception's features of images resized as",
    "kid_*": "kernel distance in Inception's features of images resized as",
    "inception_score_*": "Inception Score with non-standard weights or resizing:",
}


def agreement_lines(values: Mapping[str, Score]) -> list[str]:
    """Return the line on label agreement beside that of real images; empty without classes."""
    names = ("label_agreement", "real_label_agreement", "label_agreement_ratio")
    if not all(name in values for name in names):
        return []
    agreement, real, ratio = (values[name] for name in names)
    return [
        f"label agreement: {agreement.value:.2f}, {ratio.value:.0%} of the {real.value:.2f} that "
        f"held-out images reach (95 % interval {ratio.low:.0%} to {ratio.high:.0%})"
    ]
