"""Settings of texts: under `data.text`, `validation.text` and `evaluation.text`."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from aigc_ops.core.input_paths import InputPath
from aigc_ops.interfaces.guard import Guard
from aigc_ops.interfaces.sections import SectionConfig


class TextDataConfig(SectionConfig):
    """Settings for reading texts."""

    former_names: ClassVar[Mapping[str, str]] = {
        "documents": "documents",
        "column": "text_column",
        "messages_column": "messages_column",
    }

    documents: Literal["auto", "line", "paragraph", "file"] = Field(
        default="auto",
        description=(
            "Unit of a text file that is one document; auto: a paragraph if the file has blank "
            "lines, else a line; for a folder of text files, a file."
        ),
    )
    column: str = Field(
        default="text", min_length=1, description="Parquet column of texts, or of answers."
    )
    max_characters: int = Field(
        default=1_000_000,
        ge=100,
        description="Length above which a document is cut into pieces, where possible between "
        "paragraphs, lines or words.",
    )
    messages_column: str = Field(
        default="messages",
        min_length=1,
        description="Parquet column or JSON key of conversations: a list of role and content.",
    )


class TextValidationConfig(SectionConfig):
    """Limits that texts must meet before training."""

    former_names: ClassVar[Mapping[str, str]] = {
        "min_characters": "min_characters",
        "max_characters": "max_characters",
    }

    min_characters: int = Field(default=1, ge=1, description="Minimum length of a text.")
    max_characters: int = Field(default=1_000_000, ge=1, description="Maximum length of a text.")


class TextEvaluationConfig(SectionConfig):
    """Settings for evaluating texts."""

    former_names: ClassVar[Mapping[str, str]] = {
        "num_texts": "num_texts",
        "extractor": "text_extractor",
        "general_path": "general_path",
        "num_beginnings": "num_beginnings",
    }

    num_texts: int = Field(
        default=64, ge=2, le=100_000, description="Number of texts generated and evaluated."
    )
    extractor: Literal["minilm"] | None = Field(
        default="minilm",
        description="Network whose text embeddings are compared, if its package is installed; "
        "empty: no comparison by embeddings.",
    )
    general_path: InputPath | None = Field(
        default=None,
        min_length=1,
        description="General texts (as data.path) on which the model and its base model are "
        "scored too; measures forgetting.",
    )
    num_beginnings: int = Field(
        default=128,
        ge=0,
        le=100_000,
        description="Maximum number of training texts, and of held-out texts, whose beginnings "
        "the model continues to measure verbatim memorisation; 0: do not measure.",
    )


GUARDS = {
    "repetition_4": Guard(
        higher_is_better=False,
        limit=0.1,
        at_most=1,
        former_name="max_repetition_gain",
        description="Maximum increase of the share of repeated four-word runs over the champion.",
    ),
    "general_bits_per_byte": Guard(
        higher_is_better=False,
        limit=0.1,
        former_name="max_forgetting",
        description="Maximum increase of the bits per byte of general texts over the champion "
        "(evaluation.text.general_path).",
    ),
}

# Shown beside each metric in reports. The keys are stored metric names.
MEANINGS = {
    "bits_per_byte": "negative log-likelihood of held-out texts; lower is better; comparable "
    "across tokenizers",
    "baseline_bits_per_byte": "the same of the trivial baseline, an n-gram of the training texts' "
    "bytes (Kneser-Ney)",
    "bits_per_byte_before": "bits per byte before this training",
    "perplexity": "exponential of the negative log-likelihood per token of this tokenizer",
    "perplexity_before": "perplexity before this training",
    "distinct_1": "distinct words over all generated words",
    "distinct_2": "distinct word pairs over all generated pairs",
    "repetition_4": "share of four-word runs that occurred earlier in the same text",
    "self_bleu_4": "similarity of each text to all others; high: low diversity",
    "fd_minilm": "Fréchet distance to the held-out texts in MiniLM's embeddings; lower is better",
    "kd_minilm": "kernel distance in MiniLM's embeddings, unbiased; lower is better",
    "train_overlap_8": "share of eight-word runs that occur in a training text",
    "real_train_overlap_8": "the same for held-out texts: repetition within the data",
    "exact_copies": "share of generated texts that equal a training text",
    "real_exact_copies": "share of held-out texts that equal a training text",
    "longest_match": "words in the longest run that occurs in a training text; at least eight",
    "copies_in_continuations": "share of training texts that the model reproduces verbatim from "
    "their beginnings; at most 1 % of held-out texts (or one of few) count as such",
    "general_bits_per_byte": "negative log-likelihood of general texts",
    "general_bits_per_byte_before": "the same before this training; a rise since means forgetting",
    "general_perplexity": "perplexity of general texts",
    "general_perplexity_before": "perplexity of general texts before this training",
}
