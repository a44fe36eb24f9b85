"""Figures of variety, by hand and at their ends."""

import pytest

from aigc_ops.evaluation.wording import distinct, ngrams, repetition, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("你好 GPT2。", ["你", "好", "gpt2", "。"]),
        ("naïve café", ["naïve", "café"]),
        ("😀😀", ["😀", "😀"]),
        (" \n", []),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_ngrams_are_runs_of_words() -> None:
    assert ngrams("a b c", 2) == [("a", "b"), ("b", "c")]
    assert ngrams("a b", 3) == []


def test_distinct_counts_over_all_texts_together() -> None:
    found = distinct(["a b a b", "a b c"], 2)  # ab ba ab ab bc
    assert found is not None
    assert found.value == pytest.approx(3 / 5)
    assert found.low <= found.value <= found.high


def test_one_text_said_again_and_again_is_not_distinct() -> None:
    same = distinct(["one two three"] * 50, 2)
    varied = distinct([f"{i} {i + 1}" for i in range(50)], 2)
    assert same is not None
    assert varied is not None
    assert same.value == pytest.approx(2 / 100)
    assert varied.value == 1


def test_repetition_counts_within_each_text_alone() -> None:
    none = repetition(["a b c d e"] * 10, seed=0)
    again = repetition(["x y z w x y z w"], seed=0)  # five 4-grams, the last as the first
    assert none is not None
    assert again is not None
    assert none.value == 0
    assert again.value == pytest.approx(1 / 5)


def test_texts_without_words_have_no_figures() -> None:
    assert distinct(["", " "], 1) is None
    assert repetition(["a b c"], seed=0) is None
