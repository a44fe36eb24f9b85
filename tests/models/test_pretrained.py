"""GPT models that go on from a local Hugging Face folder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aigc_ops.core.atomic_dirs import write_folder
from aigc_ops.core.errors import ModelError
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.models.language.tokenizer import Vocabulary
from aigc_ops.storage.checkpoints import load_model, write_model
from tests.conftest import noise_for
from tests.models.dialogue import (
    DIALOGUE,
    next_log_probabilities,
    requests_of_unlike_lengths,
    small_model,
    train,
)


def save_pretrained(folder: Path, *, llama: bool = False, **settings: object) -> Path:
    """A Hugging Face folder: a tiny random network and a tokenizer of the dialogue."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    vocabulary = Vocabulary.learn(DIALOGUE, 290)
    ids = {"bos_token_id": vocabulary.start, "eos_token_id": vocabulary.end}
    torch.manual_seed(0)
    if llama:
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
        config = {"vocab_size": 320, **shape, **heads, **ids, **settings}
        model = LlamaForCausalLM(LlamaConfig(initializer_range=0.3, **config))
    else:
        shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
        config = {"vocab_size": 320, **shape, **ids, **settings}
        model = GPT2LMHeadModel(GPT2Config(initializer_range=0.3, **config))
    model.save_pretrained(folder)
    vocabulary.tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.mark.parametrize("llama", [False, True])
def test_a_pretrained_model_is_trained_on_and_needs_its_folder_no_more(
    tmp_path: Path, llama: bool
) -> None:
    source = save_pretrained(tmp_path / "hf", llama=llama)
    model = Gpt.from_data(GptConfig(pretrained=str(source), context_length=64), DIALOGUE)
    before = model.eval().log_likelihood(DIALOGUE)[0].sum()
    train(model, DIALOGUE, steps=20)
    after = model.log_likelihood(DIALOGUE)[0]
    assert after.sum() > before
    write_folder(tmp_path / "model", lambda folder: write_model(model, folder))
    source.rename(tmp_path / "elsewhere")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, Gpt)
    assert str(tmp_path) not in str(loaded.blueprint())
    assert torch.equal(loaded.log_likelihood(DIALOGUE)[0], after)
    requests = requests_of_unlike_lengths()
    assert loaded.sample(requests) == model.sample(requests)


@pytest.mark.parametrize("llama", [False, True])
def test_a_pretrained_model_keeps_the_laws_of_a_new_one(tmp_path: Path, llama: bool) -> None:
    source = str(save_pretrained(tmp_path, llama=llama, **({} if llama else {"resid_pdrop": 0.0})))
    settings = {"context_length": 64, "train_on_prompts": False, "temperature": 1.0}
    model = Gpt.from_data(GptConfig(pretrained=source, **settings), DIALOGUE).eval()
    requests = requests_of_unlike_lengths()
    together = model.sample(requests)
    assert together == [model.sample([request])[0] for request in requests]
    examples = model.examples(DIALOGUE)
    ((_, loss, *_),) = model.losses(examples, noise_for(examples))
    totals, counts = model.log_likelihood(DIALOGUE)
    assert loss.item() == pytest.approx(-(totals.sum() / counts.sum()).item(), rel=1e-5)


def test_a_pretrained_model_knows_the_logits_that_transformers_computes(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = save_pretrained(tmp_path)
    model = Gpt.from_data(GptConfig(pretrained=str(source), context_length=64), DIALOGUE).eval()
    theirs = AutoModelForCausalLM.from_pretrained(source).eval()
    ids = next(model.vocabulary.documents(DIALOGUE)).ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    assert torch.allclose(next_log_probabilities(model, ids), expected, atol=1e-5)


def test_what_training_started_from_is_there_while_its_folder_is(tmp_path: Path) -> None:
    source = save_pretrained(tmp_path / "hf", llama=True)
    model = Gpt.from_data(GptConfig(pretrained=str(source), context_length=64), DIALOGUE).eval()
    before = model.log_likelihood(DIALOGUE)[0]
    train(model, DIALOGUE, steps=5)
    origin = model.origin(DIALOGUE)
    assert origin is not None
    assert torch.equal(origin.log_likelihood(DIALOGUE)[0], before)
    source.rename(tmp_path / "elsewhere")
    with pytest.warns(UserWarning, match="cannot be read: .* is not a folder"):
        assert model.origin(DIALOGUE) is None


def test_settings_that_a_pretrained_model_ignores_are_named(tmp_path: Path) -> None:
    source = str(save_pretrained(tmp_path))
    with pytest.warns(UserWarning, match=r"model\.vocab_size, model\.width: ignored"):
        Gpt.from_data(
            GptConfig(pretrained=source, width=64, vocab_size=600, context_length=64), DIALOGUE
        )


def test_a_context_longer_than_the_networks_is_refused_when_training_goes_on_too(
    tmp_path: Path,
) -> None:
    source = str(save_pretrained(tmp_path))
    model = Gpt.from_data(GptConfig(pretrained=source, context_length=64), DIALOGUE)
    longer = model.config.model_copy(update={"context_length": 65})
    with pytest.raises(ModelError, match="the pretrained network knows 64 positions"):
        Gpt.from_blueprint(longer, model.blueprint())


def test_folders_that_hold_no_fit_model_are_refused_with_the_reason(tmp_path: Path) -> None:
    def refused(message: str, folder: Path, **settings: object) -> None:
        with pytest.raises(ModelError, match=message):
            Gpt.from_data(GptConfig(pretrained=str(folder), **settings), DIALOGUE)

    refused("is not a folder", tmp_path / "none")
    refused(
        "start from it with --training.init-from models:/x@champion", Path("models:/x@champion")
    )
    refused(r"has no config\.json", tmp_path)
    refused("256, the pretrained network knows 64", save_pretrained(tmp_path / "long"))
    small = save_pretrained(tmp_path / "small", vocab_size=100, bos_token_id=1, eos_token_id=2)
    refused("the tokenizer has 290 tokens, the network 100", small, context_length=64)
    other = save_pretrained(tmp_path / "other", eos_token_id=300)
    refused(
        "the network's end token is 300; they are of different models", other, context_length=64
    )
    large = save_pretrained(tmp_path / "large", vocab_size=1400)
    refused("the tokenizer has 290 tokens, the network 1400; they are", large, context_length=64)
    named = save_pretrained(tmp_path / "named")
    (named / "tokenizer_config.json").write_text('{"eos_token": "<|answer|>"}')
    refused("has the eos_token <.answer.> as 1, .* says 2;", named, context_length=64)
    pickled = save_pretrained(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (pickled / "tokenizer.json").unlink()
    refused("pickled weights", pickled, context_length=64)
    cut = save_pretrained(tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:1000])
    refused("cannot be loaded", cut, context_length=64)
    partial = save_pretrained(tmp_path / "partial")
    weights = load_file(partial / "model.safetensors")
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, partial / "model.safetensors", metadata={"format": "pt"})
    refused(
        r"1 weights of the network are missing, such as transformer\.h\.1\.mlp\.c_fc\.weight",
        partial,
        context_length=64,
    )
    garbled = save_pretrained(tmp_path / "garbled")
    (garbled / "tokenizer.json").write_text("{}")
    refused(r"tokenizer\.json: cannot be read", garbled, context_length=64)


def test_a_network_inside_another_is_told_by_its_own_shape(tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    vocabulary = Vocabulary.learn(DIALOGUE, 290)
    ids = {"bos_token_id": vocabulary.start, "eos_token_id": vocabulary.end}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text = {"vocab_size": 320, "max_position_embeddings": 64, **layers, **heads, **ids}
    vision = {**layers, "num_attention_heads": 1, "image_size": 28, "patch_size": 14}
    Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=vision)
    ).save_pretrained(tmp_path)
    vocabulary.tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = Gpt.from_data(GptConfig(pretrained=str(tmp_path), context_length=64), DIALOGUE)
    assert model.network.num_tokens == 320
    with pytest.raises(ModelError, match="is 65, the pretrained network knows 64 positions"):
        Gpt.from_data(GptConfig(pretrained=str(tmp_path), context_length=65), DIALOGUE)


def test_weights_of_two_names_are_stored_once(tmp_path: Path) -> None:
    tied = Gpt.from_data(
        GptConfig(pretrained=str(save_pretrained(tmp_path / "hf")), context_length=64), DIALOGUE
    )
    own = small_model()
    for model, name in ((tied, "tied"), (own, "own")):
        write_folder(tmp_path / name, lambda folder, model=model: write_model(model, folder))
        stored = load_file(tmp_path / name / "model.safetensors")
        assert sum(each.numel() for each in stored.values()) == sum(
            each.numel() for each in model.parameters()
        )
    names = set(load_file(tmp_path / "tied" / "model.safetensors"))
    assert (
        len(names & {"network.model.lm_head.weight", "network.model.transformer.wte.weight"}) == 1
    )
