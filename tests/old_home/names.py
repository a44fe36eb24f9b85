"""The names under which a home keeps things: fields, tags, params, metrics, files, weights.

Read from the stored files alone, so that it does not matter which code wrote them.
"""

import json
import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

Names = dict[str, list[str]]
RUN_KEY = "aigc_ops.run_key"
DATASET = "SELECT dataset_profile FROM datasets d JOIN inputs i ON i.source_id = d.dataset_uuid"
KINDS = {
    "run": "key FROM tags WHERE run_uuid IN ({runs})",
    "params": "key FROM params WHERE run_uuid IN ({runs})",
    "metrics": "key FROM latest_metrics WHERE run_uuid IN ({runs}) AND key NOT LIKE 'system/%'",
    "version": "key FROM model_version_tags WHERE name = '{name}'",
    "registered model": "key FROM registered_model_tags WHERE name = '{name}'",
    "logged model tags": "tag_key FROM logged_model_tags WHERE model_id IN ({models})",
    "logged model params": "param_key FROM logged_model_params WHERE model_id IN ({models})",
}
"""Where MLflow's database keeps the names of a model's tags, params and metrics."""


def paths(value: Any, prefix: str = "") -> set[str]:
    """Dotted names of the leaves of a JSON value; `[]` stands for each item of a list."""
    if isinstance(value, dict) and value:
        return set().union(*(paths(v, f"{prefix}.{k}".lstrip(".")) for k, v in value.items()))
    if isinstance(value, list) and value:
        return set().union(*(paths(each, f"{prefix}[]") for each in value))
    return {prefix}


def names_of_folder(folder: Path) -> Names:
    """Names in a checkpoint, or in the folder that a version keeps."""
    found: dict[str, Iterable[str]] = {
        "files": (path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    }
    for path in folder.glob("*.json"):
        found[path.name] = paths(json.loads(path.read_text()))
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            found[path.name] = weights.keys()
    for path in folder.rglob("samples.jsonl"):
        found["samples.jsonl"] = paths([json.loads(line) for line in path.read_text().splitlines()])
    return {what: sorted(names) for what, names in found.items()}


def names_of_model(home: Path, name: str) -> Names:
    """Names in the stores, of a registered model and of the runs that trained it."""
    found: Names = {}
    folder = newest_stored(home, name)
    flavor = yaml.safe_load((folder / "MLmodel").read_text())
    found["MLmodel"] = sorted(paths(flavor))
    found["loader_module"] = [flavor["flavors"]["python_function"]["loader_module"]]
    found["files beside MLmodel"] = sorted(path.name for path in folder.iterdir())
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as database:
        scope = {
            "name": name,
            "runs": f"SELECT run_uuid FROM tags WHERE key = '{RUN_KEY}' AND value LIKE '{name}-%'",
            "models": f"SELECT model_id FROM logged_models WHERE name = '{name}'",
        }
        for kind, source in KINDS.items():
            rows = database.execute(f"SELECT DISTINCT {source.format(**scope)}")
            found[kind] = sorted({_numbered(key) for (key,) in rows})
        log = f"SELECT value FROM registered_model_tags WHERE name = '{name}' AND value LIKE '{{%'"
        entries = [json.loads(text) for (text,) in database.execute(log)]
        found["audit entry"] = sorted({field for entry in entries for field in entry})
        used = f"{DATASET} WHERE i.destination_id IN ({scope['runs']})"
        found["dataset"] = sorted(paths([json.loads(v) for (v,) in database.execute(used)]))
    return found


def packets_of(home: Path, name: str) -> list[Any]:
    """The content of every review packet of a model."""
    contents = [json.loads(path.read_text()) for path in home.glob("packets/*/packet.json")]
    return [content for content in contents if content["model"] == name]


def records_of(home: Path, name: str) -> list[Any]:
    """Every record of a finished run of a model."""
    records = [json.loads(path.read_text()) for path in home.glob("runs/*.json")]
    return [record for record in records if record["result"]["name"] == name]


def newest_stored(home: Path, name: str) -> Path:
    """The folder of MLflow's own files of the newest version of a model."""
    query = f"SELECT artifact_location FROM logged_models WHERE name = '{name}'"
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as database:
        folders = [Path(place) for (place,) in database.execute(query)]
    return max(folders, key=lambda folder: folder.stat().st_mtime)


def results_of(home: Path, *, since: float = 0) -> set[str]:
    """The classes that Prefect's kept results name, of the files written since a time."""
    found: set[str] = set()
    for path in (home / "prefect" / "storage").iterdir():
        if path.stat().st_mtime >= since:
            kept = path.read_text()
            found |= set(re.findall(r'"__class__\\?"\s*:\s*\\?"([\w.]+)', kept))
    return found


def entrypoints_of(home: Path) -> dict[str, str]:
    """The entrypoint of each deployment in Prefect's database, by `FLOW/DEPLOYMENT`."""
    query = "SELECT f.name, d.name, d.entrypoint FROM deployment d JOIN flow f ON f.id = d.flow_id"
    with closing(sqlite3.connect(home / "prefect" / "prefect.db")) as database:
        return {f"{flow}/{name}": entrypoint for flow, name, entrypoint in database.execute(query)}


def _numbered(key: str) -> str:
    """The tag of an audit entry without its number."""
    return re.sub(r"\d{6}$", "N", key)
