"""Pretrained causal language models of transformers, which is imported only for them."""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor, nn

from aigc_ops.errors import ModelError
from aigc_ops.generative import TextData
from aigc_ops.models._tokens import Vocabulary


class Pretrained(nn.Module):
    """A causal language model of transformers, called like `Transformer`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Network and weights of a local Hugging Face folder; no code of the folder runs."""
        from transformers import AutoModelForCausalLM

        untyped: Any = AutoModelForCausalLM
        try:
            model, report = untyped.from_pretrained(
                folder,
                output_loading_info=True,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="sdpa",
            )
        except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
            raise ModelError(f"model.pretrained: {folder}: cannot be loaded ({error})") from error
        if missing := sorted(report["missing_keys"]):
            raise ModelError(
                f"model.pretrained: {folder}: lacks {len(missing)} of the network's weights, "
                f"{missing[0]} first; give the folder of a whole causal language model"
            )
        if "position_ids" not in inspect.signature(model.forward).parameters:
            raise ModelError(
                f"model.pretrained: {folder}: networks of type {model.config.model_type!r} take "
                "no position_ids, which packed texts need; take a model of another type"
            )
        return cls(model)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """An untrained network of the shape that `record()` gave."""
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(**record)
        untyped: Any = AutoModelForCausalLM
        return cls(
            untyped.from_config(
                config,
                trust_remote_code=False,
                dtype=torch.float32,
                attn_implementation="sdpa",
            )
        )

    def record(self) -> dict[str, Any]:
        """The network's Hugging Face config, without the folder it came from."""
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
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=int(last_only),
        )
        logits: Tensor = output.logits
        return logits

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache()


def load_pretrained(
    folder: Path, data: TextData, *, context_length: int
) -> tuple[Pretrained, Vocabulary]:
    """Network and vocabulary of a local Hugging Face folder, framed for the data.

    Raises ModelError when the folder does not hold safetensors, a tokenizer and a network
    that fit together and the context length.
    """
    _check_folder(folder)
    network = Pretrained.from_folder(folder)
    record = network.record()
    vocabulary = _vocabulary(folder, record, data)
    _check_fit(record, vocabulary, context_length)
    return network, vocabulary


def _check_folder(folder: Path) -> None:
    """Raise ModelError unless the folder looks like a model of safetensors and tokenizer."""
    if not folder.is_dir():
        raise ModelError(
            f"model.pretrained: {folder} is not a folder; give a local Hugging Face folder"
        )
    for name in ("config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ModelError(
                f"model.pretrained: {folder} has no {name}; save model and tokenizer there with "
                "transformers' save_pretrained"
            )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"model.pretrained: {folder} has no *.safetensors; pickled weights (.bin) can run "
            "code when loaded and are refused, so save them again with save_pretrained"
        )


def _vocabulary(folder: Path, record: Mapping[str, Any], data: TextData) -> Vocabulary:
    """The folder's tokenizer; texts start as it says, prompts end with a new line."""
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises no narrower class
        raise ModelError(
            f"model.pretrained: {folder}/tokenizer.json: cannot be read ({error})"
        ) from error
    end = record.get("eos_token_id")
    end = end[0] if isinstance(end, list) else end
    if end is None:
        raise ModelError(f"model.pretrained: {folder}/config.json has no eos_token_id; set it")
    start = record.get("bos_token_id")
    turn = tokenizer.encode("\n", add_special_tokens=False).ids if data.prompts is not None else []
    return Vocabulary(tokenizer, start=end if start is None else start, turn=turn, end=end)


def _check_fit(record: Mapping[str, Any], vocabulary: Vocabulary, context_length: int) -> None:
    """Raise ModelError unless network, tokenizer and context length belong together."""
    if vocabulary.size > record["vocab_size"]:
        raise ModelError(
            f"model.pretrained: the tokenizer has {vocabulary.size} tokens, the network "
            f"{record['vocab_size']}; they are of different models"
        )
    longest = record.get("max_position_embeddings") or record.get("n_positions")
    if longest is not None and context_length > longest:
        raise ModelError(
            f"model.context_length is {context_length}, the pretrained network knows "
            f"{longest} positions; give at most {longest}"
        )
