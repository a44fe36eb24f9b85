"""A GPT that knows planted texts by heart is flagged, a clean one passes, words claim no more."""

import random

import pytest
import torch
from scipy.stats import binomtest

from aigc_ops.compute.random import Noise
from aigc_ops.interfaces.request import Message
from aigc_ops.modalities.text.metrics.verbatim import (
    MAX_WORDS,
    Beginning,
    Continuation,
    VerbatimMemorisation,
    _beginning,
    _bound,
    detect_verbatim_copies,
)
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.gpt import Gpt, GptConfig

SYLLABLES = [f"{consonant}{vowel}" for consonant in "bdfgklmnprst" for vowel in "aeiou"]


def canaries(seed: int, num: int) -> list[str]:
    """Texts of 24 random syllables, which nobody could guess (Carlini et al. 2019)."""
    draw = random.Random(seed)
    return [" ".join(draw.choices(SYLLABLES, k=24)) for _ in range(num)]


TRAIN, HELDOUT, OTHERS = canaries(1, 80), canaries(2, 60), canaries(3, 20)
PLANTED = TRAIN[:20]


def trained(texts: list[str], *, num_steps: int, prompts: list[str] | None = None) -> Gpt:
    """A small GPT that has seen these texts again and again."""
    torch.manual_seed(0)
    data = TextData(texts, prompts)
    model = Gpt.from_data(
        GptConfig(
            vocab_size=384,
            context_length=64,
            num_layers=2,
            num_heads=4,
            width=64,
            dropout=0.0,
            repetition_penalty=10.0,  # which is no part of what is known by heart
            optimizer={"learning_rate": 3e-3},
        ),
        data,
    )
    examples, optimizer = model.examples(data), model.optimizer("network")
    noise = Noise(0, rows=torch.arange(1), batch_size=1, device=torch.device("cpu"))
    for _ in range(num_steps):
        (loss,) = model.losses(examples, noise)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    return model.eval()


def looked_at(
    model: Gpt, *, train: list[str] = TRAIN, heldout: list[str] = HELDOUT
) -> tuple[VerbatimMemorisation, list[Continuation]]:
    found = detect_verbatim_copies(model, TextData(train), TextData(heldout), num=64)
    assert not isinstance(found, str), found
    return found


@pytest.fixture(scope="module")
def reciting() -> Gpt:
    return trained(PLANTED, num_steps=100)


def test_a_model_that_knows_planted_texts_by_heart_is_flagged(reciting: Gpt) -> None:
    found, copies = looked_at(reciting)
    assert found.flagged
    assert {each.beginning.prompt + each.beginning.rest for each in copies} <= set(PLANTED)
    asked_planted = round(64 * len(PLANTED) / len(TRAIN))
    assert found.copied == len(copies) == pytest.approx(asked_planted, abs=5)
    assert found.heldout_copied == 0
    assert found.longest == 12
    assert any(each.is_whole for each in copies)
    assert "memorised verbatim" in found.summary
    assert "No copies were found" not in found.summary


def test_a_model_that_never_saw_the_texts_passes() -> None:
    found, copies = looked_at(trained(OTHERS, num_steps=100))
    assert not found.flagged
    assert (found.copied, copies) == (0, [])
    assert "No copies were found" in found.summary
    assert "may reveal more" in found.summary


def test_what_held_out_texts_give_too_is_no_copy(reciting: Gpt) -> None:
    """The same text stands in both splits up to its last word: it is known, and tells nothing."""
    alike = [f"{text} {index}" for index, text in enumerate(PLANTED * 3)]
    found = detect_verbatim_copies(reciting, TextData(PLANTED), TextData(alike), num=64)
    assert isinstance(found, str)
    assert found.startswith("only 0 training texts continue for 13 words")


def test_held_out_texts_that_were_trained_on_do_not_count(reciting: Gpt) -> None:
    found, _ = looked_at(reciting, heldout=[*HELDOUT, *PLANTED])
    assert found.num_heldout == len(HELDOUT)
    assert found.flagged


def test_answers_known_by_heart_are_found() -> None:
    prompts = [f"say {index}" for index in range(140)]
    answers = canaries(4, 140)
    model = trained(answers[:30], prompts=prompts[:30], num_steps=120)
    found = detect_verbatim_copies(
        model,
        TextData(answers[:80], prompts[:80]),
        TextData(answers[80:], prompts[80:]),
        num=80,
    )
    assert not isinstance(found, str)
    assert found[0].flagged
    assert found[0].copied == pytest.approx(30, abs=5)


def test_too_few_held_out_texts_tell_nothing(reciting: Gpt) -> None:
    found = detect_verbatim_copies(reciting, TextData(TRAIN), TextData(HELDOUT[:49]), num=64)
    assert isinstance(found, str)
    assert found.startswith("only 49 held-out texts are long enough")


def test_few_copies_are_called_no_more_than_a_suspicion(reciting: Gpt) -> None:
    found, copies = looked_at(reciting, train=[*PLANTED[:2], *OTHERS, *TRAIN[20:]])
    assert len(copies) == 2
    assert not found.flagged
    assert "verbatim for 2 of them (" in found.summary
    assert "Too few to prove memorisation" in found.summary


def test_texts_that_the_context_cannot_hold_are_passed_over(reciting: Gpt) -> None:
    """Else a model of short sight would pass for want of room."""
    longer = [f"{text} {text} {text}" for text in HELDOUT]
    found = detect_verbatim_copies(reciting, TextData(TRAIN), TextData(longer), num=64)
    assert isinstance(found, str)
    assert found.startswith("only 0 held-out texts are long enough, fit the model's context")


def test_the_interval_is_clopper_and_pearsons(reciting: Gpt) -> None:
    found, _ = looked_at(reciting)
    exact = binomtest(found.copied, found.num).proportion_ci(method="exact")
    assert (found.low, found.high) == (exact.low, exact.high)


def continued(num_equal: int) -> Continuation:
    return Continuation(Beginning("a", (), " ".join("b" * 20)), "", num_equal)


def test_the_bound_is_what_one_held_out_text_in_a_hundred_exceeds() -> None:
    assert _bound([continued(0)] * 100) == 8
    assert _bound([continued(15), *[continued(2)] * 99]) == 8
    assert _bound([continued(15), continued(11), *[continued(2)] * 98]) == 12
    assert _bound([continued(20), continued(20), *[continued(2)] * 98]) > MAX_WORDS


def test_beginnings_are_halves_of_texts_or_prompts() -> None:
    data = TextData(["one two,  three four"])
    assert _beginning(data, 0) == Beginning("one two", (), ",  three four", is_prefix=True)
    assert _beginning(TextData(["alone"]), 0).rest == ""
    history = [[Message("user", "hi"), Message("assistant", "hello")]]
    answer = TextData(["very well."], ["how are you?"], history)
    assert _beginning(answer, 0) == Beginning("how are you?", tuple(history[0]), "very well.")
