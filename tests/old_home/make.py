"""Makes the old home: `python -m tests.old_home.make COMMIT`, see README.md beside this file.

Everything is done by the command line and the flows of that commit, in a clone of this
repository, with real servers. Only data and configs come from here.
"""

import argparse
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, answers, eventually, free_port
from tests.flows.conftest import CONSOLE
from tests.old_home.facts import HALF, facts_of
from tests.old_home.making_data import write_dialogue, write_images
from tests.old_home.names import paths
from tests.old_home.place import ARCHIVE, FACTS, HOME, PLACE, emptied, held
from tests.old_home.prefect import Api

CODE = PLACE / "code"
OUT, ERR = PLACE / "out.txt", PLACE / "err.txt"
PYTHON = PLACE / "venv" / "bin" / "python"
"""This environment's own, by a name that may stand in the home."""
HOST = "old-home"
"""The name that this machine must have while the home is made: runs record it."""
STEP = "step-00000010"
UNNEEDED = ("cache", "logs", "lock", "holder", "prefect/ui_build", "bentoml/unconfirmed")
UNNEEDED_PAGES = ("static", "expectations", "validations")
"""Folders of Data Docs beside the page that the records name."""


class Maker:
    """The command line of the old code, in the home that is being made."""

    def __init__(self, server: str) -> None:
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))},
            "AIGC_OPS_HOME": str(HOME),
            "PREFECT_HOME": str(HOME / "prefect"),
            "PREFECT_API_URL": f"{server}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_RUNNER_POLL_FREQUENCY": "2",
            "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
            "PYTHONPATH": str(CODE),
            "OMP_NUM_THREADS": "1",
        }
        self.api = Api(server)
        self.keys: dict[str, set[str]] = {"run": set(), "rollback": set()}
        """Names in the JSON answers of commands that decide on `stripes`."""
        self._console: subprocess.Popen[str] | None = None

    def start(
        self,
        *arguments: object,
        given: int | None = None,
        output: Any = subprocess.PIPE,
        environment: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [PYTHON, *map(str, arguments)],
            cwd=CODE,
            env=environment or self.environment,
            stdin=given,
            stdout=output,
            text=True,
        )

    def run(self, *arguments: object) -> Any:
        """The JSON answer of a command, all of them in one process."""
        if self._console is None:
            self._console = self.start("-c", CONSOLE, given=subprocess.PIPE)
        assert self._console.stdin is not None
        assert self._console.stdout is not None
        argv = [*map(str, arguments), "--json"]
        self._console.stdin.write(json.dumps({"argv": argv, "out": str(OUT), "err": str(ERR)}))
        self._console.stdin.write("\n")
        self._console.stdin.flush()
        assert self._console.stdout.readline() == "0\n", ERR.read_text()
        return json.loads(OUT.read_text())

    @contextmanager
    def serving(self, *arguments: object) -> Iterator[None]:
        process = self.start(*arguments, output=sys.stderr)
        try:
            yield
        finally:
            process.terminate()
            process.wait(timeout=60)

    def version(self, config: str, *flags: object) -> int:
        """Run the whole chain; the number of the version that it made."""
        answer = self.run("run", PLACE / "configs" / f"{config}.yaml", *flags)
        self.keys["run"] |= paths(answer) if config == "stripes" else set()
        return int(answer["version"]["version"])

    def close(self) -> None:
        """End the process of the commands."""
        if self._console:
            self._console.communicate(timeout=60)

    def kill(self, command: str, config: str) -> None:
        """Begin to train, and kill the trainer by SIGKILL after its first checkpoint."""
        process = self.start("-m", "aigc_ops", command, PLACE / "configs" / f"{config}.yaml")
        pattern = f"checkpoints/{config}-*/step-*"
        while not (found := sorted(HOME.glob(pattern))):
            assert process.poll() is None, "it ended without a checkpoint"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert [path.name for path in sorted(HOME.glob(pattern))] == [STEP], found

    def finish(self, config: str) -> None:
        """Keep what the same run ends with when nothing stops it, in a home of its own."""
        other = {**self.environment, "AIGC_OPS_HOME": str(PLACE / "other")}
        words = ("-m", "aigc_ops", "train", PLACE / "configs" / f"{config}.yaml", "--json")
        process = self.start(*words, environment=other)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        target = PLACE / "finished" / config
        target.mkdir(parents=True)
        for name in ("model.safetensors", "provenance.json", "training.json"):
            shutil.copy(Path(json.loads(output)["uri"]) / name, target)

    def answer(self, run: str, decision: str, who: str, why: str) -> None:
        """Answer a suspended review on the evidence that it shows."""
        form = {"decision": decision, "reviewer": who, "reason": why}
        self.api.resume(run, {**form, "packet": self.api.packet_shown(run)})


def decide(maker: Maker) -> None:
    """Six versions of two models, and every kind of decision on them."""
    off = ("--packaging.enabled", "false")
    assert maker.version("stripes", "--promotion.approval", "automatic") == 1

    two = maker.version("stripes", "--seed", 1, "--promotion.reviewers", 2, *off)
    run = maker.api.suspended(f"review-stripes-{two}")
    maker.answer(run, "approve", "Ann", "clearer stripes")
    maker.api.suspended(f"review-stripes-{two}", key="decision-1")
    maker.answer(run, "approve", "Bob", "I agree")
    maker.api.ended(run, "COMPLETED")
    who = ("--reviewer", "Bob", "--reason", "blurred in the field")
    entry = maker.run("rollback", "stripes", *who)
    assert entry["after"]["champion"] == 1
    maker.keys["rollback"] = paths(entry)

    three = maker.version("stripes", "--seed", 2, *off)
    run = maker.api.suspended(f"review-stripes-{three}")
    maker.answer(run, "reject", "Bob", "no better")
    maker.api.ended(run, "COMPLETED")

    move = (
        "from aigc_ops.registry.client import connect;"
        f"connect().set_registered_model_alias('stripes', 'champion', '{three}')"
    )
    assert maker.start("-c", move).wait() == 0
    maker.run("doctor", "--revert")

    four = maker.version("stripes", "--seed", 3, *off)
    run = maker.api.suspended(f"review-stripes-{four}")
    maker.answer(run, "more samples", "Ann", "too few to tell")
    maker.api.suspended(f"review-stripes-{four}", key="decision-1")

    assert maker.version("sums") == 1
    run = maker.api.suspended("review-sums-1")
    maker.answer(run, "approve", "Ann", "it adds")
    maker.api.suspended("review-sums-1", key="decision-1")


def sample(maker: Maker) -> None:
    """Samples in folders, as a person keeps them."""
    champion = ("models:/stripes@champion", "--num", 2)
    maker.run("sample", *champion, "--seed", 7, "--out", PLACE / "samples" / "stripes")
    asked = ("--seed", 7, "--prompt", "what is 1 and 2?")
    maker.run("sample", "models:/sums/1", *asked, "--out", PLACE / "samples" / "sums")


def compact() -> None:
    """Remove what can be made again, and the free pages of the databases."""
    for name in UNNEEDED:
        path = HOME / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for docs in HOME.glob("reports/*/*/data-docs"):
        for name in UNNEEDED_PAGES:
            shutil.rmtree(docs / name, ignore_errors=True)
    for cache in HOME.rglob("__pycache__"):
        shutil.rmtree(cache)
    for path in (HOME / "mlflow" / "mlflow.db", HOME / "prefect" / "prefect.db"):
        with closing(sqlite3.connect(path)) as database:
            if path.name == "prefect.db":
                database.execute("DELETE FROM log")
                database.commit()
            database.execute("PRAGMA journal_mode = DELETE")
            database.execute("VACUUM")


def pack() -> None:
    """Write the archive: the same folder gives the same names, owners and modes."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with tarfile.open(ARCHIVE, "w:xz", preset=9, format=tarfile.PAX_FORMAT) as archive:
        for name in ("configs", "data", "finished", "home", "samples"):
            archive.add(PLACE / name, name, filter=plain)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", help="the commit whose code makes the home")
    parser.add_argument("--keep", action="store_true", help="leave the home where it was made")
    arguments = parser.parse_args()
    if socket.gethostname() != HOST:
        sys.exit(f"name this machine {HOST} for a while: unshare --uts, hostname {HOST}")
    with held():
        emptied()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(CODE)], check=True)
        subprocess.run(["git", "-C", str(CODE), "checkout", "-q", arguments.commit], check=True)
        (PLACE / "venv").symlink_to(sys.prefix)
        (HOME / "prefect").mkdir(parents=True)
        shutil.copytree(Path(__file__).with_name("configs"), PLACE / "configs")
        write_images(PLACE / "data" / "stripes")
        write_dialogue(PLACE / "data" / "sums")
        port = free_port()
        maker = Maker(f"http://127.0.0.1:{port}")
        with maker.serving("-m", "prefect", "server", "start", "--port", port):
            eventually(lambda: answers(f"{maker.api.server}/api/health"))
            with maker.serving("-m", "flows"):
                eventually(lambda: len(maker.api.deployments()) == 6)
                decide(maker)
                maker.kill("run", "half-gan")
            for config in ("half-vae", "half-gpt"):
                maker.kill("train", config)
            for config in HALF:
                maker.finish(config)
            sample(maker)
            facts = facts_of(maker.run)
            facts["keys"] |= {what: sorted(keys) for what, keys in maker.keys.items()}
            maker.close()
        facts["commit"] = subprocess.check_output(
            ["git", "-C", str(CODE), "rev-parse", "HEAD"], text=True
        ).strip()
        compact()
        pack()
        FACTS.write_text(json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        if not arguments.keep:
            emptied()


if __name__ == "__main__":
    main()
