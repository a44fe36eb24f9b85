"""Pretrained causal language models by transformers, which is imported only when needed."""

import inspect
import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from aigc_ops.core.atomic_dirs import MODEL_JSON
from aigc_ops.core.errors import ModelError
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.language.chat_templates import ChatTemplate
from aigc_ops.models.language.lora import LoraConfig, add_adapters, load_without_adapters
from aigc_ops.models.language.packed_linear import can_pack, pack_weight, packed_linear
from aigc_ops.models.language.tokenizer import Vocabulary
from aigc_ops.models.language.transformer import attention_in_fp32

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_PINNED = re.compile(rf"({_HUB_NAME.pattern})@([0-9a-f]{{40}})")
_ATTENTION = "sdpa_in_fp32_on_cpus"
# No *.bin and no *.py: neither pickles nor code are downloaded.
_HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja"]
# Many models pad their embedding to a round number of rows. A larger gap between the network's
# and the tokenizer's numbers of tokens means that the two are of different models.
MAX_PADDING_TOKENS = 1024
# Exceptions by which transformers, safetensors and gguf report a damaged or unknown file.
_UNREADABLE = (
    OSError, ValueError, ImportError, RuntimeError, LookupError, SafetensorError, struct.error
)  # fmt: skip


class Pretrained(nn.Module):
    """A causal language model of transformers, called like `Transformer`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def shape(self) -> dict[str, Any]:
        """The text network's config, which multi-modal models nest in another."""
        shape: dict[str, Any] = self.model.config.get_text_config().to_dict()
        return shape

    @property
    def num_tokens(self) -> int:
        """Number of logits, which may exceed the tokenizer's vocabulary."""
        size: int = self.shape["vocab_size"]
        return size

    def prepare(self, lora: LoraConfig | None, *, recompute: bool) -> None:
        """Add LoRA adapters and enable activation checkpointing, as far as configured."""
        if recompute:
            # Reentrant checkpointing needs an input that requires a gradient, and with frozen
            # embeddings (LoRA) there is none.
            options = {"use_reentrant": False}
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
        if lora:
            self.model = add_adapters(self.model, lora)
            self.register_load_state_dict_pre_hook(load_without_adapters)  # type: ignore[no-untyped-call]

    def merged(self) -> "Pretrained":
        """Return the network with its adapters merged; this object must not be used again."""
        return Pretrained(self.model.merge_and_unload())

    @classmethod
    def from_folder(cls, folder: Path, gguf: str | None = None) -> Self:
        """Load a local Hugging Face folder; no code from the folder is run.

        Raises ModelError when weights are missing or unreadable, or when the network takes no
        position ids.
        """
        from transformers import AutoModelForCausalLM, GgufConfig

        # Any, because mypy strict refuses calls of transformers' untyped functions.
        untyped: Any = AutoModelForCausalLM
        source = folder / gguf if gguf else folder
        kind: dict[str, Any] = {"use_safetensors": True}
        if gguf:
            # Otherwise transformers leaves the weights in their blocks where it has a kernel for
            # them, and they could not be trained.
            kind = {"gguf_file": gguf, "quantization_config": GgufConfig(dequantize=True)}
        try:
            model, report = untyped.from_pretrained(
                folder,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation=_attention(),
                **kind,
            )
        except _UNREADABLE as error:
            hint = f"; is it whole? it has {source.stat().st_size:,} bytes" if gguf else ""
            raise ModelError(
                f"model.pretrained: {source}: cannot be loaded ({error}){hint}; fetch it again"
            ) from error
        # transformers only warns of missing weights and leaves them random.
        if missing := sorted(report["missing_keys"]):
            raise ModelError(
                f"model.pretrained: {source}: {len(missing)} weights of the network are missing, "
                f"such as {missing[0]}; give the folder of a complete causal language model"
            )
        if "position_ids" not in inspect.signature(model.forward).parameters:
            raise ModelError(
                f"model.pretrained: {source}: networks of type {model.config.model_type!r} take "
                "no position_ids, which packed texts need; choose a model of another type"
            )
        return cls(model)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return an untrained network from the config that `record()` returned."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(**record)
        untyped: Any = AutoModelForCausalLM
        return cls(
            untyped.from_config(
                config,
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation=_attention(),
            )
        )

    def record(self) -> dict[str, Any]:
        """Return the network's Hugging Face config, without the path it was loaded from."""
        config: dict[str, Any] = json.loads(self.model.config.to_json_string(use_diff=False))
        return {name: value for name, value in config.items() if name != "_name_or_path"}

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: Any = None,
        last_only: bool = False,
    ) -> Tensor:
        output = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            cache=cache,
            use_cache=cache is not None,
            logits_to_keep=int(last_only),
        )
        logits: Tensor = output.logits
        return logits

    @contextmanager
    def packed_for_sampling(self, num_rows: int) -> Iterator[None]:
        """Use weights packed for a few rows at a time, on the CPU, until the block ends."""
        # This halves the time of a step of SmolLM2-135M with 8 rows. `forward` is shadowed on the
        # instances, so that parameters and state dict stay as they are.
        linears = [m for m in self.modules() if isinstance(m, nn.Linear) and can_pack(m.weight)]
        for module in linears:
            module.forward = partial(  # type: ignore[method-assign]
                packed_linear, weight=pack_weight(module.weight, num_rows), bias=module.bias
            )
        try:
            yield
        finally:
            # Also when the caller closes a stream half-way: training must not use stale weights.
            for module in linears:
                module.__dict__.pop("forward", None)

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache()


def _attention() -> str:
    """Register transformers' own attention, in fp32 on the CPU; return its name."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **settings: Any
    ) -> tuple[Tensor, None]:
        dtype = query.dtype
        with attention_in_fp32(query):
            if query.device.type == "cpu":
                query, key, value = query.float(), key.float(), value.float()
            mixed, _ = sdpa_attention_forward(module, query, key, value, *rest, **settings)
        return mixed.to(dtype), None

    AttentionInterface.register(_ATTENTION, attend)
    AttentionMaskInterface.register(_ATTENTION, sdpa_mask)
    return _ATTENTION


def load_pretrained(source: str, data: TextData) -> tuple[Pretrained, Vocabulary]:
    """Load network and vocabulary from a folder, a GGUF file or a pinned hub model.

    `data` decides whether the vocabulary separates prompts from texts. Raises ModelError when
    weights, tokenizer or config are missing, unreadable or do not belong together.
    """
    folder, gguf = Path(source), None
    if folder.suffix == ".gguf":
        if not folder.is_file():
            raise ModelError(f"model.pretrained: {folder} does not exist; give a GGUF file")
        folder, gguf = folder.parent, folder.name
    # An existing folder goes first, since OWNER/NAME is a valid relative path too.
    elif not folder.exists() and _HUB_NAME.match(source) and "@" in source:
        folder = _from_hub(source)
    if gguf is None:
        _check_folder(folder)
    network = Pretrained.from_folder(folder, gguf)
    return network, _vocabulary(folder, gguf, network.shape, data)


def _from_hub(source: str) -> Path:
    """Return the local copy of OWNER/NAME@COMMIT, downloaded if missing; no code, no pickle."""
    from huggingface_hub import snapshot_download

    pinned = _PINNED.fullmatch(source)
    if not pinned:
        raise ModelError(
            f"model.pretrained: {source!r} is not pinned; give OWNER/NAME@COMMIT with the 40 hex "
            "digits of a commit, because a branch or tag can change"
        )
    name, commit = pinned.groups()
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=_HUB_FILES))
    # Exceptions of huggingface_hub, its HTTP client and the system; they share no base class.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"model.pretrained: {source} cannot be fetched from the hub ({reason}); without a "
            "network connection, copy its folder to this machine and give the folder's path"
        ) from error


def _check_folder(folder: Path) -> None:
    """Raise ModelError unless the folder holds config, tokenizer and safetensors."""
    if str(folder).startswith("models:/") or (folder / MODEL_JSON).is_file():
        raise ModelError(
            f"model.pretrained: {folder} is a model of aigc-ops; start from it with "
            f"--training.init-from {folder} instead"
        )
    if not folder.is_dir():
        raise ModelError(
            f"model.pretrained: {folder} is not a folder; give a local Hugging Face folder, a "
            ".gguf file, or OWNER/NAME@COMMIT of the hub"
        )
    if any(folder.glob("*.bin")) and not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model.pretrained: {folder} has no *.safetensors; pickled weights (.bin) can run "
            "code when loaded and are refused, so save them again with save_pretrained"
        )
    for name in ("config.json", "tokenizer.json", "*.safetensors"):
        if not any(folder.glob(name)):
            raise ModelError(
                f"model.pretrained: {folder} has no {name}; save model and tokenizer there with "
                "transformers' save_pretrained"
            )


def _vocabulary(
    folder: Path, gguf: str | None, record: Mapping[str, Any], data: TextData
) -> Vocabulary:
    """Return the model's tokenizer with its special tokens and chat template.

    Without a template a new line separates prompt and text; data without prompts needs neither.
    """
    tokenizer, settings = _gguf_tokenizer(folder, gguf, record) if gguf else _tokenizer(folder)
    end = record.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    if end is None:
        raise ModelError(f"model.pretrained: {folder}/config.json has no eos_token_id; set it")
    _check_special_tokens(tokenizer, settings, record)
    # A model without a start token has met its end token before each document.
    start = record.get("bos_token_id")
    start = end if start is None else start
    vocabulary = Vocabulary(tokenizer, start=start, turn=[], end=end)
    if data.prompts is not None:
        vocabulary.use_turn_token()
    if source := settings.get("chat_template"):
        bos_token, eos_token = settings.get("bos_token", ""), settings.get("eos_token", "")
        vocabulary.use_chat_template(ChatTemplate(source, bos_token, eos_token))
    return vocabulary


def _tokenizer(folder: Path) -> tuple[Tokenizer, dict[str, str]]:
    """Return a folder's tokenizer, and its template and special tokens if it has them."""
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises Exception itself, no narrower class
        raise ModelError(
            f"model.pretrained: {folder}/tokenizer.json: cannot be read ({error})"
        ) from error
    path = folder / "tokenizer_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise ModelError(f"model.pretrained: {path}: cannot be read ({error})") from error
    special = {}
    for name in ("chat_template", "bos_token", "eos_token"):
        value = settings.get(name) or ""
        if isinstance(value, list):  # several chat templates by name
            value = {each["name"]: each["template"] for each in value}.get("default", "")
        special[name] = value["content"] if isinstance(value, dict) else value
    # transformers reads this file before the setting, where both exist.
    if (folder / "chat_template.jinja").is_file():
        special["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return tokenizer, special


def _gguf_tokenizer(
    folder: Path, gguf: str, record: Mapping[str, Any]
) -> tuple[Tokenizer, dict[str, str]]:
    from transformers import AutoTokenizer

    untyped: Any = AutoTokenizer
    try:
        whole = untyped.from_pretrained(folder, gguf_file=gguf, local_files_only=True)
    except _UNREADABLE as error:
        raise ModelError(
            f"model.pretrained: {folder / gguf}: its tokenizer cannot be read ({error})"
        ) from error
    # Read by id instead of `.bos_token` and `.eos_token`, where transformers 5.16 gives the first
    # for both.
    special_tokens = {
        name: whole.convert_ids_to_tokens(token)
        for name in ("bos_token", "eos_token")
        if isinstance(token := record.get(f"{name}_id"), int)
    }
    # transformers 5.24 adds its own default for a missing special token, which the network lacks.
    tokenizer = json.loads(whole.backend_tokenizer.to_str())
    num_tokens = record["vocab_size"]
    added = [token for token in tokenizer["added_tokens"] if token["id"] < num_tokens]
    exact = Tokenizer.from_str(json.dumps(tokenizer | {"added_tokens": added}))
    return exact, {"chat_template": whole.chat_template or "", **special_tokens}


def check_fit(network: Pretrained, vocabulary: Vocabulary, context_length: int) -> None:
    """Raise ModelError unless network, tokenizer and context length belong together."""
    shape, last = network.shape, max(vocabulary.tokenizer.get_vocab().values())
    problem = ""
    if last >= network.num_tokens:
        problem = f"has {vocabulary.size} tokens, the network {network.num_tokens}"
    for name in ("start", "end"):
        if (token := getattr(vocabulary, name)) > last:
            problem = f"has {vocabulary.size} tokens, the network's {name} token is {token}"
    if problem:
        raise _mismatch(problem)
    longest = shape.get("max_position_embeddings") or shape.get("n_positions")
    if longest is not None and context_length > longest:
        raise ModelError(
            f"model.context_length is {context_length}, the pretrained network knows "
            f"{longest} positions; give at most {longest}"
        )


def _check_special_tokens(
    tokenizer: Tokenizer, settings: Mapping[str, str], shape: Mapping[str, Any]
) -> None:
    """Raise ModelError when the tokenizer's size or special tokens differ from the network's."""
    size, known = tokenizer.get_vocab_size(), shape["vocab_size"]
    if known - size > MAX_PADDING_TOKENS:
        raise _mismatch(f"has {size} tokens, the network {known}")
    for name in ("bos_token", "eos_token"):
        ids, text = shape.get(f"{name}_id"), settings.get(name)
        token = tokenizer.token_to_id(text) if text else None
        if text and ids is not None and token not in (ids if isinstance(ids, list) else [ids]):
            raise _mismatch(
                f"has the {name} {text} as {token}, the network's config.json says {ids}"
            )


def _mismatch(problem: str) -> ModelError:
    return ModelError(
        f"model.pretrained: the tokenizer {problem}; they are of different models, so put the "
        "tokenizer.json beside the weights that it was published with"
    )
