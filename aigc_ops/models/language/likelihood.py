"""Log likelihood of texts under a network, with each token scored once."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.models.language.packing import IGNORED, windows
from aigc_ops.models.language.pretrained import Pretrained
from aigc_ops.models.language.tokenizer import Document
from aigc_ops.models.language.transformer import Transformer

MAX_LOGITS = 2**24  # scored at a time; 128 MB in float64


def log_likelihood(
    network: Transformer | Pretrained, documents: Sequence[Document], *, context_length: int
) -> tuple[Tensor, Tensor]:
    """Return each document's log likelihood (N,), float64 in nats, and its token counts (N,).

    The ids before a document's `first` are context only. Each later id is conditioned on half
    a context or more, or on all ids before it.
    """
    totals = torch.zeros(len(documents), dtype=torch.float64)
    max_tokens = MAX_LOGITS // network.num_tokens
    for indices, inputs, targets in scoring_batches(
        documents, context_length=context_length, max_tokens=max_tokens
    ):
        totals.index_add_(0, indices, score(network, inputs, targets))
    counts = torch.tensor([len(d.ids) - d.first for d in documents], dtype=torch.int64)
    return totals, counts


def score(network: Transformer | Pretrained, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the log likelihood (B,) of each row's targets (B, T), float64 on the CPU."""
    device = next(network.parameters()).device
    positions = torch.arange(inputs.shape[1], device=device).expand(len(inputs), -1)
    # fp32 logits and float64 sums, so that values do not depend on the training precision. MPS
    # has no float64, hence the CPU.
    with torch.autocast(device.type, enabled=False):
        logits = network(inputs.to(device), positions=positions)
    losses = functional.cross_entropy(
        logits.cpu().double().flatten(0, 1),
        targets.flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    return -losses.view_as(targets).sum(1)


def scoring_batches(
    documents: Sequence[Document], *, context_length: int, max_tokens: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (document indices (B,), inputs (B, T), targets (B, T)), all int64.

    Every id from a document's `first` on is a target once. A batch has at most `max_tokens`
    tokens, or one row.
    """
    # Half a context of overlap: the likelihood improves with context, and each halving of the
    # stride would double the cost.
    overlap = max(1, context_length // 2)
    pieces = [
        (index, *window)
        for index, document in enumerate(documents)
        for window in windows(
            len(document.ids), context_length=context_length, overlap=overlap, first=document.first
        )
    ]
    # Sorted by length, so that rows of a batch need little padding. The longest go first: a lack
    # of memory shows at the first batch.
    pieces.sort(key=lambda piece: piece[2] - piece[1])
    while pieces:
        length = pieces[-1][2] - pieces[-1][1]
        num = max(1, max_tokens // length)
        pieces, batch = pieces[:-num], pieces[-num:]
        # Padding is on the right, where causal attention does not see it: no mask is needed.
        inputs = torch.zeros(len(batch), length, dtype=torch.int64)
        targets = torch.full_like(inputs, IGNORED)
        for row, (index, begin, end, scored) in enumerate(batch):
            ids = torch.tensor(documents[index].ids[begin : end + 1])
            inputs[row, : end - begin] = ids[:-1]
            targets[row, scored - begin - 1 : end - begin] = ids[scored - begin :]
        yield torch.tensor([index for index, *_ in batch]), inputs, targets
