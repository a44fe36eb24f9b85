"""Records of finished runs on disk, so that an unchanged rerun finishes in seconds."""

# This module must not import torch, Prefect or BentoML at its top: `aigc-ops run` looks for a
# record before it loads them.

import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from aigc_ops.core.artifacts import Record, RunResult, json_digest
from aigc_ops.core.atomic_dirs import verify_folder
from aigc_ops.core.errors import CheckpointError
from aigc_ops.core.state_dir import home
from aigc_ops.formats.stat_digest import quick_digest
from aigc_ops.provenance.code_version import code_digest


class RunRecord(Record):
    """A finished run with the state of code, data and other inputs that it was made from."""

    code_digest: str
    data_path: str
    data_digest: str
    inputs: dict[str, str] = Field(description="Digest of each input that a config field names.")
    packaged: bool
    absent: list[str] = Field(
        default=[], description="Paths that would be read instead of other inputs if they existed."
    )
    result: RunResult

    def is_current(self) -> bool:
        """Return True if code, data and other inputs are unchanged."""
        # `and` stops at the first difference, so that edited code does not cost a scan of the data.
        return (
            self.code_digest == code_digest()
            and self.data_digest == quick_digest(self.data_path)
            and self.inputs == input_digests(self.inputs)
            and not any(map(os.path.lexists, self.absent))
        )

    def has_artifacts(self) -> bool:
        """Return True if files, version, champion alias and Bento exist unchanged."""
        # Imported here: a record whose code or data has changed needs no registry.
        from aigc_ops.registry.lookup import lookup_version
        from aigc_ops.registry.versions import champion
        from aigc_ops.serving.bento.store import find_newest_bento

        recorded = self.result.verdict.champion
        if not self._has_files() or champion(self.result.name) != recorded:
            return False
        if lookup_version(self.result.version) is None:
            return False
        if recorded is None or not self.packaged:
            return True
        return find_newest_bento(recorded) == self.result.bento

    def _has_files(self) -> bool:
        """Return True if the checkpoint is undamaged and the reports exist."""
        # The checkpoint by digest, since it is served. Reports are only read by people.
        report, checkpoint, scores = self.result.report, self.result.checkpoint, self.result.scores
        pages = (report.json_uri, report.html_uri, scores.report_uri)
        try:
            verify_folder(Path(checkpoint.uri), expected=checkpoint.manifest_digest)
        except CheckpointError:
            return False
        return all(Path(page).is_file() for page in pages if page)


def input_digests(references: Iterable[str]) -> dict[str, str]:
    """Return the present digest of each input: a version's manifest, or a `quick_digest`."""
    return {reference: _state(reference) for reference in references}


def _state(reference: str) -> str:
    from aigc_ops.registry.resolution import SCHEME, resolve_version

    # An alias such as @champion may name another version by now, so it is resolved each time.
    if reference.startswith(SCHEME):
        return resolve_version(reference).manifest_digest
    return quick_digest(reference)


def command_digest(config: Path, flags: Sequence[str]) -> str | None:
    """Return a digest of a command: config file, flags, working folder; None without the file."""
    # The text of the file, not the parsed config: parsing imports torch. The working folder
    # counts, since relative paths in the config and in flags start there.
    try:
        content = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return json_digest([str(config.absolute()), content, list(flags), str(Path.cwd())])


def load_if_valid(digest: str) -> RunResult | None:
    """Return the result of an earlier run under this digest; None if anything has changed."""
    record = _read(_path(digest))
    return record.result if record and record.is_current() and record.has_artifacts() else None


def list_runs() -> list[RunRecord]:
    """Return every readable record of the state directory, the newest first."""
    paths = (home() / "runs").glob("*.json")
    by_time = sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
    return [record for path in by_time if (record := _read(path))]


def save(digest: str, record: RunRecord) -> None:
    """Write a record under a digest, completely or not at all."""
    path = _path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A rename is atomic, so that a kill leaves no half-written record under the final name.
    partial = path.with_name(f".{uuid.uuid4().hex}")
    partial.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def add_alias(digest: str, other: str, *, absent: list[str]) -> None:
    """Save the record of `digest` under another digest too, valid while `absent` do not exist."""
    if _path(digest).is_file():
        record = RunRecord.model_validate_json(_path(digest).read_text(encoding="utf-8"))
        save(other, record.model_copy(update={"absent": absent}))


def _read(path: Path) -> RunRecord | None:
    # An unreadable record counts as absent: the run is then made again and replaces it.
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _path(digest: str) -> Path:
    return home() / "runs" / f"{digest}.json"
