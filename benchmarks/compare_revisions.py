"""Compare the numbers of the working tree with those of an earlier commit, bit by bit.

    python benchmarks/compare_revisions.py [REVISION] [--config NAME ...] [--steps 20]

Runs every ready-made config, shortened, in a temporary worktree of the revision and in this
working tree, uncommitted changes included. Both run at once with one thread each, because bits
differ between processors and numbers of threads. Prints one row per config:

    weights   every tensor of the last checkpoint: its name, type, shape and bytes
    samples   pixels and texts of the training and evaluation samples and of `sample`
    scores    scores with intervals and conditions, training curves and state, the verdict
    names     keys of the JSON answers and of stored files, PNG metadata, MLflow entries

Times, rates, paths, commits and digests of code are not compared; settings that were renamed count
by their first names (`RENAMED`). aigc_ops is not imported, so
layouts may differ. The exit code is 1 if anything differs or fails, 2 if a config is not compared.
"""

import argparse
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image
from safetensors import deserialize

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = {"weights": "tensors", "samples": "parts", "scores": "values", "names": "names"}
FOREIGN = ("AIGC_OPS_", "BENTOML_", "DVC_", "MLFLOW_", "PREFECT_", "PYTHON", "WORLD_SIZE")
"""Prefixes of environment variables that could point a run at other code, stores or servers."""
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# The guard against slow models is off, because it depends on the machine's load.
SHORT = """--training.steps {steps} --training.checkpoint-every {every} --training.log-every 5
    --training.sample-every {every} --training.watch.every {every} --evaluation.input-size 32
    --evaluation.num-samples 128 --evaluation.num-reference 256 --evaluation.num-draws 4
    --evaluation.num-texts 8 --evaluation.num-beginnings 16 --promotion.max-samples 256
    --promotion.max-slowdown 1000 --packaging.enabled false """
SMALL_GPT = """--model.num-layers 2 --model.num-heads 2 --model.width 64 --model.vocab-size 1024
    --model.context-length 64 --training.batch-size 4 --training.compile false
    --training.warmup-steps 5 --training.micro-batches """
FLAGS = {
    "smoke": "--packaging.enabled true",
    "gpt2-one-gpu": SMALL_GPT + "4",
    "gpt2-many-gpus": SMALL_GPT + "2",
    "smollm2-lora": """--training.steps 4 --training.checkpoint-every 2 --training.sample-every 2
        --training.watch.every 2 --training.batch-size 2 --training.warmup-steps 1
        --model.context-length 64 --model.max-new-tokens 8 --evaluation.num-texts 2
        --evaluation.num-beginnings 2 --evaluation.general-path {general}""",
}
# Settings and terms that have other names than in the first version, as that version names them.
RENAMED = {
    r"\.contract\.version$": ".contract.code",
    r"\bdata\.(image|text)\.column\b": r"data.\1_column",
    r"\bdata\.image\.size\b": "data.image_size",
    r"\bvalidation\.image\.(min|max)_side\b": r"validation.\1_image_side",
    r"\bevaluation\.text\.extractor\b": "evaluation.text_extractor",
    r"\b(data|validation|evaluation)\.(image|text)\.": r"\1.",
    r"\bguards\.coverage\b": "max_coverage_loss",
    r"\bguards\.label_agreement\b": "max_agreement_loss",
    r"\bguards\.class_spread\b": "max_spread_loss",
    r"\bguards\.near_duplicates\b": "max_duplicates_gain",
    r"\bguards\.repetition_4\b": "max_repetition_gain",
    r"\bguards\.general_bits_per_byte\b": "max_forgetting",
}
CHALLENGED = ("smoke", "dialogue-gpt")  # they run again, so that the gate has two to compare
NAMES_SQL = """SELECT 'param ' || key FROM params WHERE run_uuid = :run_id
    UNION SELECT 'metric ' || key FROM latest_metrics WHERE run_uuid = :run_id
    UNION SELECT 'tag ' || key FROM tags WHERE run_uuid = :run_id
    UNION SELECT 'version ' || key FROM model_version_tags WHERE name = :name AND version = :version
    UNION SELECT 'model tag ' || key FROM registered_model_tags WHERE name = :name"""
CURVES_SQL = """SELECT key, step, is_nan, value FROM metrics WHERE run_uuid = :run_id
    AND key NOT LIKE 'system/%' AND key NOT LIKE '%_per_second'"""
Facts = dict[str, tuple[str, bytes]]  # by name: a description, and bytes where there are any


@dataclass(frozen=True)
class Side:
    """One of the two trees, and a folder for all that it writes."""

    tree: Path
    folder: Path

    @contextmanager
    def running(self, words: Sequence[str]) -> Iterator["subprocess.Popen[bytes]"]:
        """Run Python on this tree's own code until the block ends."""
        own = {"PYTHONPATH": str(self.tree), "AIGC_OPS_HOME": str(self.folder / "home")}
        self.folder.mkdir(exist_ok=True)
        own |= {"DVC_SITE_CACHE_DIR": str(self.folder / "dvc"), **THREADS}
        kept = {name: v for name, v in os.environ.items() if not name.startswith(FOREIGN)}
        command = [sys.executable, *(word.replace("{folder}", str(self.folder)) for word in words)]
        with (self.folder / "answer").open("wb") as out, (self.folder / "log").open("wb") as log:
            where: dict[str, Any] = {"cwd": self.tree, "stdout": out, "stderr": log}
            process = subprocess.Popen(command, env=kept | own, start_new_session=True, **where)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)  # if it still runs: so it ends what it started
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


@contextmanager
def worktree(commit: str, folder: str) -> Iterator[Path]:
    """Check a commit out until the block ends, with this tree's pretrained weights."""
    git, tree = ("git", "-C", str(ROOT), "worktree"), Path(folder).resolve() / "tree"
    try:
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        (tree / "pretrained").mkdir()
        for path in ROOT.glob("pretrained/*"):
            (tree / "pretrained" / path.name).symlink_to(path)
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=False)


def run_both(sides: Sequence[Side], *words: str) -> tuple[list[str], list[float]]:
    """Run one command in both trees at once and return what it printed, and the seconds."""
    begin, seconds = time.perf_counter(), [0.0] * len(sides)
    with ExitStack() as stack:
        processes = [stack.enter_context(side.running(words)) for side in sides]
        while not all(seconds):
            time.sleep(0.02)
            for place, process in enumerate(processes):
                if not seconds[place] and process.poll() is not None:
                    seconds[place] = time.perf_counter() - begin
    for side, process in zip(sides, processes, strict=True):
        if process.returncode:
            log = (side.folder / "log").read_text("utf-8", errors="replace")[-300:]
            raise subprocess.SubprocessError(f"{side.folder.name}: {' '.join(words[:5])}: {log}")
    return [(side.folder / "answer").read_text("utf-8").strip() for side in sides], seconds


def leaves(value: Any, name: str) -> Facts:
    """Return the leaves of a JSON value by their dotted names, floats to the last digit."""
    if not isinstance(value, (dict, list)) or not value:
        return {name: (repr(value), b"")}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, below in items for k, v in leaves(below, f"{name}.{key}").items()}


def read_file(path: Path, name: str) -> tuple[Facts, list[str]]:
    """Return a file's tensors, pixels or texts, and the names that it stores."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":
        tensors = {f"{name} {key}": tensor for key, tensor in deserialize(content)}
        return {k: (f"{t['dtype']} {t['shape']}", bytes(t["data"])) for k, t in tensors.items()}, []
    if path.suffix == ".png":
        with Image.open(path) as picture:
            pixels = f"{picture.mode} {picture.size}", picture.tobytes()
            return {name: pixels}, [f"{name} {key}" for key in picture.info]
    if path.suffix in (".json", ".jsonl"):
        lines = [content] if path.suffix == ".json" else content.splitlines()
        facts = leaves([json.loads(line) for line in lines], name)
        # A sample's model is the digest of a folder that records the commit.
        return {key: fact for key, fact in facts.items() if key[-6:] != ".model"}, list(facts)
    return {name: ("text", content)}, []


def read_run(home: Path, answer: Any, drawn: Path) -> dict[str, Facts]:
    """Return what a run and a call of `sample` produced, by column."""
    checkpoint, names = Path(answer["checkpoint"]["uri"]), [*leaves(answer, "answer")]
    facts = {column: Facts() for column in COLUMNS}
    files = {path.name: path for path in checkpoint.iterdir()}
    files |= {f"{p.parent.name} {p.name}": p for p in checkpoint.parent.glob("samples/*/*")}
    files |= {f"drawn {path.name}": path for path in drawn.iterdir()}
    files |= {"evaluation samples": Path(grid)} if (grid := answer["scores"]["grid_uri"]) else {}
    for name, path in sorted(files.items()):
        content, stored = read_file(path, name)
        names += [name, *stored]
        column = {".safetensors": "weights", ".json": "scores"}.get(path.suffix, "samples")
        if path.suffix != ".json" or name == "training.json":
            facts[column] |= content
    values = leaves(answer["scores"]["values"], "score")
    # The digest of all code was replaced by the version of the evaluation.
    unlike = (".contract.code", ".contract.version")
    facts["scores"] |= {k: v for k, v in values.items() if not k.endswith(unlike)}
    for key in ("promoted", "alias", "gate"):
        facts["scores"] |= leaves(answer["verdict"][key], f"verdict {key}")
    with closing(sqlite3.connect(home / "mlflow" / "mlflow.db")) as store:
        names += [name for (name,) in store.execute(NAMES_SQL, answer["version"])]
        for key, step, is_nan, value in store.execute(CURVES_SQL, answer["version"]):
            facts["scores"] |= leaves("nan" if is_nan else value, f"curve {key} at {step}")
    # A tag of uncommitted changes says nothing about the code.
    first = {first_name(name): ("", b"") for name in names if "git_diff" not in name}
    return facts | {"names": first}


def first_name(name: str) -> str:
    """Return a name as the first version had it."""
    for pattern, former in RENAMED.items():
        name = re.sub(pattern, former, name)
    return name


def compare(before: Facts, after: Facts, unit: str) -> str:
    """Return a table's cell: that all is equal, or the first difference."""
    both = before | after
    unequal = [name for name in both if before.get(name) != after.get(name)]
    if not unequal:
        return f"equal ({len(both)} {unit})" if both else "DIFFERS: nothing was read"
    old, new = (facts.get(unequal[0], ("absent", b"")) for facts in (before, after))
    num = sum(a != b for a, b in zip(old[1], new[1], strict=False))
    same = f"{num} of {len(old[1])} bytes of {old[0]}"
    reason = same if old[0] == new[0] else f"{old[0]} before, {new[0]} after"
    return f"DIFFERS ({len(unequal)} of {len(both)}): {unequal[0]}: {reason}".replace("|", "/")


def run_config(name: str, sides: Sequence[Side], flags: Sequence[str]) -> Iterator[str]:
    """Run a config in both trees and yield the cells of its row."""
    facts, total = [{column: Facts() for column in COLUMNS} for _ in sides], [0.0, 0.0]
    for seed in range(1 + (name in CHALLENGED)):
        run, drawn = ("run", f"configs/{name}.yaml", "--seed", str(seed)), f"{name}-{seed}"
        answers, seconds = run_both(sides, "-m", "aigc_ops", *run, "--json", *flags)
        total = [sum(pair) for pair in zip(total, seconds, strict=True)]
        sample = ("sample", f"models:/{name}/{seed + 1}", "--num", "8", "--seed", "3", "--json")
        more, _ = run_both(sides, "-m", "aigc_ops", *sample, "--out", f"{{folder}}/{drawn}")
        for place, side in enumerate(sides):
            answer = {**json.loads(answers[place]), "sample": json.loads(more[place])}
            for column, part in read_run(side.folder / "home", answer, side.folder / drawn).items():
                facts[place][column] |= {f"seed {seed} {key}": part[key] for key in part}
    yield from (compare(facts[0][column], facts[1][column], COLUMNS[column]) for column in COLUMNS)
    yield from (f"{seconds:.0f}" for seconds in total)


def row_of(name: str, sides: Sequence[Side], flags: Sequence[str]) -> str:
    """Return a config's row, or why there is none."""
    try:
        config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text("utf-8"))
        weights = config["model"].get("pretrained")
        if weights and not (ROOT / weights).exists():
            return "not compared: weights are missing; make smollm2"
        return " | ".join(run_config(name, sides, flags))
    except (subprocess.SubprocessError, LookupError, OSError, sqlite3.Error) as error:
        return f"FAILED: {error!r}".replace("|", "/")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("revision", nargs="?", default="e686a90", help="(%(default)s)")
    parser.add_argument("--config", nargs="+", metavar="NAME", help="such as smoke; else all")
    parser.add_argument("--steps", type=int, default=20, help="of training (%(default)s)")
    return parser


def main() -> int:
    """Print the table row by row and return the exit code."""
    arguments = build_parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the worktree is removed
    with tempfile.TemporaryDirectory() as folder, worktree(arguments.revision, folder) as tree:
        sides = Side(tree, tree.parent / "before"), Side(ROOT, tree.parent / "after")
        run_both(sides, "-m", "dvc", "pull", "--quiet")
        places, _ = run_both(sides, "-c", "import aigc_ops; print(aigc_ops.__path__[0])")
        assert places == [str(side.tree / "aigc_ops") for side in sides], places
        steps, general = arguments.steps, tree.parent / "general.txt"
        general.write_bytes((ROOT / "LICENSE").read_bytes()[:2000])
        values = {"steps": steps, "every": max(1, steps // 2), "general": general}
        print(f"| config | {' | '.join(COLUMNS)} | seconds before | seconds after |")
        print("|---" * (len(COLUMNS) + 3) + "|", flush=True)
        names, rows = {p.stem for side in sides for p in side.tree.glob("configs/*.yaml")}, ""
        for config in arguments.config or sorted(names):
            flags = (SHORT + FLAGS.get(config, "")).format(**values).split()
            rows += f"| {config} | {row_of(config, sides, flags)} |\n"
            print(rows.splitlines()[-1], flush=True)
    return 1 if "DIFFERS" in rows or "FAILED" in rows else 2 * ("not compared" in rows)


if __name__ == "__main__":
    sys.exit(main())
