"""GPTs that go on from a GGUF file, written here by the gguf package."""

import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file

from aigc_ops.core.atomic_dirs import write_folder
from aigc_ops.core.errors import ModelError
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.storage.checkpoints import load_model, write_model
from tests.models.dialogue import DIALOGUE, requests_of_unlike_lengths, train
from tests.models.test_exchange import CHATML
from tests.models.test_pretrained import save_pretrained

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Hugging Face folder with a chat template, whose vocabulary has a token for each row."""
    source = save_pretrained(tmp_path / "hf", llama=True, vocab_size=290)
    settings = {"chat_template": CHATML, "bos_token": "<|start|>", "eos_token": "<|end|>"}
    (source / "tokenizer_config.json").write_text(json.dumps(settings))
    return source


@pytest.fixture
def gguf(folder: Path, tmp_path: Path) -> Path:
    """The same network, tokenizer and template in one file, in fp32."""
    config = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())["model"]
    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(tokenizer["vocab"], key=tokenizer["vocab"].get))
    writer.add_token_types([3 if place < 3 else 1 for place in range(config["vocab_size"])])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_chat_template(CHATML)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for name, weight in load_file(folder / "model.safetensors").items():
        for theirs, there in NAMES.items():
            name = name.replace(theirs, there)
        if num := heads.get(name.split(".")[-2]):  # the two halves of a head are interleaved there
            weight = weight.unflatten(0, (num, 2, -1)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "model.gguf"


def opened(source: Path, **settings: object) -> Gpt:
    config = GptConfig(pretrained=str(source), context_length=64, temperature=0, **settings)
    return Gpt.from_data(config, DIALOGUE).eval()


def test_a_gguf_file_is_the_model_of_the_folder_it_was_made_of(folder: Path, gguf: Path) -> None:
    left, right = opened(folder), opened(gguf)
    assert not getattr(right.network.model, "is_quantized", False)
    assert "quantization_config" not in right.network.record()
    ours, theirs = left.vocabulary.record(), right.vocabulary.record()
    assert {name: ours[name] for name in ("start", "turn", "end", "template")} == {
        name: theirs[name] for name in ("start", "turn", "end", "template")
    }
    assert left.vocabulary.prompt_tokens("Who? 你") == right.vocabulary.prompt_tokens("Who? 你")
    expected, found = (model.log_likelihood(DIALOGUE)[0] for model in (left, right))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert right.sample(requests_of_unlike_lengths()) == left.sample(requests_of_unlike_lengths())


def test_a_gguf_model_is_trained_stored_and_exported(gguf: Path, tmp_path: Path) -> None:
    model = opened(gguf, lora={"rank": 2})
    before = model.log_likelihood(DIALOGUE)[0].sum()
    train(model, DIALOGUE, steps=20)
    assert model.log_likelihood(DIALOGUE)[0].sum() > before
    gguf.unlink()
    released = model.for_registry()
    write_folder(tmp_path / "stored", lambda folder: write_model(released, folder))
    stored = load_model(tmp_path / "stored")
    stored.export(tmp_path / "exported")
    exported = opened(tmp_path / "exported")
    assert isinstance(stored, Gpt)
    assert exported.sample(requests_of_unlike_lengths()) == stored.sample(
        requests_of_unlike_lengths()
    )


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_gguf_file_cut_short_is_refused_wherever_it_was_cut(gguf: Path, share: float) -> None:
    content = gguf.read_bytes()
    gguf.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"model\.gguf: .*is it whole\? .*fetch it again"):
        opened(gguf)
