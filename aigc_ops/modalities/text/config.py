"""Settings of texts: under `data.text`, `validation.text` and `evaluation.text`."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from aigc_ops.core.input_paths import Reference
from aigc_ops.interfaces.guard import Guard
from aigc_ops.interfaces.sections import SectionConfig


class TextDataConfig(SectionConfig):
    """How texts are read."""

    former_names: ClassVar[Mapping[str, str]] = {
        "documents": "documents",
        "column": "text_column",
        "messages_column": "messages_column",
    }

    documents: Literal["auto", "line", "paragraph", "file"] = Field(
        default="auto",
        description=(
            "What one document of a text file is; auto: a paragraph where the file has blank "
            "lines, else a line; in a folder of text files, a file."
        ),
    )
    column: str = Field(
        default="text", min_length=1, description="Parquet column of texts, or of answers."
    )
    messages_column: str = Field(
        default="messages",
        min_length=1,
        description="Parquet column or JSON key of conversations: a list of role and content.",
    )


class TextValidationConfig(SectionConfig):
    """What texts must be before anything is trained on them."""

    former_names: ClassVar[Mapping[str, str]] = {
        "min_characters": "min_characters",
        "max_characters": "max_characters",
    }

    min_characters: int = Field(default=1, ge=1, description="Least length of a text.")
    max_characters: int = Field(default=1_000_000, ge=1, description="Most length of a text.")


class TextEvaluationConfig(SectionConfig):
    """How texts are judged."""

    former_names: ClassVar[Mapping[str, str]] = {
        "num_texts": "num_texts",
        "extractor": "text_extractor",
        "general_path": "general_path",
        "num_beginnings": "num_beginnings",
    }

    num_texts: int = Field(
        default=64, ge=2, le=100_000, description="Texts drawn from the model and judged."
    )
    extractor: Literal["minilm"] | None = Field(
        default="minilm",
        description="Network whose embeddings of texts are compared, where its package is "
        "installed; empty: texts are not compared by embeddings.",
    )
    general_path: Reference | None = Field(
        default=None,
        min_length=1,
        description="Other texts (as data.path) on which a model is scored too, beside the "
        "model that its training started from: what has it forgotten?",
    )
    num_beginnings: int = Field(
        default=128,
        ge=0,
        le=100_000,
        description="Most training texts whose beginnings a model goes on from, to see "
        "whether it knows them by heart, and as many held-out ones; 0: none.",
    )


GUARDS = {
    "repetition_4": Guard(
        higher_is_better=False,
        limit=0.1,
        at_most=1,
        former_name="max_repetition_gain",
        description="How much more texts may repeat themselves, in four-word runs.",
    ),
    "general_bits_per_byte": Guard(
        higher_is_better=False,
        limit=0.1,
        former_name="max_forgetting",
        description="Bits a byte by which general texts may be predicted worse than by the "
        "champion (evaluation.text.general_path).",
    ),
}

MEANINGS = {
    "bits_per_byte": "surprise at held-out texts; lower is better, whatever the tokenizer",
    "bits_per_byte_before": "… before this training",
    "perplexity": "the same per token of this tokenizer",
    "perplexity_before": "… before this training",
    "distinct_1": "different words over all words drawn",
    "distinct_2": "different pairs of words over all pairs drawn",
    "repetition_4": "share of four-word runs that a text said before",
    "self_bleu_4": "likeness of each text to all others; high: they say the same",
    "fd_minilm": "Fréchet distance to the held-out texts in MiniLM's embeddings; lower is better",
    "kd_minilm": "kernel distance in MiniLM's embeddings, unbiased; lower is better",
    "train_overlap_8": "share of eight-word runs that stand in a training text",
    "real_train_overlap_8": "the same of held-out texts: how far the data repeats itself",
    "longest_match": "words of the longest run that stands in a training text, of at least eight",
    "copies_in_continuations": "share of training texts that come out word for word from their "
    "beginnings; at most 1 % of held-out texts do (or one, of few)",
    "general_bits_per_byte": "surprise at general texts",
    "general_bits_per_byte_before": "… before this training: what was forgotten?",
    "general_perplexity": "the same per token of this tokenizer",
    "general_perplexity_before": "… before this training",
}
