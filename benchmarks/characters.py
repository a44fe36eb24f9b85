"""Our loop on characters against the plain fp32 loop of a minimal GPT, in turns.

    python benchmarks/characters.py --corpus ENGLISH.txt [--rounds 3] [--steps 200]

4 layers, 128 wide, context 64, batches of 12. The minimal GPT has learned positions, no biases
and no token but the text's characters. Each round has a seed of its own; with --steps 2000 the
losses on held-out text are judged.
"""

import argparse
import math
import statistics
import time
from pathlib import Path

import torch
from gpt import ours
from harness import in_own_process
from results import benchmark_parser, recorder
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.compute.devices import choose_device
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import GptConfig
from aigc_ops.models.language.likelihood import score
from aigc_ops.models.language.packing import IGNORED

HELDOUT_SHARE, BATCH_SIZE = 0.1, 12
CHARACTERS = GptConfig(
    tokenizer="characters", context_length=64, num_layers=4, num_heads=4, width=128, dropout=0.0,
    optimizer={"learning_rate": 1e-3, "beta2": 0.99, "weight_decay": 0.1},
)  # fmt: skip


class MinimalBlock(nn.Module):
    """A pre-norm layer without biases (Radford et al. 2019)."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norms = nn.ModuleList(nn.LayerNorm(width, bias=False) for _ in range(2))
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.widen = nn.Linear(width, 4 * width, bias=False)
        self.narrow = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.attend(self.norms[0](x)).view(*x.shape[:2], 3, self.num_heads, -1)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        added: Tensor = self.narrow(functional.gelu(self.widen(self.norms[1](x))))
        return x + added


class Minimal(nn.Module):
    """A GPT of our shapes with no more than it needs."""

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        width, num_layers = CHARACTERS.width, CHARACTERS.num_layers
        self.tokens = nn.Embedding(num_tokens, width)
        self.places = nn.Embedding(CHARACTERS.context_length, width)
        self.blocks = nn.Sequential(
            *(MinimalBlock(width, CHARACTERS.num_heads) for _ in range(num_layers))
        )
        self.norm = nn.LayerNorm(width, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                adds = name.endswith(("project.weight", "narrow.weight"))
                nn.init.normal_(weight, 0.0, 0.02 / (2 * num_layers) ** 0.5 if adds else 0.02)

    def forward(self, tokens: Tensor, *, positions: Tensor) -> Tensor:
        x = self.blocks(self.tokens(tokens) + self.places(positions))
        return functional.linear(self.norm(x), self.tokens.weight)


def plain(ids: Tensor, heldout: Tensor, steps: int, seed: int) -> tuple[float, float]:
    """Tokens a second of the usual loop in fp32, and the held-out loss it ends with."""
    torch.manual_seed(seed)
    device = choose_device("auto")
    model = Minimal(int(ids.max()) + 1).to(device)
    stream, length = ids.to(device), CHARACTERS.context_length
    parameters, ours = list(model.parameters()), CHARACTERS.optimizer
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": ours.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=ours.learning_rate,
        betas=(ours.beta1, ours.beta2),
    )
    positions = torch.arange(length, device=device)

    def step() -> None:
        starts = torch.randint(len(stream) - length, (BATCH_SIZE,)).tolist()
        inputs = torch.stack([stream[s : s + length] for s in starts])
        targets = torch.stack([stream[s + 1 : s + 1 + length] for s in starts])
        logits = model(inputs, positions=positions)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    warmup = min(10, steps // 2)
    for _ in range(warmup):
        step()
    stream.sum().item()  # a GPU computes behind
    started = time.perf_counter()
    for _ in range(steps - warmup):
        step()
    parameters[0].sum().item()
    seconds = time.perf_counter() - started
    return (steps - warmup) * BATCH_SIZE * length / seconds, heldout_loss(model, heldout)


@torch.no_grad()
def heldout_loss(network: nn.Module, ids: Tensor) -> float:
    """Nats a character, each with half a context before it."""
    length = CHARACTERS.context_length
    rows = ids.unfold(0, length + 1, length // 2)
    inputs, targets = rows[:, :-1], rows[:, 1:].clone()
    targets[:, : length // 2] = IGNORED
    chances = [
        score(network.eval(), *part).sum()
        for part in zip(inputs.split(256), targets.split(256), strict=True)
    ]
    return -(torch.stack(chances).sum() / (targets != IGNORED).sum()).item()


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--corpus", type=Path, metavar="FILE", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    return parser


def main() -> None:
    """Print each round's rates and losses, and their summary."""
    given = build_parser().parse_args()
    record = recorder(given)
    rounds, steps = given.rounds, given.steps
    text = given.corpus.read_text(encoding="utf-8")
    cut = int(len(text) * (1 - HELDOUT_SHARE))
    alphabet = {character: index for index, character in enumerate(sorted(set(text[:cut])))}
    ids = torch.tensor([alphabet[character] for character in text if character in alphabet])
    data, heldout = TextData([text[:cut]]), ids[cut:]  # our tokenizer numbers them likewise
    print(f"{len(text):,} characters, {len(alphabet)} different")
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    losses: dict[str, list[float]] = {"plain": [], "ours": []}
    ratios, worse_by = [], []
    for seed in range(rounds):
        found = {"plain": in_own_process(plain, ids[:cut], heldout, steps, seed)}
        rate, model = ours(CHARACTERS, data, steps=steps, batch_size=BATCH_SIZE, seed=seed)
        found["ours"] = rate, heldout_loss(model.network, heldout)
        for name, (rate, loss) in found.items():
            print(f"{name:6} {rate:8.0f} tokens/s   held-out {loss:.3f} nats a character")
            rates[name].append(rate)
            losses[name].append(loss)
        ratios.append(found["ours"][0] / found["plain"][0])
        worse_by.append(found["ours"][1] - found["plain"][1])
        print(f"ours / plain: {ratios[-1]:.2f}", flush=True)
    print(f"median of {len(ratios)}: {statistics.median(ratios):.2f}")
    if rounds > 1:
        error = statistics.stdev(worse_by) / math.sqrt(rounds)
        print(f"our loss above theirs: {statistics.mean(worse_by):.4f} +- {error:.4f}")
    record("characters-rate", rates["ours"], rates["plain"], ratios=ratios)
    record("characters-loss", losses["ours"], losses["plain"])


if __name__ == "__main__":
    main()
