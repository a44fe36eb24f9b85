"""Search for training images that equal others after a small shift, zoom, turn or mirroring.

1. Each image is compared under ten maps (mirrored or not; as it is, zoomed in or out, turned by
   5 degrees either way) and all small shifts. The best place is that of the highest normalised
   correlation of the image's centre with a window of the training image, which neither brightness
   nor contrast changes.
2. The distance is that of the worst part of the centre, 5 x 5 pixels. Noise, compression and
   resampling change all parts a little. Relatives, such as two clocks, differ much in one part.

Fine detail, which compression and resampling change most, is blurred in both images.
"""

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.core.tracking import progress_bar
from aigc_ops.modalities.image.metrics.alterations import affine, warp
from aigc_ops.modalities.image.metrics.closeness import Nearest, parts, relative, small

ZOOM, DEGREES = 0.9, 5.0
MAX_SHIFT = 1 / 7  # of an image's side: 4 pixels of 28
PART = 5  # pixels of a side of the part whose difference counts
COARSE = 16  # pixels of a side when candidates are chosen
NUM_CANDIDATES = 16  # training images compared exactly, of each of the two ways to choose them
QUERIES_AT_ONCE = 256


def nearest_aligned(images: Tensor, train: Tensor, own: Tensor | None = None) -> Nearest:
    """Return the nearest of the training images (M, C, H, W) of each image (N, C, H, W), uint8.

    `own` (N,) are the images' own indices, if they are training images.
    """
    rows, known = _blurred(small(images)), _blurred(small(train))
    candidates = _candidates(rows, known)
    side = known.shape[2]
    margin = min(max(1, round(side * MAX_SHIFT)), (side - 1) // 2)
    norms = _window_norms(known, side - 2 * margin)
    distances = torch.empty(candidates.shape)
    with progress_bar(
        total=len(rows), desc="search for copies", unit="image", delay=1, leave=False
    ) as bar:
        for start, few in parts(rows, QUERIES_AT_ONCE):
            centres = _variants(few)[..., margin : side - margin, margin : side - margin]
            # Of mean 0, so that the mean of a window does not count.
            queries = _unit(centres.flatten(0, 1)).reshape(centres.shape)
            for index, query in enumerate(queries, start):
                near = candidates[index]
                distances[index] = _distances(query, known[near], norms[near])
                bar.update()
    # A training image that was chosen in both ways counts once.
    ordered, places = candidates.sort(dim=1)
    again = torch.zeros_like(candidates, dtype=torch.bool)
    again.scatter_(1, places[:, 1:], ordered[:, 1:] == ordered[:, :-1])
    distances[again] = torch.inf
    return relative(distances, candidates, own)


def _candidates(rows: Tensor, known: Tensor) -> Tensor:
    """Return indices (N, 2 K) of the training images most like each row, some of them twice."""
    # 1. By pixels, which are blurred so that a shift of a pixel hardly counts.
    # 2. By the magnitude of the spectrum, which no shift changes.
    num = min(NUM_CANDIDATES, len(known))
    chosen = []
    for describe in (_coarse, _spectrum):
        described = describe(known).T
        for start, few in parts(rows, QUERIES_AT_ONCE):
            best = torch.full((len(few), described.shape[1]), -torch.inf)
            for variant in _variants(few).unbind(1):
                best = torch.maximum(best, describe(variant) @ described)
            top = best.topk(num, dim=1).indices
            if describe is _coarse:
                chosen.append(top)
            else:
                block = start // QUERIES_AT_ONCE
                chosen[block] = torch.cat([chosen[block], top], dim=1)
    return torch.cat(chosen)


def _variants(images: Tensor) -> Tensor:
    """Return each image under the ten maps, (N, 10, C, S, S)."""
    maps = [
        affine(zoom, degrees, mirror=mirror)
        for mirror in (False, True)
        for zoom, degrees in ((1, 0), (ZOOM, 0), (1 / ZOOM, 0), (1, DEGREES), (1, -DEGREES))
    ]
    return torch.stack([warp(images, each.expand(len(images), 2, 3)) for each in maps], dim=1)


def _coarse(images: Tensor) -> Tensor:
    return _unit(functional.adaptive_avg_pool2d(images, min(COARSE, images.shape[2])))


def _spectrum(images: Tensor) -> Tensor:
    centred = images - images.mean(dim=(2, 3), keepdim=True)
    magnitude = torch.fft.rfft2(centred).abs()
    half = COARSE // 2
    # Low frequencies of either sign along the first axis, of one along the second.
    low = torch.cat([magnitude[:, :, :half], magnitude[:, :, -half:]], dim=2)[..., :half]
    return _unit(low)


def _unit(images: Tensor) -> Tensor:
    """Return images as rows of mean 0 in each channel, and of norm 1; flat images as zeros."""
    rows = images.flatten(2)
    rows = (rows - rows.mean(dim=2, keepdim=True)).flatten(1)
    return functional.normalize(rows, eps=1e-6)


def _distances(query: Tensor, near: Tensor, norms: Tensor) -> Tensor:
    """Return the distance (K,) of an image's maps (V, C, W, W) to candidates (K, C, S, S)."""
    # 1. The best map and the best window of each candidate, among P x P.
    correlation = functional.conv2d(near, query) / norms[:, None]
    best = correlation.flatten(1).argmax(dim=1)
    num_places, width = correlation.shape[3], query.shape[3]
    first = best % num_places**2
    rows, columns = (
        (each[:, None] + torch.arange(width)) for each in (first // num_places, first % num_places)
    )
    every = torch.arange(len(near))[:, None, None]
    windows = near.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]]
    windows = windows.permute(0, 3, 1, 2)
    # 2. The squared difference of the worst part.
    same = _unit(windows).reshape(windows.shape)
    squares = (query[best // num_places**2] - same).square().sum(dim=1, keepdim=True)
    parts = functional.avg_pool2d(squares, min(PART, width), stride=1)
    return parts.flatten(1).amax(dim=1).sqrt()


def _blurred(images: Tensor) -> Tensor:
    """Return images (N, C, S, S) smoothed by a binomial filter of 5 x 5 pixels."""
    line = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    channels = images.shape[1]
    kernel = torch.outer(line, line).expand(channels, 1, 5, 5)
    padded = functional.pad(images, (2, 2, 2, 2), mode="replicate")
    return functional.conv2d(padded, kernel, groups=channels)


def _window_norms(images: Tensor, width: int) -> Tensor:
    """Return the norm of each window about its means, (M, P, P) for P positions in each axis."""
    # In double precision, because equal large sums are subtracted.
    images = images.double()
    squares, means = (
        functional.avg_pool2d(each, width, stride=1) for each in (images.square(), images)
    )
    variance = (squares - means.square()).clamp(min=0).sum(dim=1)
    return (variance * width**2).sqrt().clamp(min=1e-3).float()
