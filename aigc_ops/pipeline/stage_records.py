"""Results of single stages, kept on disk under a digest of all that decides them.

Training keeps its own: the folder of a finished run, which is named by its run key. What follows
evaluation changes a store, so it always asks that store.
"""

import sys
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from tqdm import tqdm

from aigc_ops.core.artifacts import Noun, json_digest
from aigc_ops.core.input_paths import references
from aigc_ops.core.state_dir import home
from aigc_ops.pipeline import run_cache
from aigc_ops.pipeline.run_config import RunConfig
from aigc_ops.provenance.code_version import code_digest

NounT = TypeVar("NounT", bound=Noun)


def key(stage: str, config: RunConfig[Any], sections: Sequence[str], before: Iterable[Noun]) -> str:
    """Return a digest of config sections, the files they name, the records before, and the code."""
    settings = config.model_dump(mode="json", include={"name", "seed", *sections})
    named = [path for section in sections for path in references(getattr(config, section)).values()]
    states = run_cache.states(named)
    return json_digest([stage, settings, states, [each.digest for each in before], code_digest()])


def recall_or_compute(
    key: str,
    kind: type[NounT],
    compute: Callable[[], NounT],
    *,
    files: Callable[[NounT], Iterable[str | None]] = lambda _: (),
    force: bool = False,
) -> NounT:
    """Return the record under `key` while its files are there, else a new one, which is kept."""
    path = home() / "stages" / f"{key}.json"
    if not force and (kept := _read(path, kind)) and _have_all(files(kept)):
        return kept
    result = compute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}")
    partial.write_text(result.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)
    return result


def _read(path: Path, kind: type[NounT]) -> NounT | None:
    """Return the record in a file; None without one, and with a warning for a damaged one."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        tqdm.write(f"warning: {path} is no record of a result ({reason}); it is made again",
                   file=sys.stderr)  # fmt: skip
        return None


def _have_all(paths: Iterable[str | None]) -> bool:
    return all(Path(path).is_file() for path in paths if path)
