"""Stored results of single stages, under a digest of everything that decides them.

Used for validation and evaluation. Training finds its own finished checkpoint by the run key. The
later stages change a store, so they always query that store.
"""

import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from tqdm import tqdm

from aigc_ops.core.artifacts import Record, json_digest
from aigc_ops.core.input_paths import collect_inputs
from aigc_ops.core.state_dir import home
from aigc_ops.pipeline import run_cache
from aigc_ops.pipeline.run_config import RunConfig
from aigc_ops.provenance.code_version import code_digest

RecordT = TypeVar("RecordT", bound=Record)


def key(
    stage: str, config: RunConfig[Any], sections: Sequence[str], before: Iterable[Record]
) -> str:
    """Return a digest of config sections, the files they name, earlier records, and the code."""
    settings = config.model_dump(mode="json", include={"name", "seed", *sections})
    # A file named by the config may change under the same name, so its digest counts as well.
    named = [
        path for section in sections for path in collect_inputs(getattr(config, section)).values()
    ]
    inputs = run_cache.input_digests(named)
    records = [record.digest for record in before]
    return json_digest([stage, settings, inputs, records, code_digest()])


def recall_or_compute(
    key: str,
    kind: type[RecordT],
    compute: Callable[[], RecordT],
    *,
    files: Callable[[RecordT], Iterable[str | None]] = lambda _: (),
    force: bool = False,
) -> RecordT:
    """Return the stored record if its files exist, else compute, store and return a new one."""
    path = home() / "stages" / f"{key}.json"
    if not force and (stored := _read(path, kind)) and _have_all(files(stored)):
        return stored
    result = compute()
    # Written to a temporary file and renamed, so that a kill leaves no half-written record.
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}")
    partial.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return result


def _read(path: Path, kind: type[RecordT]) -> RecordT | None:
    """Return the record in a file; None if it does not exist, or is damaged (with a warning)."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        # tqdm.write, since a progress bar may be on this line of the terminal.
        tqdm.write(f"warning: {path} is not a valid record ({reason}); computing it again",
                   file=sys.stderr)  # fmt: skip
        return None


def _have_all(paths: Iterable[str | None]) -> bool:
    return all(Path(path).is_file() for path in paths if path)
