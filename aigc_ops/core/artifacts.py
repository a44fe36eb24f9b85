"""The frozen nouns that stages hand to one another: small, typed, JSON-serialisable.

They carry URIs and digests, never tensors or data, so a stage is cheap to cache, to
rerun alone and to run on another machine.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
)


class Noun(BaseModel):
    """A frozen, closed record; equal content has an equal digest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of this record."""
        return json_digest(self.model_dump(mode="json"))


class ImageShape(Noun):
    """What a model must know of image data before its weights are made."""

    channels: Literal[1, 3]
    height: int
    width: int
    class_names: tuple[str, ...] = Field(
        default=(), description="Name of each label 0..K-1; empty when there are no labels."
    )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class DatasetRef(Noun):
    """A dataset at rest: where it lies, what it holds, and whether DVC pins it."""

    uri: str = Field(description="Local path of the dataset: a folder or a file.")
    modality: str
    content_digest: str = Field(description="SHA-256 over the content of both splits.")
    num_train: int
    num_heldout: int
    image_shape: ImageShape | None = Field(default=None, description="Set for images only.")
    shape: dict[str, JsonValue] | None = Field(
        default=None, description="What a model must know of samples of another modality."
    )
    dvc_digest: str | None = Field(
        default=None, description="Digest of the DVC output that pins the data; None: not pinned."
    )
    licences: tuple[str, ...] = Field(default=(), description="Distinct licences of the rows.")
    sources: tuple[str, ...] = Field(default=(), description="Distinct sources of the rows.")

    @model_serializer(mode="wrap")
    def _without_an_empty_shape(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave `shape` out where there is none, as records without this field do."""
        record: dict[str, Any] = handler(self)
        if self.shape is None:
            record.pop("shape", None)
        return record

    @property
    def version(self) -> str:
        """Short data version for names people read: the first 8 digits of its digest."""
        return self.content_digest[:8]

    @property
    def sample_shape(self) -> dict[str, JsonValue] | None:
        """Return the shape of the samples as JSON, whichever field holds it; None without one."""
        return self.image_shape.model_dump(mode="json") if self.image_shape else self.shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the name of each label 0..K-1; empty when there are no labels."""
        names = (self.sample_shape or {}).get("class_names")
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def num_rows(self, split: Literal["train", "heldout"]) -> int:
        """Return the number of rows of a split."""
        return self.num_train if split == "train" else self.num_heldout


class ValidationReport(Noun):
    """Outcome of the expectations over one dataset, and where the report is kept."""

    success: bool
    dataset_digest: str
    num_expectations: int
    num_rows: int
    failures: tuple[str, ...] = Field(
        default=(), description="One line per failed expectation, naming rows."
    )
    json_uri: str
    html_uri: str


class Checkpoint(Noun):
    """A stored model: a folder of safetensors, its JSON and a SHA-256 manifest."""

    uri: str = Field(description="Local folder.")
    manifest_digest: str = Field(description="SHA-256 of the folder's manifest.json.")
    family: str
    modality: str
    step: int
    dataset_digest: str
    run_id: str | None = Field(default=None, description="MLflow run that trained it.")
    rate: float | None = Field(
        default=None, description="Images or tokens per second while training, warm-up excluded."
    )
    grid_uri: str | None = Field(
        default=None, description="Last sample grid (PNG) or sample texts (TXT)."
    )


class Score(Noun):
    """One metric's value, its interval, and the contract under which it may be compared."""

    value: float
    low: float
    high: float
    contract: dict[str, JsonValue]
    other_seeds: tuple[float, ...] = Field(
        default=(), description="Values of the same under the seeds that follow the contract's."
    )

    @model_serializer(mode="wrap")
    def _without_what_was_not_asked(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Value, interval and contract; other seeds only where some were drawn."""
        record: dict[str, Any] = handler(self)
        if not self.other_seeds:
            record.pop("other_seeds", None)
        return record


class Scores(Noun):
    """Every score of one checkpoint; values are comparable only under equal contracts."""

    checkpoint_digest: str
    modality: str
    primary: str = Field(description="The metric that decides promotion; lower is better.")
    values: dict[str, Score]
    grid_uri: str | None = None
    report_uri: str | None = Field(default=None, description="The report, one HTML page.")


FIRST_VERSION = 1
"""Version of the evaluation of all scores whose contracts name a digest of the code instead."""


def contract_differences(a: Score, b: Score) -> list[str]:
    """Return the terms in which two contracts differ; none when the values may be compared.

    The seed and the kind of interval do not count: intervals speak of other draws.
    """
    ours, theirs = (_compared_terms(score.contract) for score in (a, b))
    missing = object()
    terms = ours.keys() | theirs.keys()
    return sorted(term for term in terms if ours.get(term, missing) != theirs.get(term, missing))


def _compared_terms(contract: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the terms that must be equal; earlier contracts name the code instead of a version."""
    terms = {term: value for term, value in contract.items() if term not in ("seed", "interval")}
    if "code" in terms and "version" not in terms:
        del terms["code"]
        terms["version"] = FIRST_VERSION
    return terms


class ModelVersion(Noun):
    """A version in the registry, registered once per checkpoint."""

    name: str
    version: int
    run_id: str
    manifest_digest: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


class Verdict(Noun):
    """What promotion decided and why; the champion alias moves nowhere else."""

    model: ModelVersion
    promoted: bool
    alias: Literal["champion", "challenger"]
    champion: ModelVersion | None = Field(
        description="The champion after the decision; None while the first waits for a person."
    )
    reasons: tuple[str, ...]
    gate: Literal["promote", "keep", "undecided"] = "promote"
    waiting: bool = Field(default=False, description="Whether a person must decide.")
    packet_digest: str | None = None
    packet_uri: str | None = Field(default=None, description="The review packet, one HTML page.")


class BentoTag(Noun):
    """A Bento that was booted and compared with its golden samples."""

    tag: str
    model: ModelVersion
    uri: str = Field(description="Folder of the Bento in the local store.")
    num_golden: int = Field(description="Golden samples compared over HTTP.")
    max_levels_apart: int = Field(description="Largest pixel difference of 255; 0 for text.")


class RunResult(Noun):
    """What one run of the whole chain left, and how much of it was there before."""

    name: str
    dataset: DatasetRef
    report: ValidationReport
    checkpoint: Checkpoint
    scores: Scores
    version: ModelVersion
    verdict: Verdict
    bento: BentoTag | None = Field(description="The champion's Bento; None when not packaged.")


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name, as MLflow params and flags name them."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(dotted(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(there: Mapping[str, Any], here: Mapping[str, Any], *, prefix: str = "") -> str:
    """Return the fields in which two records differ, by their dotted names, with both values."""
    found = []
    for name in dict.fromkeys([*there, *here]):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.append(differences(old, new, prefix=f"{prefix}{name}."))
        elif old != new:
            found.append(f"{prefix}{name} is {old!r} there and {new!r} here")
    return ", ".join(filter(None, found))


def json_digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of key order and spacing."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
