"""GPT: a decoder-only transformer over its own tokens, from scratch or pretrained.

The network from scratch is that of `_transformer.py`; a pretrained one comes from
transformers, which is imported only then.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.errors import ModelError
from aigc_ops.generative import (
    AdamConfig,
    FamilyConfig,
    Loss,
    SampleRequest,
    TextData,
    TextModel,
    check_controls,
)
from aigc_ops.models._pretrained import Pretrained, load_pretrained
from aigc_ops.models._tokens import (
    IGNORED,
    NUM_FIXED,
    Vocabulary,
    attention_within,
    check_unicode,
    pack,
    pad_left,
    scoring_batches,
)
from aigc_ops.models._transformer import Transformer
from aigc_ops.noise import Noise

MAX_LOGITS = 2**24  # scored at a time: 128 MB in float64


class GptConfig(FamilyConfig):
    """A transformer from scratch, or a pretrained one to train on."""

    family: Literal["gpt"] = "gpt"
    pretrained: str | None = Field(
        default=None,
        description="Local Hugging Face folder (safetensors) to start from. It brings its own "
        "tokenizer, size and dropout; those settings here then count for nothing.",
    )
    tokenizer: Literal["bpe", "bytes"] = Field(
        default="bpe", description="Byte-level BPE learnt from the training texts, or raw bytes."
    )
    vocab_size: int = Field(
        default=512,
        ge=NUM_FIXED,
        le=2**20,
        description="Most tokens of a BPE: 256 bytes, 3 marks, the rest merges.",
    )
    context_length: int = Field(
        default=256, ge=8, le=2**17, description="Tokens seen at once, prompt and answer together."
    )
    num_layers: int = Field(default=4, ge=1, le=256, description="Transformer blocks.")
    num_heads: int = Field(default=4, ge=1, le=256, description="Attention heads of a block.")
    width: int = Field(
        default=192, ge=8, le=2**15, description="Length of a token's vector; even for each head."
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Share of activations dropped.")
    train_on_prompts: bool = Field(
        default=True, description="Learn to predict the prompts too, not the answers alone."
    )
    optimizer: AdamConfig = Field(
        default=AdamConfig(learning_rate=1e-3, beta2=0.99, weight_decay=0.1),
        description="Optimiser of the network; only matrices decay.",
    )
    temperature: float = Field(
        default=0.8, ge=0, le=10, description="Divides the logits when sampling; 0 is greedy."
    )
    top_k: int | None = Field(
        default=40, ge=1, description="Sample among the likeliest tokens; null: among all."
    )
    max_new_tokens: int = Field(
        default=96, ge=1, le=2**17, description="Longest sample, as far as the context allows."
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.pretrained is None and self.width % (2 * self.num_heads):
            step = 2 * self.num_heads
            raise ValueError(
                f"width {self.width} is not a multiple of 2 x num_heads = {step}; "
                f"take {max(step, round(self.width / step) * step)}"
            )
        return self


class Gpt(TextModel):
    """A network over a vocabulary."""

    config_type = GptConfig
    averaged_parts = frozenset({"network"})
    config: GptConfig

    def __init__(
        self, config: GptConfig, vocabulary: Vocabulary, network: Pretrained | None = None
    ) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.network: Transformer | Pretrained = network or Transformer(
            num_tokens=vocabulary.size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            width=config.width,
            dropout=config.dropout,
        )

    @classmethod
    def from_data(cls, config: GptConfig, data: TextData) -> Self:
        if config.pretrained is not None:
            _warn_of_ignored(config)
            network, vocabulary = load_pretrained(
                Path(config.pretrained), data, context_length=config.context_length
            )
            return cls(config, vocabulary, network)
        if config.tokenizer == "bytes":
            return cls(config, Vocabulary.of_bytes(data))
        return cls(config, Vocabulary.learn(data, config.vocab_size))

    @classmethod
    def from_blueprint(cls, config: GptConfig, blueprint: Mapping[str, JsonValue]) -> Self:
        vocabulary, network = blueprint["vocabulary"], blueprint["network"]
        assert isinstance(vocabulary, dict), vocabulary
        pretrained = Pretrained.from_record(network) if isinstance(network, dict) else None
        return cls(config, Vocabulary.from_record(vocabulary), pretrained)

    def blueprint(self) -> dict[str, JsonValue]:
        network = self.network.record() if isinstance(self.network, Pretrained) else None
        return {"vocabulary": self.vocabulary.record(), "network": network}

    def parts(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def optimizer(self, part: str) -> torch.optim.Optimizer:
        parameters = list(self.parts()[part].parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return self.config.optimizer.optimizer(groups)

    def examples(self, data: TextData) -> dict[str, Tensor]:
        return pack(
            self.vocabulary.documents(data),
            context_length=self.config.context_length,
            on_prompts=self.config.train_on_prompts,
        )

    def example_units(self, batch: dict[str, Tensor]) -> int:
        return int((batch["targets"] != IGNORED).sum())

    def losses(self, batch: dict[str, Tensor], noise: Noise) -> Iterator[Loss]:  # noqa: ARG002
        inputs, targets, positions = (
            batch[name].long() for name in ("inputs", "targets", "positions")
        )
        logits = self.network(inputs, positions=positions, mask=attention_within(positions))
        loss = functional.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED
        )
        yield Loss("network", loss, weight=(targets != IGNORED).float().mean())

    def check(self, request: SampleRequest) -> None:
        check_controls(request, self.controls())
        self._opening(request)

    def _opening(self, request: SampleRequest) -> list[int]:
        """Ids before the text asked for; raises ModelError when no text could follow them."""
        if request.label is not None:
            raise ModelError("this model writes text and takes no label; give a prompt or nothing")
        prompt, room = request.prompt or "", self.config.context_length - 1
        check_unicode(prompt)
        opening = self.vocabulary.opening(prompt) if self.vocabulary.fits(prompt, room) else None
        if opening is None or len(opening) > room:
            length = "far more" if opening is None else len(opening)
            raise ModelError(
                f"the prompt has {len(prompt)} characters and takes {length} tokens; this model "
                f"has room for {room} and one to follow, so give a shorter prompt"
            )
        return opening

    @torch.no_grad()
    def sample(self, requests: Sequence[SampleRequest]) -> list[str]:
        if not requests:
            return []
        openings = [self._opening(request) for request in requests]
        room = [self.config.context_length - len(opening) for opening in openings]
        budgets = torch.tensor(room).clamp(max=self.config.max_new_tokens)
        length = self.config.max_new_tokens
        noise = [torch.rand(length, generator=r.generator(), dtype=torch.float64) for r in requests]
        drawn = self._continue(openings, budgets, torch.stack(noise))
        return [
            self.vocabulary.decode(opening, row[:budget])
            for opening, row, budget in zip(openings, drawn.tolist(), budgets, strict=True)
        ]

    def _continue(self, openings: list[list[int]], budgets: Tensor, noise: Tensor) -> Tensor:
        """(N, T) ids that follow the openings, until every row has ended or spent its budget.

        Rows end together; padding stands before the shorter ones, and none looks at it.
        """
        device = next(self.parameters()).device
        tokens, valid = (tensor.to(device) for tensor in pad_left(openings))
        positions = (valid.cumsum(1) - 1).clamp(min=0)
        # Padding looks at itself: a softmax over nothing would be NaN and spread.
        own = torch.eye(tokens.shape[1], dtype=torch.bool, device=device)
        mask = (valid[:, None, None, :] & torch.ones_like(own).tril()) | own
        cache, drawn = self.network.new_cache(), []
        ended = torch.zeros(len(openings), dtype=torch.bool)
        for step in range(int(budgets.max())):
            logits = self.network(
                tokens, positions=positions, mask=mask, cache=cache, last_only=True
            )
            new = _draw(logits[:, -1].float().cpu(), noise[:, step], self.config)
            drawn.append(new)
            ended |= (new == self.vocabulary.end) | (budgets == step + 1)
            if ended.all():
                break
            # A row that has ended runs on unread, at a position the network still knows.
            positions = (positions[:, -1:] + 1).clamp(max=self.config.context_length - 1)
            tokens = new[:, None].to(device)
            valid = functional.pad(valid, (0, 1), value=True)
            mask = valid[:, None, None, :]
        return torch.stack(drawn, dim=1)

    @torch.no_grad()
    def log_likelihood(self, data: TextData) -> tuple[Tensor, Tensor]:
        """Log likelihood of each text given its prompt, (N,) float64 nats, and (N,) tokens.

        A token has at least half a context before it where the text has so many.
        """
        documents = self.vocabulary.documents(data)
        totals = torch.zeros(len(documents), dtype=torch.float64)
        for indices, inputs, targets in scoring_batches(
            documents,
            context_length=self.config.context_length,
            max_tokens=MAX_LOGITS // self.vocabulary.size,
        ):
            totals.index_add_(0, indices, self._score(inputs, targets))
        counts = torch.tensor([len(d.ids) - d.first for d in documents], dtype=torch.int64)
        return totals, counts

    def _score(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Log likelihood (B,) of each row's targets, float64 on the CPU."""
        device = next(self.parameters()).device
        positions = torch.arange(inputs.shape[1], device=device).expand(len(inputs), -1)
        with torch.autocast(device.type, enabled=False):
            logits = self.network(inputs.to(device), positions=positions)
        losses = functional.cross_entropy(
            logits.cpu().double().flatten(0, 1),
            targets.flatten(),
            ignore_index=IGNORED,
            reduction="none",
        )
        return -losses.view_as(targets).sum(1)


def _draw(logits: Tensor, noise: Tensor, config: GptConfig) -> Tensor:
    """(N,) ids drawn from logits (N, V), each by its own uniform number in [0, 1)."""
    if config.temperature == 0:
        return logits.argmax(-1)
    num = min(config.top_k or logits.shape[-1], logits.shape[-1])
    values, ids = logits.topk(num)
    cumulative = (values.double() / config.temperature).softmax(-1).cumsum(-1)
    choice = (cumulative <= noise[:, None]).sum(-1, keepdim=True).clamp(max=num - 1)
    return ids.gather(1, choice)[:, 0]


def _warn_of_ignored(config: GptConfig) -> None:
    ignored = ("tokenizer", "vocab_size", "num_layers", "num_heads", "width", "dropout")
    changed = config.model_dump(exclude_defaults=True)
    if given := [f"model.{name}" for name in ignored if name in changed]:
        what = f"{', '.join(given)}: ignored, for model.pretrained brings its own"
        warnings.warn(what, stacklevel=4)
