"""Whether today's demo draws better digits than the first, after equal training time.

    python benchmarks/quality.py [--seeds 0 1] [--try "configs/mnist-gan.yaml --model.r1 0.1"]

Each side is a config and its flags. Short runs in turns measure what a step of each costs;
then each side trains for as many steps as fit into the time of the last side's own number
of steps, and benchmarks/digits.py's figures of its samples are printed.
"""

import argparse
import shlex
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from digits import Judge

from aigc_ops.cli.config_flags import parse_flags
from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.core.state_dir import export_environment
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.data.dataset import open_dataset, read_split
from aigc_ops.pipeline.run_config import load_config, read_yaml, run_config_type
from aigc_ops.storage.checkpoints import load_model
from aigc_ops.training import RunFolder, TrainingJob, train

SIDES = ["benchmarks/first-mnist-gan.yaml", "configs/mnist-gan.yaml"]
SHOWN = {
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "least_deviation_ratio": "least dev",
    "mean_deviation_ratio": "mean dev",
    "fd_efficientnet_lite0": "distance",
    "label_agreement": "agreement",
}


def config_of(side: str) -> Any:
    """The run config of a side: a file, and flags as the command line takes them."""
    path, *flags = shlex.split(side)
    kind = run_config_type(read_yaml(Path(path))["model"]["family"])
    return load_config(Path(path), parse_flags(kind, flags))


def trained(config: Any, folder: Path, *, steps: int, seed: int) -> Checkpoint:
    """The checkpoint after so many steps, with nothing looked at on the way."""
    quiet = {"sample_every": steps, "checkpoint_every": steps}
    watch = config.training.watch.model_copy(update={"action": "off", "every": steps})
    dataset = open_dataset(config.data)
    return train(
        TrainingJob(
            model=config.model,
            config=config.training.model_copy(update={"steps": steps, "watch": watch, **quiet}),
            dataset=dataset,
            read_data=partial(read_split, dataset, config.data),
            seed=seed,
            folder=RunFolder(folder),
            tracker=SilentTracker(),
        )
    )


def step_costs(configs: dict[str, Any], *, rounds: int, steps: int) -> dict[str, float]:
    """Seconds of a step of each side: the median over rounds in which they take turns."""
    seconds: dict[str, list[float]] = {side: [] for side in configs}
    for _ in range(rounds):
        for side, config in configs.items():
            with tempfile.TemporaryDirectory() as folder:
                rate = trained(config, Path(folder), steps=steps, seed=0).rate
            assert rate is not None, side
            seconds[side].append(config.training.batch_size / rate)
    return {side: statistics.median(found) for side, found in seconds.items()}


def main() -> None:
    """Print each side's figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--try", dest="tried", action="append", help="a side; default: the two")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--num", type=int, default=2000, help="samples of each side")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that measure the costs")
    arguments = parser.parse_args()
    export_environment()
    configs = {side: config_of(side) for side in arguments.tried or SIDES}
    costs = step_costs(configs, rounds=arguments.rounds, steps=60)
    judge = Judge(arguments.num)
    last = list(configs)[-1]
    seconds = costs[last] * configs[last].training.steps
    print("  ".join(f"{name:>9}" for name in ("steps", *SHOWN.values())), "  seed, side")
    for seed in arguments.seeds:
        for side, config in configs.items():
            steps = round(seconds / costs[side])
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = trained(config, Path(folder), steps=steps, seed=seed)
                found = judge.figures(load_model(Path(checkpoint.uri)))
            row = "  ".join(f"{found[name]:9.3f}" for name in SHOWN)
            print(f"{steps:9}  {row}    {seed}, {side}", flush=True)
    for side, cost in costs.items():
        print(f"{1000 * cost:.1f} ms a step: {side}")


if __name__ == "__main__":
    main()
