"""What is recorded of the old home when it is made, and compared when it is opened."""

import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.old_home.names import (
    entrypoints_of,
    names_of_folder,
    names_of_model,
    packets_of,
    paths,
    records_of,
    results_of,
)
from tests.old_home.place import HOME, PLACE

Run = Callable[..., Any]
CHAMPION = "models:/stripes@champion"
CONFIGS, SAMPLES = PLACE / "configs", PLACE / "samples"
HALF = ("half-gan", "half-vae", "half-gpt")
TRACED = {
    "trace champion": CHAMPION,
    "trace image": SAMPLES / "stripes" / "00001.png",
    "trace text": SAMPLES / "sums" / "samples.txt",
}
LOOKING_BACK: dict[str, tuple[object, ...]] = {
    "audit": ("audit",),
    "models": ("models",),
    **{what: ("trace", ref) for what, ref in TRACED.items()},
    "review": ("review", "stripes", 4),
    "doctor": ("doctor", "--all"),
    "data": ("data", "show", PLACE / "data" / "sums"),
}
"""Commands that only look, by what they are asked."""
OF_THE_HOME = ("leftovers", "MLflow's store", "aliases and audit log", "runs", "stored files")
"""Checks of `doctor` that do not depend on the machine."""


def again() -> dict[str, tuple[object, ...]]:
    """Commands whose work has been done for the champion: asked again, they change no decision."""
    records = records_of(HOME, "stripes")
    first = next(each for each in records if each["result"]["version"]["version"] == 1)
    checkpoint = first["result"]["checkpoint"]["uri"]
    return {
        "validate": ("validate", CONFIGS / "stripes.yaml"),
        "train": ("train", CONFIGS / "stripes.yaml", "--promotion.approval", "automatic"),
        "evaluate": ("evaluate", checkpoint),
        "register": ("register", checkpoint),
        "promote": ("promote", checkpoint),
        "package": ("package", checkpoint),
        "score": (
            *("score", PLACE / "data" / "stripes" / "heldout.parquet", SAMPLES / "stripes"),
            *("--extractor", "efficientnet-lite0"),
        ),
        "cache": ("cache", "list"),
    }


def facts_of(run: Run) -> dict[str, Any]:
    """Everything; `run` gives the JSON answer of a command of the code that made the home."""
    answers = {what: run(*words) for what, words in LOOKING_BACK.items()}
    found = {**answers, **{what: run(*words) for what, words in again().items()}}
    packets = packets_of(HOME, "stripes")
    return {
        "answers": {what: essence(what, answer) for what, answer in answers.items()},
        "keys": {word: sorted(keys) for word, keys in keys_of(found).items()},
        "champion": next(
            link["details"]["manifest_digest"]
            for link in answers["trace champion"]["links"]
            if link["name"] == "version"
        ),
        "bento": found["package"]["tag"],
        "finished": found["train"],
        "half": {name: half_of(newest(name)) for name in HALF},
        "names": names_of_model(HOME, "stripes"),
        "checkpoint": {name: names_of_folder(newest(name)) for name in ("stripes", *HALF)},
        "packet": {
            "first": names_in(each for each in packets if "champion" not in each),
            "compared": names_in(packets),
        },
        "record": names_in(records_of(HOME, "stripes")),
        "results": sorted(results_of(HOME)),
        "entrypoints": entrypoints_of(HOME),
    }


def keys_of(answers: dict[str, Any]) -> dict[str, set[str]]:
    """The keys in the answers of each command."""
    found: dict[str, set[str]] = {}
    for what, answer in answers.items():
        found.setdefault(what.split()[0], set()).update(paths(answer))
    return found


def essence(what: str, answer: Any) -> Any:
    """What must stay of an answer: not its sentences, nor what depends on the machine."""
    if what == "audit":
        return {log["model"]: log for log in answer["logs"]}
    if what == "models":
        kept = ("name", "version", "aliases", "family", "primary", "score", "created")
        return [{key: row[key] for key in kept} for row in answer["models"]]
    if what == "review":
        return {key: answer[key] for key in ("packet_digest", "champion", "version", "page")}
    if what == "doctor":
        found = [[each["check"], each["state"]] for each in answer["checks"]]
        return sorted(each for each in found if each[0] in OF_THE_HOME)
    if what in TRACED:
        answer["links"] = [
            {**link, "told": None, "details": {**link["details"], "values": None}}
            for link in answer["links"]
        ]
    return answer


def names_in(contents: Iterable[Any]) -> list[str]:
    """The names in any of several JSON values."""
    return sorted({name for content in contents for name in paths(content)})


def newest(name: str) -> Path:
    """The newest checkpoint of the first run under a name."""
    return max(min(HOME.glob(f"checkpoints/{name}-*")).glob("step-*"))


def half_of(checkpoint: Path) -> dict[str, Any]:
    """Where a run was killed."""
    training = json.loads((checkpoint / "training.json").read_text())
    return {"folder": str(checkpoint.parent), "step": training["progress"]["step"]}


def metrics_of(run_key: str) -> dict[str, list[int]]:
    """Times (ms) of each metric's values in a run, by name and step, the machine's aside."""
    query = (
        "SELECT m.key, m.step, m.timestamp FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid "
        "WHERE t.key = 'aigc_ops.run_key' AND t.value = ? AND m.key NOT LIKE 'system/%'"
    )
    found: dict[str, list[int]] = {}
    with closing(sqlite3.connect(HOME / "mlflow" / "mlflow.db")) as database:
        for key, step, time in database.execute(query, (run_key,)):
            found.setdefault(f"{key} {step}", []).append(time)
    return found
