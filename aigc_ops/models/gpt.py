"""GPT: a decoder-only transformer over its own tokens, from scratch or pretrained.

The network from scratch is that of `_transformer.py`; a pretrained one comes from
transformers, which is imported only then.
"""

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby, repeat
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.compute.random import Noise
from aigc_ops.core.errors import ModelError
from aigc_ops.core.input_paths import Reference
from aigc_ops.interfaces.model import Alarm, FamilyConfig, Loss
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.interfaces.request import (
    Control,
    Message,
    SampleRequest,
    check_controls,
    check_turns,
    unseeded,
)
from aigc_ops.modalities.text.model import TextData, TextModel
from aigc_ops.models.language.decoding import Choice, Decoding, Wording, continuations
from aigc_ops.models.language.export import export
from aigc_ops.models.language.likelihood import log_likelihood
from aigc_ops.models.language.lora import LoraConfig
from aigc_ops.models.language.packing import IGNORED, attention_within, pack
from aigc_ops.models.language.pretrained import Pretrained, check_fit, load_pretrained
from aigc_ops.models.language.tokenizer import NUM_FIXED, Vocabulary, check_unicode, newest_turns
from aigc_ops.models.language.transformer import Transformer

LOGITS_AT_ONCE = 2**20
"""Whose loss a CPU computes: larger tensors are mapped anew, page by page, in every step."""


class GptConfig(FamilyConfig):
    """A transformer from scratch, or a pretrained one to train on."""

    family: Literal["gpt"] = "gpt"
    pretrained: Reference | None = Field(
        default=None,
        description="What to start from: a local Hugging Face folder (safetensors), a GGUF file, "
        "or OWNER/NAME@COMMIT on the Hugging Face hub. It brings its own tokenizer, size, dropout "
        "and chat template; those settings here then count for nothing.",
    )
    lora: LoraConfig | None = Field(
        default=None,
        description="Train small adapters of a pretrained network, or of a version of one that "
        "training.init_from names, and leave its weights alone; empty: train all of it.",
    )
    tokenizer: Literal["bpe", "bytes", "characters"] = Field(
        default="bpe",
        description="Byte-level BPE learnt from the training texts, raw bytes, or the characters "
        "of the training texts (others as bytes).",
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
        default=False, description="Learn to predict the prompts too, not the answers alone."
    )
    recompute: bool = Field(
        default=False,
        description="Keep no activations of the blocks for the way back but compute them again: "
        "less memory for about a third more time.",
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
    top_p: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Sample among the likeliest tokens that together have this probability "
        "(Holtzman et al. 2020).",
    )
    repetition_penalty: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Weakens tokens that stand in prompt or text already (Keskar et al. 2019); "
        "1: not at all.",
    )
    max_new_tokens: int = Field(
        default=96, ge=1, le=2**17, description="Longest sample, as far as the context allows."
    )
    stop: Sequence[Annotated[str, Field(min_length=1)]] = Field(
        default=(), description="A sample ends before the first of these that it would hold."
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if not self.pretrained and self.width % (2 * self.num_heads):
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
    alarms = (
        # In nats a token: batches of few texts differ by tenths, a lost model by many.
        Alarm("rise/network", means="the loss has jumped", at_most=1.0),
    )
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
            recompute=config.recompute,
        )
        if isinstance(self.network, Pretrained):
            check_fit(self.network, vocabulary, config.context_length)
            self.network.prepare(config.lora, recompute=config.recompute)

    @classmethod
    def from_data(cls, config: GptConfig, data: TextData) -> Self:
        if config.pretrained:
            _warn_of_ignored(config)
            network, vocabulary = load_pretrained(config.pretrained, data)
            return cls(config, vocabulary, network)
        _check_no_adapters(config)
        if config.tokenizer == "bytes":
            return cls(config, Vocabulary.of_bytes(data))
        if config.tokenizer == "characters":
            return cls(config, Vocabulary.of_characters(data))
        return cls(config, Vocabulary.learn(data, config.vocab_size))

    @classmethod
    def from_blueprint(cls, config: GptConfig, blueprint: Mapping[str, JsonValue]) -> Self:
        vocabulary, network = blueprint["vocabulary"], blueprint["network"]
        assert isinstance(vocabulary, dict), vocabulary
        pretrained = Pretrained.from_record(network) if isinstance(network, dict) else None
        if pretrained is None:
            _check_no_adapters(config)
        return cls(config, Vocabulary.from_record(vocabulary), pretrained)

    def blueprint(self) -> dict[str, JsonValue]:
        network = self.network.record() if isinstance(self.network, Pretrained) else None
        return {"vocabulary": self.vocabulary.record(), "network": network}

    def parts(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def go_on(self, data: TextData) -> None:
        if self.config.pretrained:
            raise ModelError(
                f"training.init_from and model.pretrained ({self.config.pretrained}) both say what "
                "to start from; give one alone: --model.pretrained '' or --training.init-from ''"
            )
        if data.prompts is not None:
            self.vocabulary.take_turns()

    def origin(self, data: TextData) -> "Gpt | None":
        if not self.config.pretrained:
            return None
        config = self.config.model_copy(update={"lora": None, "recompute": False})
        try:
            return Gpt.from_data(config, data).eval()
        except ModelError as error:
            what = (
                f"the model is not set beside what it started from, which cannot be read: {error}"
            )
            warnings.warn(what, stacklevel=2)
            return None

    def released(self) -> "Gpt":
        if not (self.config.lora and self.config.lora.merge):
            return self
        assert isinstance(self.network, Pretrained), type(self.network)
        config = self.config.model_copy(update={"lora": None})
        return Gpt(config, self.vocabulary, self.network.merged()).eval()

    def export(self, folder: Path) -> None:
        export(self.network, self.vocabulary, folder, context_length=self.config.context_length)

    def optimizer(self, part: str) -> torch.optim.Optimizer:
        parameters = [p for p in self.parts()[part].parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return self.config.optimizer.optimizer(groups)

    def examples(self, data: TextData, folder: Path | None = None) -> dict[str, Tensor]:
        return pack(
            self.vocabulary.batches(data),
            context_length=self.config.context_length,
            num_tokens=self.network.num_tokens,
            on_prompts=self.config.train_on_prompts,
            folder=folder,
        )

    def example_terms(self) -> dict[str, JsonValue]:
        return {
            "vocabulary": self.vocabulary.record(),
            "context_length": self.config.context_length,
            "train_on_prompts": self.config.train_on_prompts,
        }

    def tokenizer_terms(self) -> dict[str, JsonValue]:
        return self.vocabulary.tokenizer_terms()

    def example_units(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["targets"] != IGNORED).sum()

    def losses(self, batch: dict[str, Tensor], noise: Noise) -> Iterator[Loss]:  # noqa: ARG002
        inputs, targets = batch["inputs"].long(), batch["targets"].long()
        if "positions" in batch:
            positions = batch["positions"].long()
            mask = attention_within(positions)
        else:
            positions, mask = torch.arange(inputs.shape[1], device=inputs.device)[None], None
        logits = self.network(inputs, positions=positions, mask=mask)
        loss = _cross_entropy(logits.flatten(0, 1), targets.flatten())
        yield Loss("network", loss, weight=(targets != IGNORED).float().mean())

    def controls(self) -> Mapping[str, Control]:
        longest = self.config.context_length - 1
        return {
            "temperature": Control(0, 10, "divides the logits; 0 takes the likeliest token"),
            "top_k": Control(1, self.network.num_tokens, "tokens to draw among", is_integer=True),
            "top_p": Control(0.001, 1, "probability of the tokens to draw among"),
            "repetition_penalty": Control(0.1, 10, "weakens tokens that were used; 1: not at all"),
            "max_new_tokens": Control(1, longest, "tokens of the longest answer", is_integer=True),
        }

    def _decoding(self, request: SampleRequest) -> Decoding:
        given = request.controls
        return Decoding(
            temperature=given.get("temperature", self.config.temperature),
            top_k=int(given.get("top_k", self.config.top_k or 0)),
            top_p=given.get("top_p", self.config.top_p),
            repetition_penalty=given.get("repetition_penalty", self.config.repetition_penalty),
            max_new_tokens=int(given.get("max_new_tokens", self.config.max_new_tokens)),
        )

    def check(self, request: SampleRequest) -> None:
        check_controls(request, self.controls())
        check_turns(request.history)
        if request.history and not request.prompt:
            raise ModelError("the messages are answered already; give a prompt to follow them")
        if any(not each for each in request.stop):
            raise ModelError("a stop string is empty; give one or more characters, or none")
        self._opening(request)

    def _opening(self, request: SampleRequest) -> list[int]:
        """Ids before the text asked for, with as many earlier turns as leave room for it.

        Raises ModelError when no text could follow the prompt and the system messages alone.
        """
        if request.label is not None:
            raise ModelError("this model writes text and takes no label; give a prompt or nothing")
        prompt, room = request.prompt or "", self.config.context_length - 1
        check_unicode("".join([*(message.text for message in request.history), prompt]))
        system = [message for message in request.history if message.role == "system"]
        words = self.vocabulary
        begin = words.beginning if request.is_begun else partial(words.opening, history=system)
        said = "".join([*(message.text for message in system), prompt])
        opening = begin(prompt) if words.fits(said, room) else None
        if opening is None or len(opening) > room:
            length = "far more" if opening is None else len(opening)
            raise ModelError(
                f"the prompt{' with its system message' * bool(system)} has {len(said)} characters "
                f"and takes {length} tokens; this model has room for {room} and one to follow, so "
                "give a shorter prompt"
            )
        answer = min(self._decoding(request).max_new_tokens, self.config.context_length // 2)

        def fits(history: Sequence[Message]) -> bool:
            if sum(len(message.text) for message in history) > room * words.longest_token:
                return False
            return len(words.opening(prompt, history)) + answer <= self.config.context_length

        history = newest_turns(request.history, fits)
        return words.opening(prompt, history) if history else opening

    @torch.no_grad()
    def sample(self, requests: Sequence[SampleRequest]) -> list[str]:
        wordings = list[Wording]()
        for _, wordings in self._tell(requests):  # noqa: B007 - the last is what counts
            pass
        return [wording.text for wording in wordings]

    @torch.inference_mode()
    def stream(self, request: SampleRequest) -> Generator[str, None, None]:
        for (told,), _ in self._tell([request]):
            if told:
                yield told

    def _tell(self, requests: Sequence[SampleRequest]) -> Iterator[tuple[list[str], list[Wording]]]:
        """After each step what it adds to each text, and the texts so far."""
        if not requests:
            return
        openings: list[list[int]] = []
        for alike, group in groupby(requests, key=unseeded):
            openings += repeat(self._opening(alike), len(list(group)))
        settings = [self._decoding(request) for request in requests]
        wordings = [
            Wording(
                self.vocabulary,
                opening,
                max_tokens=min(decoding.max_new_tokens, self.config.context_length - len(opening)),
                stop=request.stop or self.config.stop,
            )
            for request, opening, decoding in zip(requests, openings, settings, strict=True)
        ]
        choice = Choice(
            settings,
            openings,
            [request.generator() for request in requests],
            num_tokens=self.network.num_tokens,
        )
        with self.network.drawing(len(requests)):
            longest = self.config.context_length
            for drawn in continuations(self.network, openings, choice, context_length=longest):
                yield [w.add(token) for w, token in zip(wordings, drawn, strict=True)], wordings
                if all(wording.ended for wording in wordings):
                    return

    @torch.no_grad()
    def log_likelihood(self, data: TextData) -> tuple[Tensor, Tensor]:
        documents = list(self.vocabulary.documents(data))
        return log_likelihood(self.network, documents, context_length=self.config.context_length)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the targets (N,) that count, from logits (N, V), in fp32."""
    is_cpu = logits.device.type == "cpu"
    num = max(1, LOGITS_AT_ONCE // logits.shape[1]) if is_cpu else len(targets)
    sums = [
        functional.cross_entropy(few.float(), wanted, ignore_index=IGNORED, reduction="sum")
        for few, wanted in zip(torch.split(logits, num), torch.split(targets, num), strict=True)
    ]
    return torch.stack(sums).sum() / (targets != IGNORED).sum()


def _check_no_adapters(config: GptConfig) -> None:
    if config.lora:
        raise ModelError(
            "model.lora adapts a pretrained network and this one is from scratch; name one in "
            "model.pretrained, start from a version of one (training.init_from), or leave "
            "model.lora out"
        )


def _warn_of_ignored(config: GptConfig) -> None:
    ignored = ("tokenizer", "vocab_size", "num_layers", "num_heads", "width", "dropout")
    changed = config.model_dump(exclude_defaults=True)
    if given := [f"model.{name}" for name in ignored if name in changed]:
        what = f"{', '.join(given)}: ignored, for model.pretrained brings its own"
        warnings.warn(what, stacklevel=4)
