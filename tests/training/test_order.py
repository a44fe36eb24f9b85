from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from aigc_ops.training.order import DataOrder

sizes = st.integers(1, 40)


@given(num=sizes, batch=sizes, seed=st.integers(0, 2**53 - 1))
def test_every_example_is_met_once_an_epoch_whatever_the_batch_size(num, batch, seed):
    order = DataOrder(num_examples=num, batch_size=batch, seed=seed)
    met = torch.cat([order.batch(step) for step in range(num)]).tolist()  # `batch` epochs
    for epoch in range(batch):
        assert Counter(met[epoch * num : (epoch + 1) * num]) == Counter(range(num))


@given(num=sizes, batch=sizes, step=st.integers(0, 10**6))
def test_a_step_far_ahead_is_the_same_with_and_without_a_history(num, batch, step):
    fresh = DataOrder(num_examples=num, batch_size=batch, seed=1).batch(step)
    walked = DataOrder(num_examples=num, batch_size=batch, seed=1)
    for earlier in range(max(0, step - 3), step):
        walked.batch(earlier)
    assert torch.equal(walked.batch(step), fresh)


def test_epochs_and_seeds_are_shuffled_differently():
    order = DataOrder(num_examples=100, batch_size=100, seed=1)
    other = DataOrder(num_examples=100, batch_size=100, seed=2)
    assert not torch.equal(order.batch(0), order.batch(1))
    assert not torch.equal(order.batch(0), other.batch(0))
