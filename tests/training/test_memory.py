"""Memory that runs out: the run goes on with smaller parts, or says what to lower."""

import gc
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from aigc_ops.core.errors import TrainingError
from aigc_ops.laws.runs import assert_bit_equal
from aigc_ops.models.gan import Gan
from aigc_ops.training import RunFolder, TrainingConfig
from aigc_ops.training.oom import free_memory, smaller_batches
from tests.training.runs import GAN, run

CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15.77 GiB of "
    "which 312.19 MiB is free. Including non-PyTorch memory, this process has 15.46 GiB in use."
)


@pytest.fixture(autouse=True, scope="module")
def few_objects():
    """A garbage collection, which each split begins with, looks at these tests' objects alone."""
    gc.freeze()


@pytest.fixture
def room(monkeypatch):
    """A function that sets for how many rows there is memory, from which step on."""
    losses = Gan.losses

    def set_room(rows, *, from_step=0, allocate=None):
        def with_little_memory(model, batch, noise):
            for index, loss in enumerate(losses(model, batch, noise)):
                # The critic is stepped already when its generator finds no memory.
                if index == 1 and noise.step >= from_step and len(batch["images"]) > rows:
                    if allocate is None:
                        raise torch.OutOfMemoryError(CUDA)
                    allocate()
                yield loss

        monkeypatch.setattr(Gan, "losses", with_little_memory)

    return set_room


def test_a_run_without_enough_memory_is_the_run_with_smaller_parts(room, tmp_path, capsys):
    expected = run(GAN, tmp_path / "small", steps=4, micro_batches=2)
    room(3)
    halved = run(GAN, tmp_path / "halved", steps=4)
    assert_bit_equal(Path(expected.uri), Path(halved.uri))
    details = "asked for 2.50 GiB, 312.19 MiB free); resuming from the newest checkpoint"
    assert f"warning: memory ran out ({details}" in capsys.readouterr().err
    provenance = json.loads((Path(halved.uri) / "provenance.json").read_text())
    assert provenance["micro_batches"] == 2


def test_memory_that_runs_out_later_takes_no_step_twice(room, tmp_path):
    """Step 6 is cut short between the critic and the generator; checkpoint 4 is gone back to."""
    for which in ("plain", "halved"):
        run(GAN, tmp_path / which, steps=4, checkpoint_every=4)
    expected = run(GAN, tmp_path / "plain", steps=8, checkpoint_every=4, micro_batches=2)
    room(3, from_step=5)
    halved = run(GAN, tmp_path / "halved", steps=8, checkpoint_every=4)
    assert_bit_equal(Path(expected.uri), Path(halved.uri))


def test_parts_grow_in_number_to_the_next_divisor_of_the_batch():
    seen, held = [], []

    def attempt(config):
        assert all(tensor() is None for tensor in held)  # the failed attempts' memory is free
        seen.append(config.micro_batches)
        tensor = torch.empty(1)
        held.append(weakref.ref(tensor))
        if config.micro_batches < 20:
            raise torch.OutOfMemoryError(CUDA)
        return "done"

    config, done = TrainingConfig(batch_size=20), None
    while done is None:
        try:
            done = attempt(config)
        except torch.OutOfMemoryError as error:
            config = smaller_batches(error, config, GAN, RunFolder(Path()), may_split=True)
        free_memory()
    assert seen == [1, 2, 4, 10, 20]


def test_no_memory_for_a_single_row_ends_with_what_to_lower(room, tmp_path):
    run(GAN, tmp_path, steps=2)
    room(0)
    wanted = (
        r"memory ran out \(asked for 2\.50 GiB, 312\.19 MiB free\); lower training\.batch_size "
        r"\(now 6\), raise training\.micro_batches \(now 6\).*model\.critic_width.*"
        r"data\.image\.size.*step-00000002"
    )
    with pytest.raises(TrainingError, match=wanted):
        run(GAN, tmp_path, steps=4)
    assert RunFolder(tmp_path).newest() == tmp_path / "step-00000002"


def test_the_cpus_own_refusal_is_told_alike_and_not_worked_around_when_forbidden(room, tmp_path):
    room(3, allocate=lambda: torch.empty(2**52))
    with pytest.raises(TrainingError, match=r"asked for \d{16,} bytes\).*micro_batches \(now 1\)"):
        run(GAN, tmp_path / "forbidden", steps=2, halve_on_out_of_memory=False)
    assert run(GAN, tmp_path / "allowed", steps=2).step == 2


def test_memory_that_ran_out_for_the_data_ends_with_the_settings_that_hold_it():
    wanted = r"^memory ran out \(asked for 32\.0 PiB\); lower .*, data\.image\.memory_gb$"
    with pytest.raises(MemoryError) as caught:
        np.empty(2**52)
    with pytest.raises(TrainingError, match=wanted):
        smaller_batches(
            caught.value, TrainingConfig(), GAN, RunFolder(Path("none")), may_split=True
        )


@pytest.mark.parametrize("text", ["could not create a primitive", "std::bad_alloc"])
def test_the_cpus_other_words_for_it_are_known(room, tmp_path, text):
    def fail():
        raise RuntimeError(text)

    room(3, allocate=fail)
    assert run(GAN, tmp_path, steps=2).step == 2


def test_other_errors_pass_through(room, tmp_path):
    def fail():
        raise RuntimeError("another fault")

    room(3, allocate=fail)
    with pytest.raises(RuntimeError, match=r"^another fault$"):
        run(GAN, tmp_path, steps=2)
