"""The n-gram baseline of texts."""

import math

import numpy as np
import pytest

from aigc_ops.modalities.text.metrics.kneser_ney import (
    END,
    MAX_ORDER,
    START,
    TURN,
    KneserNey,
    _symbols,
    choose_order,
)
from aigc_ops.modalities.text.model import TextData

DATA = TextData([f"the {animal} sat on the {place}" for animal in ("cat", "dog", "cow", "ant")
                 for place in ("mat", "hill", "roof", "road", "rug")])  # fmt: skip


@pytest.mark.parametrize("order", [1, 2, 3, MAX_ORDER])
@pytest.mark.parametrize("prefix", ["", "the c", "xyz", "the cat sat on the"])
def test_the_probabilities_after_any_beginning_sum_to_one(order: int, prefix: str) -> None:
    model = KneserNey(DATA, order)
    before = [START] * (MAX_ORDER - 1) + [TURN, *prefix.encode()]
    total = sum(
        float(model._probabilities(np.array([*before, symbol], np.uint64))[-1])
        for symbol in (*range(256), END, TURN)
    )
    assert total == pytest.approx(1)


def test_a_known_text_is_likelier_than_an_unknown_one_and_each_is_measured_alone() -> None:
    model = KneserNey(DATA, 5)
    known, unknown = TextData(["the cat sat on the mat"]), TextData(["qx zzv 77"])
    both = TextData([*known.texts, *unknown.texts])
    alone = [float(model.negative_log_likelihood(data)[0]) for data in (known, unknown)]
    assert model.negative_log_likelihood(both).tolist() == pytest.approx(alone)
    assert alone[0] < 15 < alone[1]


def test_a_prompt_is_given_and_not_predicted() -> None:
    data = TextData(["yes", "no"] * 20, ["a?", "b?"] * 20)
    model = KneserNey(data, MAX_ORDER)
    asked = TextData(["yes", "yes"], ["a?", "b?"])
    after, other = model.negative_log_likelihood(asked)
    assert after < 1 < other
    symbols, documents = _symbols(asked)
    assert (documents >= 0).sum() == 2 * (len("yes") + 1)
    assert len(symbols) == len(documents)


def test_uniform_bytes_cost_eight_bits_and_the_order_is_chosen_by_unseen_texts() -> None:
    rng = np.random.default_rng(0)
    noise = TextData(["".join(map(chr, rng.integers(32, 127, 200))) for _ in range(100)])
    assert choose_order(noise) == 1
    assert choose_order(DATA) > 2
    nats = KneserNey(noise, 1).negative_log_likelihood(noise).sum()
    bits = nats / math.log(2) / sum(len(text) for text in noise.texts)
    assert bits == pytest.approx(math.log2(95), abs=0.08)
