"""Export of a GPT as a Hugging Face folder, which transformers loads with equal logits."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aigc_ops.models.language.pretrained import Pretrained
from aigc_ops.models.language.tokenizer import Vocabulary
from aigc_ops.models.language.transformer import Transformer

_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'user' %}{{ TURN }}"
    "{% elif message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}"
    "{% endfor %}"
)
"""The default format of `Vocabulary` as a Jinja chat template."""


def export(
    network: Transformer | Pretrained, vocabulary: Vocabulary, folder: Path, *, context_length: int
) -> None:
    """Write network (safetensors), tokenizer and chat template into a folder."""
    if isinstance(network, Pretrained):
        model = network.model
        # peft would save the adapters alone; a copy is merged, so that the model stays trainable.
        if hasattr(model, "merge_and_unload"):
            model = deepcopy(model).merge_and_unload()
    else:
        model = _neox(network, vocabulary, context_length)
    model.save_pretrained(folder)
    _tokenizer(vocabulary, context_length).save_pretrained(folder)


def _tokenizer(vocabulary: Vocabulary, context_length: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    untyped: Any = PreTrainedTokenizerFast
    special_tokens = {
        "bos_token": vocabulary.tokenizer.id_to_token(vocabulary.start),
        "eos_token": vocabulary.tokenizer.id_to_token(vocabulary.end),
    }
    exported = untyped(
        tokenizer_object=vocabulary.tokenizer, model_max_length=context_length, **special_tokens
    )
    # A model of plain documents gets no template: it has not seen conversations.
    if vocabulary.template:
        exported.chat_template = vocabulary.template.source
    elif vocabulary.turn:
        # The text, not a token's spelling, which byte-level vocabularies write as "\u010a". As an
        # expression: Jinja would drop a new line that follows a tag.
        turn = vocabulary.tokenizer.decode(vocabulary.turn, skip_special_tokens=False)
        exported.chat_template = _TEMPLATE.replace("TURN", json.dumps(turn, ensure_ascii=False))
    return exported


def _neox(network: Transformer, vocabulary: Vocabulary, context_length: int) -> Any:
    """Convert the network to GPT-NeoX (Black et al. 2022), without parallel residuals."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    # 1. Configure GPT-NeoX as our architecture: rotary positions over whole heads, sequential
    # residuals, tied embedding.
    width = network.embedding.embedding_dim
    blocks: Any = list(network.blocks)
    untyped: Any = GPTNeoXForCausalLM
    model = untyped(
        GPTNeoXConfig(
            vocab_size=network.num_tokens,
            hidden_size=width,
            num_hidden_layers=len(blocks),
            num_attention_heads=blocks[0].num_heads,
            intermediate_size=4 * width,
            max_position_embeddings=context_length,
            hidden_act="gelu",
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 1.0,
            },
            use_parallel_residual=False,
            tie_word_embeddings=True,
            layer_norm_eps=network.norm.eps,
            bos_token_id=vocabulary.start,
            eos_token_id=vocabulary.end,
        )
    )
    # 2. Our names of a block's layers, and GPT-NeoX's.
    names = {
        "attention_norm": "input_layernorm",
        "network_norm": "post_attention_layernorm",
        "query_key_value": "attention.query_key_value",
        "project": "attention.dense",
        "widen": "mlp.dense_h_to_4h",
        "narrow": "mlp.dense_4h_to_h",
    }
    state: dict[str, Tensor] = {
        "gpt_neox.embed_in.weight": network.embedding.weight,
        "lm_head.weight": network.embedding.weight,
        "gpt_neox.final_layer_norm.weight": network.norm.weight,
        "gpt_neox.final_layer_norm.bias": network.norm.bias,
    }
    for layer, block in enumerate(blocks):
        for name, exported_name in names.items():
            for kind in ("weight", "bias"):
                rows = getattr(getattr(block, name), kind)
                # 3. Our rows are (query | key | value) x head; GPT-NeoX has head x (q, k, v).
                if name == "query_key_value":
                    rows = rows.unflatten(0, (3, block.num_heads, -1)).transpose(0, 1).flatten(0, 2)
                state[f"gpt_neox.layers.{layer}.{exported_name}.{kind}"] = rows
    with torch.no_grad():
        model.load_state_dict(state)
    return model.eval()
