"""What texts share with training texts, by hand."""

from aigc_ops.modalities.text.metrics.overlap import nearest_passage, overlap

TRAIN = [
    "It was the best of times, it was the worst of times",
    "a b c d e f g h i j k l m n",
    "你好吗?我很好。",
]


def test_runs_of_eight_words_are_looked_for() -> None:
    texts = [
        "well, it was the BEST of\ntimes, it seems",
        "nothing of this kind stands there at all",
    ]
    found, _ = overlap(texts, TRAIN, num_near=0)
    # well , it was the best of times , it seems: four runs, of which "it ... it" has two.
    assert found.num_runs.tolist() == [4, 1]
    assert found.num_found.tolist() == [1, 0]
    assert found.longest.tolist() == [8, 0]


def test_the_longest_run_is_followed_to_its_end_in_any_training_text() -> None:
    found, _ = overlap(["x b c d e f g h i j k y"], [TRAIN[1], "b c d e f g h i z"], num_near=0)
    assert found.longest.tolist() == [10]
    assert found.num_found.tolist() == [3]


def test_a_training_text_shares_all_of_itself() -> None:
    found, near = overlap(TRAIN, TRAIN, num_near=3)
    assert found.num_found.tolist() == found.num_runs.tolist()
    assert found.longest.tolist() == [13, 14, 8]
    assert [(each.index, each.similarity) for each in near if each] == [(0, 1), (1, 1), (2, 1)]


def test_repeated_words_are_matched_wherever_they_stand() -> None:
    found, _ = overlap(["a a a a a a a a a a"], ["b a a a a a a a a a b"], num_near=0)
    assert found.longest.tolist() == [9]


def test_the_nearest_shares_most_pairs_of_words() -> None:
    _, near = overlap(["the best of times", "alone", "zzz"], [*TRAIN, "alone"], num_near=3)
    assert near[0] is not None
    # "the best", "best of" and "of times", among nine different pairs of the training text.
    assert (near[0].index, near[0].similarity) == (0, 2 * 3 / (3 + 9))
    assert near[1] is not None
    assert near[1].index == 3
    assert near[2] is None


def test_parts_of_an_overlap_are_those_of_their_texts() -> None:
    both, _ = overlap([TRAIN[0], TRAIN[1]], TRAIN, num_near=0)
    first, second = both.split(1)
    assert (first.num_runs.tolist(), second.longest.tolist()) == ([6], [14])


def test_of_a_long_document_the_nearest_passage_is_shown() -> None:
    before, after = (" ".join(f"{part}{index}" for index in range(300)) for part in "ab")
    document = f"{before} the quick brown fox jumps {after}"
    assert nearest_passage("A quick brown fox!", document) == "… quick brown fox jumps b0 b1 …"
    assert nearest_passage("b297 b298 b299", document) == "… b297 b298 b299"
    assert nearest_passage("A quick brown fox!", "a fox") == "a fox"
    assert nearest_passage("unlike", document) == "a0 a1 …"
    assert nearest_passage("", "") == ""
