"""One step: gradients, their scaling and clipping, rates, and batches cut into parts."""

import json
import math
from pathlib import Path

import pytest
import torch

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.core.errors import ConfigError
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.laws.runs import assert_bit_equal
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gan import Gan, GanConfig
from aigc_ops.models.gpt import Gpt, GptConfig
from aigc_ops.models.vae import Vae
from aigc_ops.training import TrainingConfig
from aigc_ops.training.batches import Batches
from aigc_ops.training.distributed import ProcessGroup
from aigc_ops.training.examples import Examples
from aigc_ops.training.state import new_state
from aigc_ops.training.step import set_learning_rates, take_step
from tests.conftest import striped_digits
from tests.training.runs import GAN, VAE, Recorder, run

CPU = torch.device("cpu")
DATA = striped_digits(24)
DIALOGUE = TextData(["a", "bb " * 9, "c" * 30, "dd", "e" * 12, "f", "g" * 25, "h"], ["who?"] * 8)


def vae():
    # Batch norm would see fewer rows in a part of a batch.
    model = Vae(VAE, DATA.shape)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.eval()
    return model, DATA


def gpt():
    config = GptConfig(
        tokenizer="bytes",
        num_layers=1,
        num_heads=2,
        width=16,
        context_length=40,
        dropout=0.0,
        train_on_prompts=False,
    )
    return Gpt.from_data(config, DIALOGUE), DIALOGUE


def stepped(make, *, num_steps, precision="fp32", scale=None, **settings):
    """State and last scalars after some steps."""
    torch.manual_seed(0)
    model, data = make()
    config = TrainingConfig(batch_size=4, **settings)
    state = new_state(model, ema_decay=0.0, device=CPU, precision=precision)
    if scale is not None:
        state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": scale})
    processes = ProcessGroup(CPU)
    batches, scalars = Batches(Examples(model, data, CPU), config, 7, processes), {}
    for _ in range(num_steps):
        micro_batches = batches.micro_batches(state.progress)
        set_learning_rates(state.optimizers, config, state.progress)
        scalars = take_step(
            state,
            micro_batches,
            processes=processes,
            precision=precision,
            max_norm=config.max_gradient_norm,
        )
        state.progress.step += 1
    return state, scalars


def weights(state):
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


@pytest.mark.parametrize("make", [vae, gpt])
def test_a_batch_in_parts_has_the_gradients_of_the_whole_one(make):
    """Also where the parts hold different numbers of tokens, which count equally."""
    whole, expected = stepped(make, num_steps=1)
    parts, found = stepped(make, num_steps=1, micro_batches=4)
    for name in expected:
        if name != "active_units":  # a variance over the rows at hand
            assert found[name] == pytest.approx(expected[name].item(), rel=1e-4), name
    pairs = zip(whole.model.parameters(), parts.model.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-3, atol=1e-5)


def test_gradients_are_clipped_and_the_curve_tells_their_norm_before():
    free, before = stepped(vae, num_steps=1)
    norm = torch.nn.utils.get_total_norm([p.grad for p in free.model.parameters()])
    assert before["gradient_norm/autoencoder"] == pytest.approx(norm.item())
    assert norm > 0.5
    clipped, told = stepped(vae, num_steps=1, max_gradient_norm=0.5)
    after = torch.nn.utils.get_total_norm([p.grad for p in clipped.model.parameters()])
    assert after == pytest.approx(0.5, rel=1e-4)
    assert told["gradient_norm/autoencoder"] == pytest.approx(norm.item())
    large, _ = stepped(vae, num_steps=1, max_gradient_norm=2 * norm.item())
    untouched = torch.nn.utils.get_total_norm([p.grad for p in large.model.parameters()])
    assert untouched == pytest.approx(norm.item())


def test_fp16_scales_the_losses_and_learns_as_fp32_does():
    plain, expected = stepped(vae, num_steps=5)
    scaled, found = stepped(vae, num_steps=5, precision="fp16", scale=1024.0)
    assert not plain.scaler.is_enabled()
    assert scaled.scaler.get_scale() == 1024.0
    for name in ("loss/autoencoder", "gradient_norm/autoencoder"):
        assert found[name] == pytest.approx(expected[name].item(), rel=0.02), name


def test_a_step_whose_scaled_gradients_overflow_is_skipped_and_the_scale_halved():
    first, _ = stepped(vae, num_steps=0, precision="fp16")
    skipped, told = stepped(vae, num_steps=1, precision="fp16", scale=2.0**120)
    assert not math.isfinite(told["gradient_norm/autoencoder"])
    assert math.isfinite(told["loss/autoencoder"])
    before, after = weights(first), weights(skipped)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert skipped.scaler.get_scale() == 2.0**119
    taken, _ = stepped(vae, num_steps=1, precision="fp16", scale=1024.0)
    assert any(not torch.equal(before[name], row) for name, row in weights(taken).items())


def test_the_scale_goes_on_where_a_resumed_run_had_left_it(tmp_path):
    settings = {"precision": "fp16", "checkpoint_every": 3}
    whole = run(GAN, tmp_path / "whole", steps=5, **settings)
    run(GAN, tmp_path / "cut", steps=3, **settings)
    resumed = run(GAN, tmp_path / "cut", steps=5, **settings)
    assert_bit_equal(Path(whole.uri), Path(resumed.uri))
    scaler = json.loads((Path(resumed.uri) / "training.json").read_text())["scaler"]
    assert scaler["scale"] >= 1
    assert scaler["_growth_tracker"] > 0


def test_each_part_learns_at_its_own_rate(tmp_path):
    """Adam's first step moves each weight by its learning rate (Kingma & Ba 2015, section 2.1)."""
    rates = {"critic": 4e-4, "generator": 1e-4}
    model = GAN.model_copy(update={p: AdamConfig(learning_rate=r) for p, r in rates.items()})

    def make():
        return Gan(model, DATA.shape), DATA

    before, after = (dict(stepped(make, num_steps=n)[0].model.named_parameters()) for n in (0, 1))
    for part, rate in rates.items():
        moves = [(after[n] - before[n]).abs().max().item() for n in before if n.startswith(part)]
        assert max(moves) == pytest.approx(rate, rel=0.01), part
    tracker = Recorder()
    run(model, tmp_path, steps=1, tracker=tracker)
    [told] = [m for _, m in tracker.metrics if "learning_rate/critic" in m]
    assert {part: told[f"learning_rate/{part}"] for part in rates} == pytest.approx(rates)


def test_rates_warm_up_in_a_line_and_fall_as_a_cosine(tmp_path):
    """Closed forms: k/4 of the rate at step k up to 4, then 0.1 + 0.9 cos²(πt/2), t in [0, 1)."""
    tracker = Recorder()
    course = {"schedule": "cosine", "warmup_steps": 4, "final_learning_rate": 0.1}
    run(VAE, tmp_path, steps=12, tracker=tracker, **course)
    name = "learning_rate/autoencoder"
    told = [metrics[name] / 1e-3 for _, metrics in tracker.metrics if name in metrics]
    rising = [k / 4 for k in (1, 2, 3, 4)]
    falling = [0.1 + 0.9 * math.cos(math.pi * k / 8 / 2) ** 2 for k in range(8)]
    assert told == pytest.approx(rising + falling)
    assert told[8] == pytest.approx(0.55)  # half way down


def test_a_batch_that_cannot_be_shared_out_is_refused():
    model, data = vae()
    processes = ProcessGroup(CPU)
    processes.size = 2
    with pytest.raises(ConfigError, match="batch_size 9 cannot be split over 2 processes"):
        Batches(Examples(model, data, CPU), TrainingConfig(batch_size=9), 7, processes)


def test_averages_of_spectrally_normalised_layers_stay_bounded():
    config = GanConfig(
        network="residual", generator_width=8, critic_width=4, generator_spectral_norm=True
    )
    torch.manual_seed(0)
    model = Gan(config, ImageShape(channels=1, height=28, width=28, class_names=()))
    state = new_state(model, ema_decay=0.99, device=CPU, precision="fp32")
    layers = [m for m in model.generator.modules() if hasattr(m, "parametrizations")]
    before = {name: t.clone() for name, t in state.ema.live.items()}
    for step in range(60):  # the live weights wander, and their singular vectors with them
        with torch.no_grad():
            for layer in layers:
                original = layer.parametrizations.weight.original
                original += 0.3 * original.std() * torch.randn_like(original)
                assert layer.weight.isfinite().all()  # one power iteration, as in a step
        state.ema.update(step + 100)
    live = {name: t.clone() for name, t in state.ema.live.items()}
    assert any(not torch.equal(live[name], before[name]) for name in live)
    with state.sampling():
        for layer in layers:
            dim = layer.parametrizations.weight[0].dim
            norm = torch.linalg.matrix_norm(layer.weight.detach().movedim(dim, 0).flatten(1), 2)
            assert norm == pytest.approx(1, abs=0.05)
    assert all(torch.equal(live[name], t) for name, t in state.ema.live.items())
