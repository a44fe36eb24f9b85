"""LoRA adapters: what they train, what is left alone, what is registered."""

import copy
from pathlib import Path

import pytest
import torch

from aigc_ops.core.atomic_dirs import write_folder
from aigc_ops.core.errors import ModelError
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.models.language.lora import FrozenLinear, LoraConfig
from aigc_ops.storage.checkpoints import load_model, write_model
from tests.models.dialogue import (
    DIALOGUE,
    next_log_probabilities,
    requests_of_unlike_lengths,
    small_model,
    train,
)
from tests.models.test_pretrained import save_pretrained


def adapted(source: Path, **settings: object) -> Gpt:
    config = {"rank": 4, "alpha": 64.0, **settings}
    torch.manual_seed(0)
    return Gpt.from_data(
        GptConfig(pretrained=str(source), context_length=64, temperature=0, lora=config), DIALOGUE
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return save_pretrained(tmp_path / "hf", llama=True)


def test_only_adapters_are_trained_and_they_learn(source: Path) -> None:
    model = adapted(source)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    before = model.eval().log_likelihood(DIALOGUE)[0].sum()
    train(model, DIALOGUE, steps=30)
    assert model.log_likelihood(DIALOGUE)[0].sum() > before
    after = dict(model.named_parameters())
    assert frozen
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    stepped = sum(p.numel() for g in model.optimizer("network").param_groups for p in g["params"])
    assert stepped == sum(p.numel() for n, p in after.items() if ".lora_" in n)


def test_an_untrained_adapter_changes_nothing(source: Path) -> None:
    plain = Gpt.from_data(GptConfig(pretrained=str(source), context_length=64), DIALOGUE).eval()
    assert torch.equal(
        adapted(source).eval().log_likelihood(DIALOGUE)[0], plain.log_likelihood(DIALOGUE)[0]
    )


@pytest.mark.parametrize("merge", [True, False])
def test_what_is_registered_speaks_as_what_was_trained(
    source: Path, tmp_path: Path, merge: bool
) -> None:
    model = adapted(source, merge=merge)
    train(model, DIALOGUE, steps=20)
    likelihood = model.log_likelihood(DIALOGUE)[0]
    texts = model.sample(requests_of_unlike_lengths())
    write_folder(tmp_path / "trained", lambda folder: write_model(model, folder))
    released = load_model(tmp_path / "trained").for_registry()
    write_folder(tmp_path / "released", lambda folder: write_model(released, folder))
    loaded = load_model(tmp_path / "released")
    assert isinstance(loaded, Gpt)
    assert any(".lora_" in name for name in loaded.state_dict()) is not merge
    assert torch.allclose(loaded.log_likelihood(DIALOGUE)[0], likelihood, atol=1e-3)
    assert loaded.sample(requests_of_unlike_lengths()) == texts


def test_adapters_are_exported_in_the_weights_and_stay_in_the_model(
    source: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model = adapted(source, merge=False)
    train(model, DIALOGUE, steps=5)
    model.export(tmp_path / "exported")
    assert any(".lora_" in name for name in model.state_dict())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    ids = next(model.vocabulary.documents(DIALOGUE)).ids
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    assert torch.allclose(next_log_probabilities(model, ids), expected, atol=1e-4)


def test_new_adapters_go_on_from_a_model_without(source: Path, tmp_path: Path) -> None:
    whole = Gpt.from_data(GptConfig(pretrained=str(source), context_length=64), DIALOGUE)
    train(whole, DIALOGUE, steps=5)
    write_folder(tmp_path / "whole", lambda folder: write_model(whole, folder))
    config = GptConfig(context_length=64, lora={"rank": 2})
    model = load_model(tmp_path / "whole", config=config)
    assert isinstance(model, Gpt)
    assert torch.equal(model.log_likelihood(DIALOGUE)[0], whole.log_likelihood(DIALOGUE)[0])
    assert {n.rsplit(".", 3)[1] for n, p in model.named_parameters() if p.requires_grad} == {
        "lora_A",
        "lora_B",
    }


def test_an_unknown_target_is_answered_with_those_there_are(source: Path) -> None:
    with pytest.raises(ModelError, match=r"no layer 'query'; choose among .*o_proj, q_proj"):
        adapted(source, targets=["query"])


def test_adapters_need_a_pretrained_network() -> None:
    with pytest.raises(ModelError, match=r"name one in model\.pretrained, start from"):
        Gpt.from_data(GptConfig(lora={}), DIALOGUE)
    scratch = small_model()
    config = scratch.config.model_copy(update={"lora": LoraConfig()})
    with pytest.raises(ModelError, match=r"is from scratch; .* or leave model\.lora out"):
        Gpt.from_blueprint(config, scratch.blueprint())


@pytest.mark.parametrize("bias", [True, False])
def test_a_frozen_layer_multiplies_as_any_other_and_passes_the_gradient_on(bias: bool) -> None:
    layer = FrozenLinear(24, 40, bias=bias).requires_grad_(False)
    usual = torch.nn.Linear(24, 40, bias=bias)
    usual.load_state_dict(layer.state_dict())
    for rows in (6, 1, 30):  # it is laid out for the first
        inputs = torch.randn(rows, 24, requires_grad=True)
        found = []
        for each in (layer, usual, copy.deepcopy(layer)):
            with torch.autocast("cpu", torch.bfloat16):
                outputs = each(inputs)
            (gradient,) = torch.autograd.grad(outputs.float().square().sum(), inputs)
            found.append((outputs.float(), gradient))
        for one in found[1:]:
            torch.testing.assert_close(one, found[0], rtol=0.02, atol=0.02)
    layer.weight.mul_(2)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).float().norm() > 1.5 * usual(inputs).float().norm()
