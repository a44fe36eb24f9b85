"""How often the gate promotes a model that is no better, and finds one that is.

python benchmarks/gate.py models:/NAME/1 models:/NAME/2 [--trials 200] [--width 64]
    A/A: both sides are drawn from the worse model's features. A/B: the other side holds as many of
    the better model's features as make it better by just the margin. Every trial draws anew, with
    replacement, from real features of `--pool` samples of each model, and asks the gate's own
    function, look by look. Beside it stand two gates that compare numbers alone.
python benchmarks/gate.py race [--rounds 50]
    Eight processes promote at once; one must win each time, and the audit log must hold.
python benchmarks/gate.py seeds [--pairs 40] [--steps 200] [--samples 256] [--log FILE]
    A/A over trainings: pairs of small GANs of the sample digits that differ by their seed alone.
    Which are promoted, with and without `promotion.better_than: seed_noise`? For the policy, the
    champion and the four GANs of the next two pairs are the trainings that are known.
python benchmarks/gate.py time [--times 25] [--log FILE]
    The guard of the sampling time compares a model with itself while a process keeps a core busy.

With `--log FILE`, seeds and time append a line of JSON for each trial, and go on where they were.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import quiet, run_training
from numpy.typing import NDArray
from results import Recorder, benchmark_parser, recorder

from aigc_ops.core.artifacts import Checkpoint, ImageShape
from aigc_ops.core.state_dir import home
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import open_dataset
from aigc_ops.evaluation import EvaluationConfig
from aigc_ops.evaluation.context import load, make_context
from aigc_ops.evaluation.paired import compare, compare_costs
from aigc_ops.interfaces.evaluation import Paired
from aigc_ops.modalities.image.extractors.loading import load_extractor
from aigc_ops.modalities.image.metrics.kept_samples import first_samples
from aigc_ops.modalities.image.metrics.splits import Splits
from aigc_ops.modalities.image.model import ImageData
from aigc_ops.models.gan import GanConfig
from aigc_ops.pipeline import chain
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Ruling, judge, num_looks, time_guard, with_seed_noise
from aigc_ops.promotion.seed_noise import MIN_TRAININGS, seed_noise
from aigc_ops.registry.trainings import Training
from aigc_ops.statistics.frechet import Gaussian, frechet_distance
from aigc_ops.statistics.intervals import paired_error, share_estimate
from aigc_ops.training import TrainingConfig

Features = NDArray[np.floating]
Draw = Callable[[int], Features]


def pools(uris: list[str], num: int, width: int) -> tuple[list[Features], Gaussian]:
    """(num, width) features of each model, and the reference's statistics.

    The features are turned to the reference's principal axes and cut to the first `width`.
    """
    checkpoints = [chain.resolve(uri) for uri in uris]
    config = chain.config_of(checkpoints[0])
    dataset = chain.open_data(config)
    evaluation = config.evaluation.with_section("image", num_samples=num)
    extractor = load_extractor(evaluation.section("image"), evaluation)
    cache = home() / "cache" / "reference"
    context = make_context(dataset, config.data, evaluation, seed=0, cache=cache)
    reference = Splits(context, extractor).reference(context.section.reference).features
    found = [
        first_samples(load(checkpoint, evaluation), context, extractor).features
        for checkpoint in checkpoints
    ]
    centre = reference.mean(axis=0)
    axes = np.linalg.svd(reference - centre, full_matrices=False)[2][:width].T
    turned = [(features - centre) @ axes for features in (reference, *found)]
    return turned[1:], Gaussian.of_features(turned[0])


def mixture(worse: Features, better: Features, reference: Gaussian, gain: float) -> Features:
    """As many rows of the better as make the distance less by a fraction `gain`."""
    start = frechet_distance(Gaussian.of_features(worse), reference)
    low, high = 0, len(worse)
    while high - low > 1:
        middle = (low + high) // 2
        mixed = np.concatenate([better[:middle], worse[middle:]])
        distance = frechet_distance(Gaussian.of_features(mixed), reference)
        low, high = (middle, high) if distance > (1 - gain) * start else (low, middle)
    mixed = np.concatenate([better[:high], worse[high:]])
    reached = 1 - frechet_distance(Gaussian.of_features(mixed), reference) / start
    print(f"  {high / len(worse):.1%} of the better model's rows: {reached:.2%} better")
    return mixed


def drawer(pool: Features, seed: int) -> Draw:
    """Draws rows; a larger draw begins with the smaller one, as more samples do."""
    order = np.random.default_rng(seed).integers(len(pool), size=len(pool) * 2)
    return lambda num: pool[order[:num]]


def decide(
    candidate: Draw, champion: Draw, reference: Gaussian, first: int, config: PromotionConfig
) -> tuple[str, int, Paired]:
    """The gate's outcome, the look that gave it, and what the first look saw."""
    looks, seen = num_looks(first, config), None
    for look in range(1, looks + 1):
        num = first * 2 ** (look - 1)
        mine, theirs, error, freedom = paired_error(candidate(num), champion(num), reference)
        paired = Paired("fd", mine, theirs, error, freedom, num)
        seen = seen or paired
        outcome = judge(paired, [], config, look=look, looks=looks).outcome
        if outcome != "undecided":
            break
    assert seen is not None
    return outcome, look, seen


def error_rates(arguments: argparse.Namespace, record: Recorder) -> None:
    config = PromotionConfig(
        min_improvement=arguments.margin, max_samples=arguments.first * arguments.growth
    )
    (worse, better), reference = pools(arguments.models, arguments.pool, arguments.width)
    print(
        f"{arguments.trials} trials, {arguments.width} axes, looks at {arguments.first} to "
        f"{config.max_samples} samples, margin {config.min_improvement:.0%}"
    )
    print("A/B")
    gained = mixture(worse, better, reference, config.min_improvement)
    num_trials = arguments.trials
    for name, pool in (("A/A", worse), ("A/B", gained)):
        outcomes: Counter[str] = Counter()
        looks: list[int] = []
        naive = with_margin = 0
        for trial in range(num_trials):
            outcome, look, seen = decide(
                drawer(pool, 2 * trial), drawer(worse, 2 * trial + 1), reference,
                arguments.first, config,
            )  # fmt: skip
            outcomes[outcome] += 1
            looks.append(look)
            naive += seen.difference < 0
            with_margin += seen.difference < -config.min_improvement * seen.champion
        shares = ", ".join(f"{k} {outcomes[k] / num_trials:.1%}" for k in sorted(outcomes))
        print(
            f"{name}: {shares}; looks {np.mean(looks):.2f}; promoted by a lower number "
            f"{naive / num_trials:.1%}, by one lower by the margin "
            f"{with_margin / num_trials:.1%}"
        )
        promoted, peer_promoted = (100 * n / num_trials for n in (outcomes["promote"], with_margin))
        record(f"gate-{name.replace('/', '').lower()}", [promoted], [peer_promoted])


RACER = """\
import sys
from aigc_ops.core.errors import DecisionError
from aigc_ops.registry.aliases import Decision, promote
from aigc_ops.registry.versions import find, to_noun
from aigc_ops.registry.client import connect
decision = Decision(who="racer " + sys.argv[1], reason="a race")
client = connect()
for line in sys.stdin:
    number, known = line.split()
    version = to_noun(find(client, "race", version=int(number)))
    try:
        won = promote(version, decision, champion=None if known == "none" else int(known))
        print("won" if won else "was", flush=True)
    except DecisionError as error:
        print("lost", flush=True)
"""


def race(arguments: argparse.Namespace, record: Recorder) -> None:
    """Eight processes, each with a version of its own, promote at once, round after round."""
    from aigc_ops.registry.audit_log import audit
    from aigc_ops.registry.client import connect
    from aigc_ops.registry.registration import register
    from aigc_ops.registry.versions import champion

    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(AIGC_OPS_HOME=f"{folder}/home", OMP_NUM_THREADS="1")
        connect()
        for seed in range(9):
            register(_checkpoint(Path(folder) / f"run-{seed}", seed), None, name="race")
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACER, str(index)], text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for index in range(8)
        ]  # fmt: skip
        winners: Counter[int] = Counter()
        for _ in range(arguments.rounds):
            standing = champion("race")
            known = standing.version if standing else None
            free = [number for number in range(1, 10) if number != known][:8]
            for racer, number in zip(racers, free, strict=True):
                assert racer.stdin is not None
                racer.stdin.write(f"{number} {known or 'none'}\n")
                racer.stdin.flush()
            answers = [racer.stdout.readline().strip() for racer in racers if racer.stdout]
            winners[answers.count("won")] += 1
            now = champion("race")
            assert now is not None
            assert now.version == free[answers.index("won")], answers
        for racer in racers:
            racer.communicate()
        log = audit("race")
        print(
            f"{arguments.rounds} rounds of 8: winners a round {dict(winners)}; "
            f"{len(log.entries)} entries, {len(log.problems)} problems"
        )
        record("gate-race-winners", [max(winners)])
        record("gate-race-problems", [len(log.problems)])


def _checkpoint(folder: Path, seed: int) -> Checkpoint:
    """Train a small GAN for one step."""
    model = GanConfig(latent_dim=4, generator_width=4, critic_width=4)
    config = TrainingConfig(steps=1, batch_size=4, watch={"action": "off"})
    shape = ImageShape(channels=1, height=8, width=8)
    images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    return run_training(model, config, ImageData(images, None, shape), folder=folder, seed=seed)


class Log:
    """Trials as lines of JSON in a file, to go on after a stop; without a file in memory alone."""

    def __init__(self, path: Path | None, settings: dict[str, Any]) -> None:
        self._path, self._settings = path, settings
        lines = path.read_text("utf-8").splitlines() if path and path.exists() else []
        self.trials = [trial for line in lines if (trial := self._read(line))]
        if path:  # without a line that a kill has cut off
            path.write_text("".join(map(self._line, self.trials)), "utf-8")

    def append(self, trial: dict[str, Any]) -> None:
        self.trials.append(trial)
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(self._line(trial))

    def _line(self, trial: dict[str, Any]) -> str:
        return json.dumps({"settings": self._settings, "trial": trial}) + "\n"

    def _read(self, line: str) -> dict[str, Any] | None:
        try:
            found = json.loads(line)
        except ValueError:
            return None
        if found["settings"] != self._settings:
            raise SystemExit(f"{self._path} has trials of other settings; give another --log")
        return dict(found["trial"])


SMALL_GAN = GanConfig(latent_dim=8, generator_width=8, critic_width=8)
RATE = PromotionConfig().false_promotion_rate


def seeds(arguments: argparse.Namespace, record: Recorder) -> None:
    """A/A over trainings: how often the gate promotes a GAN that only has another seed."""
    model = SMALL_GAN.model_dump(mode="json", exclude_defaults=True)
    settings = {"steps": arguments.steps, "samples": arguments.samples, "model": model}
    log = Log(arguments.log, settings)
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(len(log.trials), arguments.pairs):
            trial = seed_trial(pair, arguments, Path(folder))
            log.append(trial)
            print(f"pair {pair + 1} of {arguments.pairs}: {trial['values']}, {trial['outcome']}")
    trials = log.trials[: arguments.pairs]
    if len(trials) < 3:
        raise SystemExit("the known trainings of a pair are those of two others; give 3 pairs")
    outcomes: Counter[str] = Counter(trial["outcome"] for trial in trials)
    with_policy: Counter[str] = Counter()
    for index, trial in enumerate(trials):
        others = [trials[(index + step) % len(trials)]["values"] for step in (1, 2)]
        values = [trial["values"][1], *others[0], *others[1]]
        known = [Training(version=i + 1, seed=i, value=value) for i, value in enumerate(values)]
        assert len(known) == MIN_TRAININGS
        noise = seed_noise(known, 1, Paired(**trial["paired"]), level=1 - RATE)
        ruling = Ruling(outcome=trial["outcome"], reasons=(), num=trial["paired"]["num"])
        policy = PromotionConfig(better_than="seed_noise")
        with_policy[with_seed_noise(ruling, noise, policy).outcome] += 1
    spread = float(np.std(np.log([trial["values"] for trial in trials]), ddof=1))
    promoted, without = (100 * n["promote"] / len(trials) for n in (with_policy, outcomes))
    print(
        f"{len(trials)} pairs, standard deviation of seeds {spread:.1%}: {dict(outcomes)}; with "
        f"the policy {dict(with_policy)}"
    )
    exact = share_estimate(with_policy["promote"], len(trials))
    record("gate-seeds", [promoted], [without], interval=(100 * exact.low, 100 * exact.high))


def seed_trial(pair: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train two GANs and ask the gate, look by look, which holds the second for the champion."""
    data = DataConfig(path="data/mnist")
    config = quiet(TrainingConfig(batch_size=32), steps=arguments.steps)
    checkpoints = [
        run_training(SMALL_GAN, config, data, folder=folder / str(seed), seed=seed)
        for seed in (2 * pair, 2 * pair + 1)
    ]
    first, promotion = arguments.samples, PromotionConfig(max_samples=2 * arguments.samples)
    looks, values = num_looks(first, promotion), list[float]()
    for look in range(1, looks + 1):
        evaluation = EvaluationConfig(
            num_reference=1000,
            image={"num_samples": first * 2 ** (look - 1), "input_size": 32},
        )
        paired = compare(
            *checkpoints, open_dataset(data), data, evaluation, seed=0, cache=folder / "reference"
        )
        values = values or [paired.candidate, paired.champion]
        outcome = judge(paired, [], promotion, look=look, looks=looks).outcome
        if outcome != "undecided":
            break
    return {"values": values, "outcome": outcome, "paired": asdict(paired)}


def sampling_time(arguments: argparse.Namespace, record: Recorder) -> None:
    """How often the guard of the sampling time fails a model that is compared with itself."""
    log = Log(arguments.log, {"model": SMALL_GAN.model_dump(mode="json", exclude_defaults=True)})
    limit = PromotionConfig().max_slowdown
    with tempfile.TemporaryDirectory() as folder, busy_core():
        data = DataConfig(path="data/mnist")
        config = quiet(TrainingConfig(batch_size=32), steps=1)
        checkpoint = run_training(SMALL_GAN, config, data, folder=Path(folder))
        for trial in range(len(log.trials), arguments.times):
            costs = compare_costs(checkpoint, checkpoint, EvaluationConfig(), limit=limit)
            state = time_guard(costs, PromotionConfig()).state
            log.append({"state": state, "slowdown": costs.slowdown, "high": costs.high})
            print(f"{trial + 1} of {arguments.times}: {costs.slowdown:.3g}, {state}")
    states: Counter[str] = Counter(trial["state"] for trial in log.trials[: arguments.times])
    print(f"{dict(states)}")
    record("gate-time", [states["fails"]])


@contextmanager
def busy_core() -> Iterator[None]:
    """Keep a core busy by another process."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="two models, worse and better")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--width", type=int, default=64, help="axes of the features kept")
    parser.add_argument("--pool", type=int, default=8000, help="samples drawn of each model")
    parser.add_argument("--first", type=int, default=2000, help="samples at the first look")
    parser.add_argument("--growth", type=int, default=4, help="most samples, times the first")
    parser.add_argument("--margin", type=float, default=PromotionConfig().min_improvement)
    parser.add_argument("--rounds", type=int, default=50, help="of the race")
    parser.add_argument("--pairs", type=int, default=40, help="of seeds")
    parser.add_argument("--steps", type=int, default=200, help="of each GAN's training, for seeds")
    parser.add_argument("--samples", type=int, default=256, help="at the first look, for seeds")
    parser.add_argument("--times", type=int, default=25, help="of the guard, for time")
    parser.add_argument("--log", type=Path, metavar="FILE", help="trials of seeds or time so far")
    return parser


def main() -> None:
    parser = build_parser()
    arguments = parser.parse_args()
    record = recorder(arguments)
    forms = {"race": race, "seeds": seeds, "time": sampling_time}
    if len(arguments.models) == 1 and arguments.models[0] in forms:
        forms[arguments.models[0]](arguments, record)
    elif len(arguments.models) == 2:
        error_rates(arguments, record)
    else:
        parser.error("give two models, worse and better, or one of race, seeds and time")


if __name__ == "__main__":
    main()
