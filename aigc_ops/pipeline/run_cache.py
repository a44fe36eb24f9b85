"""What earlier runs left, kept on disk, so that an unchanged rerun is told in seconds.

Imports neither torch, prefect nor bentoml: the decision comes before they are loaded.
"""

import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from aigc_ops.core.artifacts import Noun, RunResult, json_digest
from aigc_ops.core.atomic_dirs import verify_folder
from aigc_ops.core.errors import CheckpointError
from aigc_ops.core.state_dir import home
from aigc_ops.formats.stat_digest import quick_digest
from aigc_ops.provenance.code_version import code_digest


class RunRecord(Noun):
    """A finished run, and the state of code, data and other inputs that it speaks of."""

    code_digest: str
    data_path: str
    data_digest: str
    inputs: dict[str, str] = Field(description="State of each input that a setting names.")
    packaged: bool
    absent: list[str] = Field(
        default=[], description="Paths that would be read in place of other inputs if they were."
    )
    result: RunResult

    def is_current(self) -> bool:
        """Whether code, data and other inputs are still what they were."""
        return (
            self.code_digest == code_digest()
            and self.data_digest == quick_digest(self.data_path)
            and self.inputs == states(self.inputs)
            and not any(map(os.path.lexists, self.absent))
        )

    def is_held(self) -> bool:
        """Whether files, version, champion alias and Bento still stand where they stood."""
        from aigc_ops.registry.lookup import held
        from aigc_ops.registry.versions import champion
        from aigc_ops.serving.bento.store import standing_bento

        standing = self.result.verdict.champion
        if not self._has_files() or champion(self.result.name) != standing:
            return False
        if held(self.result.version) is None:
            return False
        if standing is None or not self.packaged:
            return True
        return standing_bento(standing) == self.result.bento

    def _has_files(self) -> bool:
        """Whether the checkpoint is whole and the reports are there."""
        report, checkpoint, scores = self.result.report, self.result.checkpoint, self.result.scores
        pages = (report.json_uri, report.html_uri, scores.report_uri)
        try:
            verify_folder(Path(checkpoint.uri), expected=checkpoint.manifest_digest)
        except CheckpointError:
            return False
        return all(Path(page).is_file() for page in pages if page)


def states(references: Iterable[str]) -> dict[str, str]:
    """What each reference names now: a version's manifest digest, or a `quick_digest`."""
    return {reference: _state(reference) for reference in references}


def _state(reference: str) -> str:
    from aigc_ops.registry.resolution import SCHEME, resolve_version

    if reference.startswith(SCHEME):
        return resolve_version(reference).manifest_digest
    return quick_digest(reference)


def command_digest(config: Path, flags: Sequence[str]) -> str | None:
    """Names a command by its config file's bytes and flags; None without the file."""
    try:
        content = config.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    return json_digest([str(config.absolute()), content, list(flags), str(Path.cwd())])


def recall(digest: str) -> RunResult | None:
    """The result of an earlier run under this digest, if nothing has changed since."""
    record = _read(_path(digest))
    return record.result if record and record.is_current() and record.is_held() else None


def kept() -> list[RunRecord]:
    """Every record of this home that can be read, the newest first."""
    paths = (home() / "runs").glob("*.json")
    by_time = sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)
    return [record for path in by_time if (record := _read(path))]


def keep(digest: str, record: RunRecord) -> None:
    """Write a record under a digest, whole or not at all."""
    path = _path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}")
    partial.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def keep_as(digest: str, other: str, *, absent: list[str]) -> None:
    """Keep the record under `digest` under another digest too, for as long as paths are absent."""
    if _path(digest).is_file():
        record = RunRecord.model_validate_json(_path(digest).read_text(encoding="utf-8"))
        keep(other, record.model_copy(update={"absent": absent}))


def _read(path: Path) -> RunRecord | None:
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _path(digest: str) -> Path:
    return home() / "runs" / f"{digest}.json"
