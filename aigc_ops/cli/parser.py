"""The commands and options of the command line, without slow imports."""

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from aigc_ops import __version__
from aigc_ops.core.errors import ConfigError

Command = Callable[..., argparse.ArgumentParser]
"""A function that creates the parser of the command with a name."""

EPILOG = """\
CONFIG is a YAML file such as configs/mnist-gan.yaml; every field in it is also a flag:
  aigc-ops run configs/mnist-gan.yaml --training.steps 500 --model.latent-dim 32
  aigc-ops train configs/mnist-gan.yaml --help        the flags of that model family
  aigc-ops run configs/mnist-gan.yaml --data.path DIR your own images or text
MODEL is models:/NAME@champion, models:/NAME/3 or a checkpoint folder.
All state is stored in .aigc_ops of the project or working folder, or in AIGC_OPS_HOME.
Exit codes: 0 success, 1 a stage failed, 2 wrong usage or config."""

SAMPLE_EPILOG = """\
examples:
  aigc-ops sample models:/mnist-gan@champion --num 20 --out samples
  aigc-ops sample models:/mnist-gan@champion --interpolate 1 9 --label 3 --out path
  aigc-ops sample models:/mnist-vae@champion --reconstruct FOLDER --out rebuilt
GANs and VAEs interpolate, VAEs reconstruct. A model with classes reconstructs pictures by their
sub-folders, named like the classes, or all by --label."""

SWITCHES = ("--json", "--force", "--help")
EXTRACTORS = (
    "inception-v3",
    "efficientnet-lite0",
    *(f"dinov2-vit-{size}-14" for size in "sblg"),
    "backbone",
)
COMMAND_GROUPS = {
    "Begin": {
        "init": "create a project: configs, settings, folders for your own code",
    },
    "Make a model": {
        "run": "run all stages, from validate to package",
        "validate": "check a dataset against its expectations",
        "train": "train a model, or resume an interrupted training",
        "evaluate": "score a model against its dataset",
        "register": "store a checkpoint as a model version",
        "promote": "decide whether a version becomes the champion",
        "package": "build a version's Bento, start it and compare its samples",
    },
    "Use a model": {
        "sample": "generate samples and write them to a folder",
        "chat": "chat with a text model; reads prompts from standard input",
        "serve": "serve a model over HTTP until stopped",
        "export": "write a text model as a Hugging Face folder",
    },
    "Decide on a version": {
        "review": "show the evidence on a version: scores, samples, changes",
        "approve": "approve a version: make it champion",
        "reject": "reject a version: it does not become champion",
        "rollback": "make an earlier champion champion again",
    },
    "Look at models and the installation": {
        "models": "list versions, aliases and scores",
        "score": "compare two sets of images: folders, zips, Parquet, npy or npz",
        "trace": "trace a sample, Bento or version back to code, data and decision",
        "audit": "verify the log of decisions; exit with 1 if it is damaged",
        "doctor": "check installation, stores, data, log and disk; say what to do",
        "cache": "list or prune caches",
    },
    "Manage data": {
        "data": "describe a dataset, or fetch the data that DVC pins",
        "dvc": "run a DVC command with a private site cache",
    },
}
SUMMARIES = {name: text for group in COMMAND_GROUPS.values() for name, text in group.items()}
CONFIG_COMMANDS = ("run", "validate", "train")
MODEL_COMMANDS = ("evaluate", "register", "promote", "package")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of ending the process."""
        # The caller reports the error, as JSON with --json.
        self.print_usage(sys.stderr)
        raise ConfigError(message)


class _Version(argparse.Action):
    def __call__(self, *_: Any) -> NoReturn:
        """Print the version and the commit, then end the process."""
        # Imported here: asking git takes milliseconds that other commands need not wait.
        from aigc_ops.provenance.code_version import package_commit

        sys.stdout.write(f"{__version__} ({package_commit() or 'commit unknown'})\n")
        sys.exit(0)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands, without the flags for a config's fields.

    Parsing raises ConfigError for arguments that it does not accept.
    """
    # argparse can list subcommands only in one flat group, so the description holds the list and
    # the subcommands' own entry is suppressed. That would also drop COMMAND from the usage, which
    # is therefore given, and so is the prefix of the subcommands' usages.
    top = _Parser(
        prog="aigc-ops",
        usage="aigc-ops [-h] [--version] COMMAND ...",
        description=f"Train, evaluate, promote and serve generative models.\n\n{_command_list()}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action=_Version, nargs=0, help="show version and commit")
    commands = top.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog="aigc-ops", help=argparse.SUPPRESS
    )

    def command(name: str, **options: Any) -> argparse.ArgumentParser:
        summary = SUMMARIES[name]
        sub = commands.add_parser(name, description=summary, allow_abbrev=False, **options)
        sub.add_argument("--json", action="store_true", help="print one JSON object")
        sub.set_defaults(summary=summary)
        return sub

    # 1. Commands that take a config. Their --help is printed later, with the flags that the
    # config's model family adds.
    for name in CONFIG_COMMANDS:
        sub = command(name, add_help=False)
        sub.add_argument("config", nargs="?", metavar="CONFIG")
        sub.add_argument("-h", "--help", action="store_true")
        if name == "run":
            sub.add_argument("--force", action="store_true", help="run every stage again")
    for name in MODEL_COMMANDS:
        sub = command(name, add_help=False)
        sub.add_argument(
            "model", nargs="?", metavar="CHECKPOINT" if name == "register" else "MODEL"
        )
        sub.add_argument("-h", "--help", action="store_true")

    # 2. Commands with options of their own.
    _add_use_commands(command)
    _add_score_commands(command)
    _add_review_commands(command)
    command("models")
    init = command("init")
    init.add_argument("folder", metavar="FOLDER", help="folder to create; . for the current one")
    init.add_argument(
        "--sample", action="store_true", help="include configs and data of handwritten digits"
    )

    data = command("data")
    data.add_argument(
        "action",
        choices=("show", "pull"),
        help="show: number of rows, digest and DVC pin; pull: fetch the data",
    )
    data.add_argument("path", nargs="?", default="data", metavar="PATH")
    # REMAINDER: options after the first word belong to DVC, also --help and --json.
    dvc = command("dvc")
    dvc.add_argument(
        "words", nargs=argparse.REMAINDER, metavar="ARGUMENTS", help="such as: add FOLDER; push"
    )
    return top


def _command_list() -> str:
    """Return the commands with their summaries, one group per kind of task."""
    groups = []
    for title, summaries in COMMAND_GROUPS.items():
        lines = [f"  {name:<9} {summary}" for name, summary in summaries.items()]
        groups.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(groups)


def gigabytes(word: str) -> float:
    """Parse a finite size of 0 or more; raises ValueError for anything else."""
    # float() accepts "nan" and "inf", with which every comparison with a size would be wrong.
    if not 0 <= (size := float(word)) < math.inf:
        raise ValueError
    return size


def _add_use_commands(command: Command) -> None:
    serve = command("serve")
    serve.add_argument("model", metavar="MODEL")
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s)"
    )
    serve.add_argument("--port", type=int, default=3000, help="port (default: %(default)s)")
    serve.add_argument(
        "--follow",
        action="store_true",
        help="restart with the new version when the alias moves, by promotion or rollback",
    )

    sample = command(
        "sample", epilog=SAMPLE_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sample.add_argument("model", metavar="MODEL")
    sample.add_argument(
        "--num",
        type=int,
        help="number of samples (default: 1), or of images of --interpolate (default: 8)",
    )
    sample.add_argument("--seed", type=int, help="seed of the first sample (default: 0)")
    sample.add_argument(
        "--label",
        help="class, by number or name; by default the samples cycle through the classes, an "
        "interpolation has the first class, and pictures that of their sub-folder",
    )
    sample.add_argument(
        "--interpolate",
        nargs=2,
        type=int,
        metavar="SEED",
        help="generate the samples between those of two seeds, both included",
    )
    sample.add_argument(
        "--reconstruct",
        metavar="FOLDER",
        help="encode and decode the pictures in a folder, and print the error",
    )
    sample.add_argument(
        "--allow-unread",
        action="store_true",
        help="accept that over 1%% of the files of --reconstruct that could be images are not read",
    )
    sample.add_argument("--prompt", help="text to answer or continue")
    _add_controls(sample, "truncation=0.7")
    sample.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end a text before the first of these; may be repeated",
    )
    sample.add_argument("--out", required=True, metavar="DIR", help="folder for the samples")

    chat = command("chat")
    chat.add_argument("model", metavar="MODEL")
    chat.add_argument(
        "--seed", type=int, default=0, help="seed of the first answer (default: %(default)s)"
    )
    chat.add_argument("--system", metavar="TEXT", help="system message")
    _add_controls(chat, "temperature=0.7")
    chat.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end an answer before the first of these; may be repeated",
    )

    export = command("export")
    export.add_argument("model", metavar="MODEL")
    export.add_argument("--out", required=True, metavar="DIR", help="new or empty folder")


def _add_score_commands(command: Command) -> None:
    score = command("score")
    score.add_argument("real", metavar="REAL")
    score.add_argument("fake", metavar="FAKE")
    score.add_argument(
        "--metrics",
        default="fid",
        help="comma-separated: fid, kid, isc, prc, copies (default: %(default)s)",
    )
    score.add_argument(
        "--extractor",
        choices=EXTRACTORS,
        default="inception-v3",
        help="feature network; efficientnet-lite0 needs no download (default: %(default)s)",
    )
    score.add_argument(
        "--weights",
        metavar="PATH",
        help="weights of inception-v3 or DINOv2 (default: the cached download)",
    )
    score.add_argument(
        "--backbone",
        metavar="YAML",
        help="description of the network for --extractor backbone; see docs/evaluation.md",
    )
    score.add_argument(
        "--mode",
        choices=("exact", "fast"),
        default="exact",
        help="exact: fp32, equal to torch-fidelity; fast: bf16 (default: %(default)s)",
    )
    score.add_argument(
        "--resize",
        choices=("tensorflow", "clean", "legacy"),
        default="tensorflow",
        help="resizing as in torch-fidelity, clean-fid or pytorch-fid; included in the metric name "
        "(default: %(default)s)",
    )
    score.add_argument(
        "--device", default="auto", help="auto, cuda, mps or cpu (default: %(default)s)"
    )
    score.add_argument(
        "--batch-size", type=int, help="images per batch (default: 8 on the CPU, else 64)"
    )
    score.add_argument(
        "--processes",
        type=int,
        default=1,
        help="number of processes that read images (default: %(default)s)",
    )
    score.add_argument(
        "--skip-damaged", action="store_true", help="skip damaged images and list them"
    )
    score.add_argument(
        "--allow-unread",
        action="store_true",
        help="accept that over 1%% of the files that could be images are not read",
    )

    cache = command("cache")
    cache.add_argument("action", choices=("list", "prune"))
    cache.add_argument(
        "--max-gb",
        type=gigabytes,
        default=5.0,
        help="remove least recently used entries until at most this size (default: %(default)s)",
    )


def _add_review_commands(command: Command) -> None:
    for name in ("review", "approve", "reject"):
        sub = command(name)
        sub.add_argument("model", metavar="MODEL", help="a model's name, or models:/NAME/3")
        sub.add_argument("version", nargs="?", type=int, metavar="VERSION")
        if name != "review":
            _add_decision(sub)
            sub.add_argument(
                "--packet",
                metavar="DIGEST",
                help="digest of the packet that you saw (default: the latest)",
            )
    rollback = command("rollback")
    rollback.add_argument("name", metavar="NAME")
    rollback.add_argument(
        "--to",
        type=int,
        metavar="VERSION",
        help="version to restore (default: the previous champion)",
    )
    _add_decision(rollback)
    audit = command("audit")
    audit.add_argument("name", nargs="?", metavar="NAME")

    trace = command("trace")
    trace.add_argument(
        "ref",
        metavar="REF",
        help="a sample's file, models:/NAME/3, models:/NAME@champion, a Bento's tag, a dataset's "
        "digest, an MLflow run or a Prefect flow run",
    )

    doctor = command("doctor")
    doctor.add_argument("--repair", action="store_true", help="complete an interrupted promotion")
    doctor.add_argument(
        "--revert", action="store_true", help="restore aliases that were moved by hand"
    )
    doctor.add_argument(
        "--all",
        action="store_true",
        help="verify the files of all versions instead of only champions",
    )


def _add_decision(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--reviewer", required=True, metavar="NAME", help="who decides")
    sub.add_argument(
        "--reason", required=True, metavar="TEXT", help="reason, which is stored in the audit log"
    )


def _add_controls(command: argparse.ArgumentParser, example: str) -> None:
    command.add_argument(
        "--set",
        action="append",
        default=[],
        dest="controls",
        metavar="NAME=VALUE",
        help=f"set a control of the model, such as {example}; may be repeated. The model card "
        "lists the controls, and so does the error for an unknown name",
    )
