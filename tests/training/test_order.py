from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from aigc_ops.interfaces.data import Groups
from aigc_ops.training.order import DataOrder

sizes = st.integers(1, 40)
groups = st.none() | st.builds(
    Groups, st.lists(st.integers(1, 9), min_size=1, max_size=9).map(tuple), st.integers(1, 12)
)


@given(num=sizes, groups=groups, batch=sizes, seed=st.integers(0, 2**53 - 1))
def test_every_example_is_met_once_an_epoch_whatever_the_batch_size(num, groups, batch, seed):
    num = sum(groups.sizes) if groups else num
    order = DataOrder(num_examples=num, batch_size=batch, seed=seed, groups=groups)
    met = torch.cat([order.batch(step) for step in range(num)]).tolist()  # `batch` epochs
    for epoch in range(batch):
        assert Counter(met[epoch * num : (epoch + 1) * num]) == Counter(range(num))


@given(num=sizes, groups=groups, batch=sizes, step=st.integers(0, 10**6))
def test_a_step_far_ahead_is_the_same_with_and_without_a_history(num, groups, batch, step):
    num = sum(groups.sizes) if groups else num
    fresh = DataOrder(num_examples=num, batch_size=batch, seed=1, groups=groups).batch(step)
    walked = DataOrder(num_examples=num, batch_size=batch, seed=1, groups=groups)
    for earlier in range(max(0, step - 3), step):
        walked.batch(earlier)
    assert torch.equal(walked.batch(step), fresh)


def test_epochs_and_seeds_are_shuffled_differently():
    order = DataOrder(num_examples=100, batch_size=100, seed=1)
    other = DataOrder(num_examples=100, batch_size=100, seed=2)
    assert not torch.equal(order.batch(0), order.batch(1))
    assert not torch.equal(order.batch(0), other.batch(0))


def test_no_more_groups_are_in_use_than_memory_holds_and_all_are_mixed_in_it():
    num, at_once = 50, 8
    groups = Groups((20,) * num, at_once)
    order = DataOrder(num_examples=1000, batch_size=1000, seed=1, groups=groups)
    met = order.batch(0) // 20
    for start in range(0, 1000 - 80, 20):  # as long as four groups last
        assert at_once - 2 <= len(met[start : start + 80].unique()) <= at_once + 5
    follows = (met[1:] == met[:-1]).float().mean()
    assert follows < 2 / at_once  # 1 / at_once where neighbours are independent
