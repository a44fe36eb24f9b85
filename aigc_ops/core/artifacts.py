"""The frozen records that stages pass to one another: small, typed, JSON-serialisable.

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


class Record(BaseModel):
    """A frozen, closed record; equal content has an equal digest."""

    # Stages share records, so none may change one. An unknown field is an error rather than
    # dropped: a record written by a later release must not be read as if it were complete.
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def digest(self) -> str:
        """Return the SHA-256 (hex) of the canonical JSON of this record."""
        return json_digest(self.model_dump(mode="json"))


class ImageShape(Record):
    """Size, channels and classes of image data, which decide the shapes of a model's weights."""

    channels: Literal[1, 3]
    height: int
    width: int
    class_names: tuple[str, ...] = Field(
        default=(), description="Name of each label 0..K-1; empty when there are no labels."
    )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


class RowGroup(Record):
    """Rows of a dataset that are left out, or read otherwise than stored, for one reason."""

    reason: str
    count: int
    examples: tuple[str, ...] = Field(description="Names of the first of them.")

    def __str__(self) -> str:
        """Return the group as a line."""
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.count} ({', '.join(self.examples)}{more}): {self.reason}"


class DatasetRef(Record):
    """A dataset on disk: its path, size, shape of samples, digest and DVC pin."""

    uri: str = Field(description="Local path of the dataset: a folder or a file.")
    modality: str
    content_digest: str = Field(description="SHA-256 over the content of both splits.")
    num_train: int
    num_heldout: int
    image_shape: ImageShape | None = Field(default=None, description="Set for images only.")
    shape: dict[str, JsonValue] | None = Field(
        default=None, description="Shape of the samples of a modality other than images."
    )
    dvc_digest: str | None = Field(
        default=None, description="Digest of the DVC output that pins the data; None: not pinned."
    )
    licences: tuple[str, ...] = Field(default=(), description="Distinct licences of the rows.")
    sources: tuple[str, ...] = Field(default=(), description="Distinct sources of the rows.")
    dropped: tuple[RowGroup, ...] = Field(
        default=(), description="Rows that are left out; the numbers of rows are without them."
    )
    noted: tuple[RowGroup, ...] = Field(
        default=(), description="Rows that are read otherwise than stored, or are in doubt."
    )

    @model_serializer(mode="wrap")
    def _omit_empty_fields(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the record, without the fields added since version 0.1 that are empty."""
        # Digests of this record name stored results: a dataset without these fields keeps the
        # JSON, and so the digest, that it had before the fields existed.
        record: dict[str, Any] = handler(self)
        for name in ("shape", "dropped", "noted"):
            if not getattr(self, name):
                record.pop(name, None)
        return record

    @property
    def version(self) -> str:
        """Return a short data version for names: the first 8 hex digits of the digest."""
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


class ValidationReport(Record):
    """Outcome of the expectations over one dataset, and the paths of the report."""

    success: bool
    dataset_digest: str
    num_expectations: int
    num_rows: int
    failures: tuple[str, ...] = Field(
        default=(), description="One line per failed expectation, naming rows."
    )
    json_uri: str
    html_uri: str


class Checkpoint(Record):
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


class Score(Record):
    """A metric's value, its interval and the evaluation conditions that make it comparable."""

    value: float
    low: float
    high: float
    # The evaluation conditions: metric settings, digests of data and feature extractor, seed.
    # Stored scores name this field `contract`, so its name stays.
    contract: dict[str, JsonValue]
    other_seeds: tuple[float, ...] = Field(
        default=(), description="The metric's values for the seeds after the contract's seed."
    )

    @model_serializer(mode="wrap")
    def _omit_empty_seeds(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Return the record, without `other_seeds` if only one seed was evaluated."""
        record: dict[str, Any] = handler(self)
        if not self.other_seeds:
            record.pop("other_seeds", None)
        return record


class Scores(Record):
    """All scores of one checkpoint; values compare only under equal evaluation conditions."""

    checkpoint_digest: str
    modality: str
    primary: str = Field(description="The metric that decides promotion; lower is better.")
    values: dict[str, Score]
    grid_uri: str | None = None
    report_uri: str | None = Field(default=None, description="The report, one HTML page.")


FIRST_VERSION = 1
"""Evaluation version of scores whose contract holds a digest of the code instead of a version."""


def contract_differences(a: Score, b: Score) -> list[str]:
    """Return the conditions in which two scores differ; empty if they may be compared."""
    first, second = (_compared_terms(score.contract) for score in (a, b))
    # A condition that only one score has is a difference, even where the value is None.
    missing = object()
    terms = first.keys() | second.keys()
    return sorted(term for term in terms if first.get(term, missing) != second.get(term, missing))


def _compared_terms(contract: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the evaluation conditions that must be equal for a comparison."""
    # The interval covers the variation between seeds and samples, so neither the seed nor the
    # kind of interval makes two values incomparable.
    terms = {term: value for term, value in contract.items() if term not in ("seed", "interval")}
    # Scores of early releases: the digest of the code changed with every edit, so that scores of
    # two releases never compared. The first version of the evaluation computed all of them.
    if "code" in terms and "version" not in terms:
        del terms["code"]
        terms["version"] = FIRST_VERSION
    return terms


class ModelVersion(Record):
    """A version in the registry, registered once per checkpoint."""

    name: str
    version: int
    run_id: str
    manifest_digest: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"


class Verdict(Record):
    """The decision of the promote stage, or of a reviewer, on a version, with its reasons."""

    model: ModelVersion
    promoted: bool
    alias: Literal["champion", "challenger"] | None = Field(
        description="The version's alias in MLflow; None if it was held back or rejected."
    )
    champion: ModelVersion | None = Field(
        description="The champion after the decision; None while the first waits for a person."
    )
    reasons: tuple[str, ...]
    # `keep` means that the gate rejects the candidate; stored verdicts hold this value.
    gate: Literal["promote", "keep", "undecided"] = "promote"
    waiting: bool = Field(default=False, description="Whether a person must decide.")
    packet_digest: str | None = None
    packet_uri: str | None = Field(default=None, description="The review packet, one HTML page.")


class BentoTag(Record):
    """A Bento that was booted and compared with its golden samples."""

    tag: str
    model: ModelVersion
    uri: str = Field(description="Folder of the Bento in the local store.")
    num_golden: int = Field(description="Golden samples compared over HTTP.")
    max_levels_apart: int = Field(description="Largest pixel difference of 255; 0 for text.")


class RunResult(Record):
    """The result of each stage of one run of the whole chain."""

    name: str
    dataset: DatasetRef
    report: ValidationReport
    checkpoint: Checkpoint
    scores: Scores
    version: ModelVersion
    verdict: Verdict
    bento: BentoTag | None = Field(description="The champion's Bento; None when not packaged.")


def dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name, as MLflow params and flags use it."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(dotted(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(
    recorded: Mapping[str, Any], current: Mapping[str, Any], *, prefix: str = ""
) -> str:
    """Return the fields in which two records differ, by their dotted names, with both values."""
    changes = []
    for name in dict.fromkeys([*recorded, *current]):
        old, new = recorded.get(name), current.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            changes.append(differences(old, new, prefix=f"{prefix}{name}."))
        elif old != new:
            changes.append(f"{prefix}{name} is {old!r} there and {new!r} here")
    return ", ".join(filter(None, changes))


def json_digest(value: Any) -> str:
    """Return the SHA-256 (hex) of a JSON value, independent of key order and spacing."""
    # Digests on disk (run keys, names of cache folders) depend on these arguments: keep them.
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's bytes, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
