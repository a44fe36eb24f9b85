"""GPT: a decoder-only transformer over its own tokens, from scratch or pretrained.

The network from scratch is in `language/transformer.py`; a pretrained one comes from
transformers, which is imported only then.
"""

import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import groupby, repeat
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.compute.random import Noise
from aigc_ops.core.errors import ModelError
from aigc_ops.core.input_paths import InputPath
from aigc_ops.interfaces.model import Alarm, FamilyConfig, Loss
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.interfaces.request import (
    Control,
    Message,
    SampleRequest,
    check_controls,
    unseeded,
)
from aigc_ops.modalities.text.model import TextData, TextModel
from aigc_ops.modalities.text.requests import (
    HISTORY,
    PREFIX,
    PROMPT,
    STOP,
    check_text_conditions,
)
from aigc_ops.models.language.decoding import Decoding, Detokenizer, TokenSampler, continuations
from aigc_ops.models.language.export import export
from aigc_ops.models.language.likelihood import log_likelihood
from aigc_ops.models.language.lora import LoraConfig
from aigc_ops.models.language.packing import IGNORED, attention_within, pack
from aigc_ops.models.language.pretrained import Pretrained, check_fit, load_pretrained
from aigc_ops.models.language.tokenizer import (
    NUM_FIXED,
    Vocabulary,
    check_unicode,
    truncate_history,
)
from aigc_ops.models.language.transformer import Transformer

# Chunk of the cross-entropy on the CPU: memory for larger tensors is mapped anew in every step,
# and page faults then cost more than the loss.
LOGITS_AT_ONCE = 2**20


class GptConfig(FamilyConfig):
    """A transformer from scratch, or a pretrained one to train on."""

    family: Literal["gpt"] = "gpt"
    pretrained: InputPath | None = Field(
        default=None,
        description="Pretrained model: a local Hugging Face folder (safetensors), a GGUF file, "
        "or OWNER/NAME@COMMIT on the Hugging Face hub. It has its own tokenizer, size, dropout "
        "and chat template; the corresponding settings here are ignored.",
    )
    lora: LoraConfig | None = Field(
        default=None,
        description="LoRA: train adapters of a pretrained network (model.pretrained, or "
        "training.init_from) and freeze its own weights; empty: train all weights.",
    )
    tokenizer: Literal["bpe", "bytes", "characters"] = Field(
        default="bpe",
        description="Byte-level BPE trained on the training texts, raw bytes, or the characters "
        "of the training texts (others as bytes).",
    )
    vocab_size: int = Field(
        default=512,
        ge=NUM_FIXED,
        le=2**20,
        description="Maximum size of a BPE: 256 bytes, 3 special tokens, the rest merges.",
    )
    context_length: int = Field(
        default=256, ge=8, le=2**17, description="Maximum tokens of prompt and answer together."
    )
    num_layers: int = Field(default=4, ge=1, le=256, description="Transformer blocks.")
    num_heads: int = Field(default=4, ge=1, le=256, description="Attention heads of a block.")
    width: int = Field(
        default=192, ge=8, le=2**15, description="Embedding size; a multiple of 2 x num_heads."
    )
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout rate.")
    train_on_prompts: bool = Field(
        default=False, description="Include the prompts in the loss, not only the answers."
    )
    recompute: bool = Field(
        default=False,
        description="Activation checkpointing: recompute the blocks' activations in the backward "
        "pass; less memory for about a third more time.",
    )
    optimizer: AdamConfig = Field(
        default=AdamConfig(learning_rate=1e-3, beta2=0.99, weight_decay=0.1),
        description="Optimiser of the network; weight decay applies to matrices only.",
    )
    temperature: float = Field(
        default=0.8, ge=0, le=10, description="Divides the logits when sampling; 0 is greedy."
    )
    top_k: int | None = Field(
        default=40, ge=1, description="Sample among the k likeliest tokens; null: among all."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Sample among the top tokens of this probability mass."
    )
    repetition_penalty: float = Field(
        default=1.0, gt=0, le=10, description="Penalty on tokens of prompt and text; 1: none."
    )
    max_new_tokens: int = Field(
        default=96, ge=1, le=2**17, description="Maximum tokens of a sample, within the context."
    )
    stop: Sequence[Annotated[str, Field(min_length=1)]] = Field(
        default=(), description="Stop strings: a sample ends before the first one."
    )

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        # A head's width is even, because rotary positions pair its dimensions.
        if not self.pretrained and self.width % (2 * self.num_heads):
            step = 2 * self.num_heads
            raise ValueError(
                f"width {self.width} is not a multiple of 2 x num_heads = {step}; "
                f"take {max(step, round(self.width / step) * step)}"
            )
        return self


class Gpt(TextModel):
    """A decoder-only transformer with its vocabulary."""

    config_type = GptConfig
    averaged_parts = frozenset({"network"})
    alarms = (
        # In nats per token. Small batches fluctuate by 0.1; a model that diverges rises by more.
        Alarm("rise/network", message="the loss has jumped", at_most=1.0),
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
        _require_no_adapters(config)
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
            _require_no_adapters(config)
        return cls(config, Vocabulary.from_record(vocabulary), pretrained)

    def blueprint(self) -> dict[str, JsonValue]:
        network = self.network.record() if isinstance(self.network, Pretrained) else None
        return {"vocabulary": self.vocabulary.record(), "network": network}

    def parts(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def prepare_finetuning(self, data: TextData) -> None:
        if self.config.pretrained:
            raise ModelError(
                f"training.init_from and model.pretrained ({self.config.pretrained}) both name a "
                "model to start from; unset one: --model.pretrained '' or --training.init-from ''"
            )
        if data.prompts is not None:
            self.vocabulary.use_turn_token()

    def origin(self, data: TextData) -> "Gpt | None":
        if not self.config.pretrained:
            return None
        config = self.config.model_copy(update={"lora": None, "recompute": False})
        try:
            return Gpt.from_data(config, data).eval()
        except ModelError as error:
            message = f"no comparison with the pretrained model, which cannot be read: {error}"
            warnings.warn(message, stacklevel=2)
            return None

    def for_registry(self) -> "Gpt":
        if not (self.config.lora and self.config.lora.merge):
            return self
        assert isinstance(self.network, Pretrained), type(self.network)
        config = self.config.model_copy(update={"lora": None})
        return Gpt(config, self.vocabulary, self.network.merged()).eval()

    def export(self, folder: Path) -> None:
        export(self.network, self.vocabulary, folder, context_length=self.config.context_length)

    def optimizer(self, part: str) -> torch.optim.Optimizer:
        parameters = [p for p in self.parts()[part].parameters() if p.requires_grad]
        # GPT-2 and its successors exempt biases and gains of norms from weight decay.
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
        else:  # one document per row needs no mask, so torch can use its causal kernels
            positions, mask = torch.arange(inputs.shape[1], device=inputs.device)[None], None
        logits = self.network(inputs, positions=positions, mask=mask)
        loss = _cross_entropy(logits.flatten(0, 1), targets.flatten())
        # Micro-batches differ in how many targets they have; each counts by its share of them.
        yield Loss("network", loss, weight=(targets != IGNORED).float().mean())

    def controls(self) -> Mapping[str, Control]:
        longest = self.config.context_length - 1
        return {
            "temperature": Control(0, 10, "divides the logits; 0 takes the likeliest token"),
            "top_k": Control(1, self.network.num_tokens, "tokens to sample among", is_integer=True),
            "top_p": Control(0.001, 1, "probability of the tokens to sample among"),
            "repetition_penalty": Control(0.1, 10, "penalty on tokens used before; 1: none"),
            "max_new_tokens": Control(1, longest, "maximum tokens of the answer", is_integer=True),
        }

    def _decoding(self, request: SampleRequest) -> Decoding:
        controls = request.controls
        return Decoding(
            temperature=controls.get("temperature", self.config.temperature),
            top_k=int(controls.get("top_k", self.config.top_k or 0)),
            top_p=controls.get("top_p", self.config.top_p),
            repetition_penalty=controls.get("repetition_penalty", self.config.repetition_penalty),
            max_new_tokens=int(controls.get("max_new_tokens", self.config.max_new_tokens)),
        )

    def check(self, request: SampleRequest) -> None:
        check_controls(request, self.controls())
        check_text_conditions(request)
        self._prompt_tokens(request)

    def _prompt_tokens(self, request: SampleRequest) -> list[int]:
        """Return the ids before the answer, with the newest turns that leave room for it.

        Raises ModelError when prompt and system messages alone exceed the context.
        """
        # 1. The request must fit without its history, and one token must be able to follow.
        prefix, turns = PREFIX.of(request), HISTORY.of(request) or ()
        prompt, room = prefix or PROMPT.of(request) or "", self.config.context_length - 1
        check_unicode("".join([*(message.text for message in turns), prompt]))
        system = [message for message in turns if message.role == "system"]
        text = "".join([*(message.text for message in system), prompt])
        vocabulary, context_length = self.vocabulary, self.config.context_length
        if not vocabulary.fits(text, room):
            tokens = None  # a megabyte is refused by its length alone, without encoding it
        elif prefix:
            tokens = vocabulary.prefix_tokens(prompt)
        else:
            tokens = vocabulary.prompt_tokens(prompt, system)
        if tokens is None or len(tokens) > room:
            length = "far more" if tokens is None else len(tokens)
            raise ModelError(
                f"the prompt{' with its system message' * bool(system)} has {len(text)} characters "
                f"and takes {length} tokens; this model has room for {room} and one to follow, so "
                "give a shorter prompt"
            )
        # 2. Turns are dropped until half a context, or max_new_tokens, is free for the answer.
        answer = min(self._decoding(request).max_new_tokens, context_length // 2)

        def fits(history: Sequence[Message]) -> bool:
            if sum(len(message.text) for message in history) > room * vocabulary.longest_token:
                return False
            return len(vocabulary.prompt_tokens(prompt, history)) + answer <= context_length

        history = truncate_history(turns, fits)
        return vocabulary.prompt_tokens(prompt, history) if history else tokens

    @torch.no_grad()
    def sample(self, requests: Sequence[SampleRequest]) -> list[str]:
        texts = list[Detokenizer]()
        for _, texts in self._generate(requests):  # noqa: B007 - the last is what counts
            pass
        return [text.text for text in texts]

    @torch.inference_mode()
    def stream(self, request: SampleRequest) -> Generator[str, None, None]:
        for (piece,), _ in self._generate([request]):
            if piece:
                yield piece

    def _generate(
        self, requests: Sequence[SampleRequest]
    ) -> Iterator[tuple[list[str], list[Detokenizer]]]:
        """Yield after each step the piece it adds to each text, and the texts so far."""
        if not requests:
            return
        # Requests that differ in their seed alone have the same prompt, which is encoded once.
        prompts: list[list[int]] = []
        for alike, group in groupby(requests, key=unseeded):
            prompts += repeat(self._prompt_tokens(alike), len(list(group)))
        settings, longest = [self._decoding(r) for r in requests], self.config.context_length
        texts = [
            Detokenizer(
                self.vocabulary,
                prompt,
                max_tokens=min(decoding.max_new_tokens, longest - len(prompt)),
                stop=STOP.of(request) or self.config.stop,
            )
            for request, prompt, decoding in zip(requests, prompts, settings, strict=True)
        ]
        generators, num_tokens = [r.generator() for r in requests], self.network.num_tokens
        token_sampler = TokenSampler(settings, prompts, generators, num_tokens=num_tokens)
        steps = continuations(self.network, prompts, token_sampler, context_length=longest)
        with self.network.packed_for_sampling(len(requests)):
            for tokens in steps:
                yield [t.append(token) for t, token in zip(texts, tokens, strict=True)], texts
                if all(text.ended for text in texts):
                    return

    @torch.no_grad()
    def log_likelihood(self, data: TextData) -> tuple[Tensor, Tensor]:
        documents = list(self.vocabulary.documents(data))
        return log_likelihood(self.network, documents, context_length=self.config.context_length)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over targets (N,) that are not masked, from logits (N, V), in fp32."""
    is_cpu = logits.device.type == "cpu"
    num = max(1, LOGITS_AT_ONCE // logits.shape[1]) if is_cpu else len(targets)
    sums = [
        functional.cross_entropy(rows.float(), ids, ignore_index=IGNORED, reduction="sum")
        for rows, ids in zip(torch.split(logits, num), torch.split(targets, num), strict=True)
    ]
    return torch.stack(sums).sum() / (targets != IGNORED).sum()


def _require_no_adapters(config: GptConfig) -> None:
    if config.lora:
        raise ModelError(
            "model.lora needs a pretrained network and this one is from scratch; name one in "
            "model.pretrained, start from a version of one (training.init_from), or leave "
            "model.lora out"
        )


def _warn_of_ignored(config: GptConfig) -> None:
    ignored = ("tokenizer", "vocab_size", "num_layers", "num_heads", "width", "dropout")
    changed = config.model_dump(exclude_defaults=True)
    if given := [f"model.{name}" for name in ignored if name in changed]:
        message = f"{', '.join(given)}: ignored, because model.pretrained has its own"
        warnings.warn(message, stacklevel=4)
