"""What a run says of its data: where it lies and how its parts are named."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, Split] = ("train", "heldout")


class DataConfig(BaseModel):
    """The dataset of a run; docs/data.md tells the formats."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str = Field(
        min_length=1,
        description=(
            "Folder with train and held-out Parquet, a Parquet file, a folder of images "
            "(classes by sub-folder), a text file, a folder of text files, or JSON lines."
        ),
    )
    modality: Literal["auto", "image", "text"] = Field(
        default="auto", description="What the data holds; auto: told from its files and columns."
    )
    image_size: int | None = Field(
        default=None,
        ge=4,
        le=1024,
        description=(
            "Side in pixels to which images are centre-cropped and resized (bicubic, "
            "antialiased); empty: the data's own size, which all images must share."
        ),
    )
    memory_gb: float = Field(
        default=4.0,
        gt=0,
        description=(
            "Most memory for a split's images, in GiB; a larger split is read from its files as "
            "it is needed, near rows shuffled among one another."
        ),
    )
    num_workers: int = Field(
        default=2, ge=1, le=64, description="Threads that decode images read as needed."
    )
    heldout_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of rows held out of data that comes without a held-out split.",
    )
    documents: Literal["auto", "line", "paragraph", "file"] = Field(
        default="auto",
        description=(
            "What one document of a text file is; auto: a paragraph where the file has blank "
            "lines, else a line; in a folder of text files, a file."
        ),
    )
    image_column: str = Field(
        default="image",
        min_length=1,
        description="Parquet column of encoded images: bytes, or a struct with a bytes field.",
    )
    label_column: str | None = Field(
        default="label",
        description="Parquet column of classes (integers or names); empty: ignore classes.",
    )
    text_column: str = Field(
        default="text", min_length=1, description="Parquet column of texts, or of answers."
    )
    prompt_column: str | None = Field(
        default="prompt",
        description="Parquet column of the prompts that the texts answer; empty: none.",
    )
    messages_column: str = Field(
        default="messages",
        min_length=1,
        description="Parquet column or JSON key of conversations: a list of role and content.",
    )
    source_column: str = Field(
        default="source", min_length=1, description="Parquet column of each row's source."
    )
    licence_column: str = Field(
        default="licence", min_length=1, description="Parquet column of each row's licence."
    )

    @property
    def memory_bytes(self) -> int:
        """`memory_gb` in bytes."""
        return int(self.memory_gb * 2**30)
