"""The command line's words and options, and nothing that is slow to import."""

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from aigc_ops import __version__
from aigc_ops.core.errors import ConfigError

Command = Callable[..., argparse.ArgumentParser]
"""Makes a subcommand's parser of its name and summary."""

EPILOG = """\
CONFIG is a YAML file such as configs/mnist-gan.yaml; every field in it is also a flag:
  aigc-ops run configs/mnist-gan.yaml --training.steps 500 --model.latent-dim 32
  aigc-ops train configs/mnist-gan.yaml --help        the flags of that model family
  aigc-ops run configs/mnist-gan.yaml --data.path DIR your own images or text
MODEL is models:/NAME@champion, models:/NAME/3 or a checkpoint folder.
Everything lies under .aigc_ops, or AIGC_OPS_HOME. Exit code 0: done; 1: a stage failed;
2: wrong usage or config."""

SWITCHES = ("--json", "--force", "--help")
EXTRACTORS = (
    "inception-v3",
    "efficientnet-lite0",
    *(f"dinov2-vit-{size}-14" for size in "sblg"),
    "backbone",
)
CONFIG_COMMANDS = {
    "run": "the whole chain: validate, train, evaluate, register, promote, package",
    "validate": "check a dataset against its expectations",
    "train": "train a model, or continue where training stopped",
}
MODEL_COMMANDS = {
    "evaluate": "score a model against its dataset",
    "register": "store a checkpoint as a model version",
    "promote": "decide whether a version becomes the champion",
    "package": "build a version's Bento, boot it and compare its samples",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of leaving the program."""
        self.print_usage(sys.stderr)
        raise ConfigError(message)


def parser() -> argparse.ArgumentParser:
    """The commands and their own options; a config's flags are added once it is known.

    Parsing raises ConfigError for words that it does not take.
    """
    top = _Parser(
        prog="aigc-ops",
        description="Train, judge, promote and serve generative models.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=__version__)
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str, **options: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=summary, description=summary, allow_abbrev=False, **options
        )
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        sub.set_defaults(summary=summary)
        return sub

    # Their --help is printed later, with the flags that the config's family adds.
    for name, summary in CONFIG_COMMANDS.items():
        sub = command(name, summary, add_help=False)
        sub.add_argument("config", nargs="?", metavar="CONFIG")
        sub.add_argument("-h", "--help", action="store_true")
        if name == "run":
            sub.add_argument("--force", action="store_true", help="run every stage anew")
    for name, summary in MODEL_COMMANDS.items():
        sub = command(name, summary, add_help=False)
        sub.add_argument(
            "model", nargs="?", metavar="CHECKPOINT" if name == "register" else "MODEL"
        )
        sub.add_argument("-h", "--help", action="store_true")

    _add_using(command)
    _add_judging(command)
    _add_deciding(command)
    command("models", "list versions, aliases and scores")

    data = command("data", "look at a dataset, or fetch what DVC pins")
    data.add_argument("action", choices=("show", "pull"), help="show: rows, digest and DVC pin")
    data.add_argument("path", nargs="?", default="data", metavar="PATH")
    dvc = command("dvc", "run a command of DVC, its site cache in a folder of your own")
    dvc.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="such as: add FOLDER; push"
    )
    return top


def gigabytes(word: str) -> float:
    """A size of 0 or more."""
    if not 0 <= (size := float(word)) < math.inf:
        raise ValueError
    return size


def _add_using(command: Command) -> None:
    serve = command("serve", "serve a model over HTTP until stopped")
    serve.add_argument("model", metavar="MODEL")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    serve.add_argument("--port", type=int, default=3000, help="port (%(default)s)")
    serve.add_argument(
        "--follow",
        action="store_true",
        help="serve what the alias names whenever it moves, by promotion or rollback",
    )

    sample = command("sample", "draw samples into a folder")
    sample.add_argument("model", metavar="MODEL")
    sample.add_argument("--num", type=int, default=1, help="how many (%(default)s)")
    sample.add_argument("--seed", type=int, default=0, help="seed of the first (%(default)s)")
    sample.add_argument(
        "--label", help="class, by number or by name; by default goes round the classes"
    )
    sample.add_argument("--prompt", help="text to answer or continue")
    _add_controls(sample, "truncation=0.7")
    sample.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="a text ends before the first of these; may be repeated",
    )
    sample.add_argument("--out", required=True, metavar="DIR", help="folder for the samples")

    chat = command("chat", "talk with a text model; lines from standard input are answered")
    chat.add_argument("model", metavar="MODEL")
    chat.add_argument("--seed", type=int, default=0, help="seed of the first answer (%(default)s)")
    chat.add_argument("--system", metavar="TEXT", help="what the model is told before all else")
    _add_controls(chat, "temperature=0.7")
    chat.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="an answer ends before it"
    )

    export = command("export", "write a text model as a Hugging Face folder")
    export.add_argument("model", metavar="MODEL")
    export.add_argument("--out", required=True, metavar="DIR", help="new or empty folder")


def _add_judging(command: Command) -> None:
    score = command("score", "compare two sets of images: folders, zips, Parquet, npy or npz")
    score.add_argument("real", metavar="REAL")
    score.add_argument("fake", metavar="FAKE")
    score.add_argument(
        "--metrics", default="fid", help="some of fid,kid,isc,prc, with commas (%(default)s)"
    )
    score.add_argument(
        "--extractor",
        choices=EXTRACTORS,
        default="inception-v3",
        help="network whose features are compared; efficientnet-lite0 needs no download "
        "(%(default)s)",
    )
    score.add_argument(
        "--weights", metavar="PATH", help="inception-v3's or DINOv2's weights; else cached"
    )
    score.add_argument(
        "--backbone", metavar="YAML", help="the network that --extractor backbone is; see the docs"
    )
    score.add_argument(
        "--mode",
        choices=("exact", "fast"),
        default="exact",
        help="exact: fp32, the numbers of torch-fidelity; fast: bf16 (%(default)s)",
    )
    score.add_argument(
        "--resize",
        choices=("tensorflow", "clean", "legacy"),
        default="tensorflow",
        help="as torch-fidelity, clean-fid or pytorch-fid resize; part of the number's name "
        "(%(default)s)",
    )
    score.add_argument("--device", default="auto", help="auto, cuda, mps or cpu (%(default)s)")
    score.add_argument("--batch-size", type=int, help="8 on the CPU, 64 elsewhere, if not given")
    score.add_argument(
        "--processes", type=int, default=1, help="that read images side by side (%(default)s)"
    )
    score.add_argument(
        "--skip-damaged", action="store_true", help="pass damaged images over and name them"
    )

    cache = command("cache", "list or prune what is kept to be quicker next time")
    cache.add_argument("action", choices=("list", "prune"))
    cache.add_argument(
        "--max-gb", type=gigabytes, default=5.0, help="prune the oldest to so much (%(default)s)"
    )


def _add_deciding(command: Command) -> None:
    for name, summary in (
        ("review", "open the evidence on a version: scores, samples, what changed"),
        ("approve", "make a version champion, on your word"),
        ("reject", "decide that a version does not become champion"),
    ):
        sub = command(name, summary)
        sub.add_argument("model", metavar="MODEL", help="a model's name, or models:/NAME/3")
        sub.add_argument("version", nargs="?", type=int, metavar="VERSION")
        if name != "review":
            _add_decision(sub)
            sub.add_argument(
                "--packet", metavar="DIGEST", help="the packet that you saw; by default the latest"
            )
    rollback = command("rollback", "make an earlier champion champion again")
    rollback.add_argument("name", metavar="NAME")
    rollback.add_argument("--to", type=int, metavar="VERSION", help="by default the one before")
    _add_decision(rollback)
    audit = command("audit", "verify the log of decisions; exits with 1 when it does not hold")
    audit.add_argument("name", nargs="?", metavar="NAME")

    trace = command("trace", "follow a sample, Bento or version back to code, data and decision")
    trace.add_argument(
        "ref",
        metavar="REF",
        help="a sample's file, models:/NAME/3, models:/NAME@champion, a Bento's tag, a dataset's "
        "digest, an MLflow run or a Prefect flow run",
    )

    doctor = command("doctor", "check installation, stores, data, log and disk, and say what to do")
    doctor.add_argument(
        "--repair", action="store_true", help="complete a promotion that was cut short"
    )
    doctor.add_argument(
        "--revert", action="store_true", help="put aliases that were moved by hand back"
    )
    doctor.add_argument(
        "--all", action="store_true", help="verify every version's files, not the champions' alone"
    )


def _add_decision(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--reviewer", required=True, metavar="NAME", help="who decides")
    sub.add_argument("--reason", required=True, metavar="TEXT", help="why, for whoever asks later")


def _add_controls(command: argparse.ArgumentParser, example: str) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        dest="controls",
        metavar="NAME=VALUE",
        help=f"set a control of the model, such as {example}; may be repeated. The model's "
        "card lists its controls, and so does the answer to a name that it lacks",
    )
