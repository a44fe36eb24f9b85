"""Whether today's demo draws better digits than the first, after equal training time.

    python benchmarks/quality.py [--seeds 0 1] [--try "configs/mnist-gan.yaml --model.r1 0.1"]

Each side is a config and its flags. Short runs in turns measure what a step of each costs;
then each side trains for as many steps as fit into the time of the last side's own number
of steps, and benchmarks/digits.py's figures of its samples are printed.
"""

import argparse
import shlex
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from digits import Judge
from harness import quiet, train_model
from results import benchmark_parser, recorder

from aigc_ops.cli.config_flags import parse_flags
from aigc_ops.core.state_dir import export_environment
from aigc_ops.pipeline.run_config import load_config, read_yaml, run_config_type

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
RECORDED = {
    "fd_efficientnet_lite0": "distance",
    "recall": "recall",
    "coverage": "coverage",
    "least_deviation_ratio": "least-deviation",
    "mean_deviation_ratio": "mean-deviation",
}


def config_of(side: str) -> Any:
    """The run config of a side: a file, and flags as the command line takes them."""
    path, *flags = shlex.split(side)
    kind = run_config_type(read_yaml(Path(path))["model"]["family"])
    return load_config(Path(path), parse_flags(kind, flags))


def step_costs(configs: dict[str, Any], *, rounds: int, steps: int) -> dict[str, float]:
    """Seconds of a step of each side: the median over rounds in which they take turns."""
    seconds: dict[str, list[float]] = {side: [] for side in configs}
    for _ in range(rounds):
        for side, config in configs.items():
            rate, _ = train_model(config.model, quiet(config.training, steps=steps), config.data)
            seconds[side].append(config.training.batch_size / rate)
    return {side: statistics.median(found) for side, found in seconds.items()}


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--try", dest="tried", action="append", help="a side; default: the two")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--num", type=int, default=2000, help="samples of each side")
    parser.add_argument("--rounds", type=int, default=3, help="rounds that measure the costs")
    return parser


def main() -> None:
    """Print each side's figures; record those of the last side beside those of the first."""
    arguments = build_parser().parse_args()
    record = recorder(arguments)
    export_environment()
    configs = {side: config_of(side) for side in arguments.tried or SIDES}
    costs = step_costs(configs, rounds=arguments.rounds, steps=60)
    judge = Judge(arguments.num)
    last = list(configs)[-1]
    seconds = costs[last] * configs[last].training.steps
    print("  ".join(f"{name:>9}" for name in ("steps", *SHOWN.values())), "  seed, side")
    figures: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in configs}
    for seed in arguments.seeds:
        for side, config in configs.items():
            steps = round(seconds / costs[side])
            training = quiet(config.training, steps=steps)
            _, model = train_model(config.model, training, config.data, seed=seed)
            found = judge.figures(model)
            for name in SHOWN:
                figures[side][name].append(found[name])
            row = "  ".join(f"{found[name]:9.3f}" for name in SHOWN)
            print(f"{steps:9}  {row}    {seed}, {side}", flush=True)
    for side, cost in costs.items():
        print(f"{1000 * cost:.1f} ms a step: {side}")
    for name, recorded in RECORDED.items():
        sides = dict.fromkeys((last, next(iter(configs))))
        record(f"quality-{recorded}", *(figures[side][name] for side in sides))


if __name__ == "__main__":
    main()
