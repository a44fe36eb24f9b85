"""How likely a network finds texts, each of their tokens once."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.models.language.packing import IGNORED, windows
from aigc_ops.models.language.pretrained import Pretrained
from aigc_ops.models.language.tokenizer import Document
from aigc_ops.models.language.transformer import Transformer

MAX_LOGITS = 2**24  # scored at a time: 128 MB in float64


def log_likelihood(
    network: Transformer | Pretrained, documents: Sequence[Document], *, context_length: int
) -> tuple[Tensor, Tensor]:
    """Log likelihood of each document from its `first` on, (N,) float64 nats, and (N,) tokens.

    A token has at least half a context before it where the document has so many.
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
    """Log likelihood (B,) of each row's targets (B, T), float64 on the CPU."""
    device = next(network.parameters()).device
    positions = torch.arange(inputs.shape[1], device=device).expand(len(inputs), -1)
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

    Every id of each text is a target once, with at least half a context before it where
    the document has so many. Padding stands last, where causal attention does not see it.
    A batch is as large as `max_tokens` allows, or one row.
    """
    overlap = max(1, context_length // 2)
    pieces = [
        (index, *window)
        for index, document in enumerate(documents)
        for window in windows(
            len(document.ids), context_length=context_length, overlap=overlap, first=document.first
        )
    ]
    pieces.sort(key=lambda piece: piece[2] - piece[1])
    while pieces:
        length = pieces[-1][2] - pieces[-1][1]
        num = max(1, max_tokens // length)
        pieces, batch = pieces[:-num], pieces[-num:]
        inputs = torch.zeros(len(batch), length, dtype=torch.int64)
        targets = torch.full_like(inputs, IGNORED)
        for row, (index, begin, end, scored) in enumerate(batch):
            ids = torch.tensor(documents[index].ids[begin : end + 1])
            inputs[row, : end - begin] = ids[:-1]
            targets[row, scored - begin - 1 : end - begin] = ids[scored - begin :]
        yield torch.tensor([index for index, *_ in batch]), inputs, targets
