"""Maps of where a classifier looks, made by asking it alone; every query is counted.

Occlusion: Zeiler & Fergus, ECCV 2014, arXiv:1311.2901. LIME: Ribeiro, Singh & Guestrin, KDD 2016, arXiv:1602.04938, with a
grid of squares as superpixels. `one_pixel_drops` is no explanation but a measurement: what each single pixel can do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robustest.classifiers.classifier import Classifier, margins_of
from robustest.saliency.regions import grid_regions

Map = NDArray[np.float64]
_BATCH = 64


@dataclass(frozen=True, slots=True)
class AskedMap:
    """A map and what it cost.

    values: (H, W), larger where the classifier's margin depends more. queries: images scored for it.
    """

    values: Map
    queries: int


def margins_asked(classifier: Classifier, images: NDArray[np.float32], label: int) -> NDArray[np.float64]:
    """(N,) margins of images of one label, scored in batches of a fixed size."""
    parts = []
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        labels = np.full(len(part), label)
        parts.append(margins_of(classifier(part), labels, np.full(len(part), -1), classifier.info.output))
    return np.concatenate(parts)


def occlusion(
    classifier: Classifier, image: NDArray[np.float32], label: int, *, side: int | None = None, gray: float = 0.5
) -> AskedMap:
    """Margin lost when a square is covered, averaged over the squares that cover a pixel.

    Args:
        image: (H, W, C) in [0, 1]. side: of the square in pixels; None for about a tenth of the image's shorter side.
        gray: what it is covered with, in [0, 1].
    """
    height, width, _ = image.shape
    side = side or max(2, min(height, width) // 10)
    stride = max(1, side // 2)
    places = [
        (r, c) for r in range(0, max(height - side, 0) + 1, stride) for c in range(0, max(width - side, 0) + 1, stride)
    ]
    total, covered = np.zeros((height, width)), np.zeros((height, width))
    clean = margins_asked(classifier, image[None], label)[0]
    for start in range(0, len(places), _BATCH):
        part = places[start : start + _BATCH]
        batch = np.repeat(image[None], len(part), axis=0)
        for row, (r, c) in enumerate(part):
            batch[row, r : r + side, c : c + side] = gray
        for (r, c), margin in zip(part, margins_asked(classifier, batch, label), strict=True):
            total[r : r + side, c : c + side] += max(clean - margin, 0.0)
            covered[r : r + side, c : c + side] += 1
    return AskedMap(total / np.maximum(covered, 1), len(places) + 1)


def lime(
    classifier: Classifier,
    image: NDArray[np.float32],
    label: int,
    *,
    samples: int = 500,
    ridge: float = 1.0,
    rng: np.random.Generator,
) -> AskedMap:
    """Size of each square's weight in a linear model of the margin, fitted to images with squares grayed at random.

    Args:
        image: (H, W, C) in [0, 1]. samples: images asked, >= 2. ridge: weight of the penalty, > 0.
    """
    height, width, channels = image.shape
    regions = grid_regions(height, width)
    count = int(regions.max()) + 1
    kept = rng.random((samples, count)) < 0.5
    kept[0] = True
    mean = image.reshape(-1, channels).mean(axis=0)
    margins = np.empty(samples)
    for start in range(0, samples, _BATCH):
        shown = kept[start : start + _BATCH][:, regions, None]
        batch = np.where(shown, image.reshape(1, -1, channels), mean).astype(np.float32)
        margins[start : start + _BATCH] = margins_asked(classifier, batch.reshape(-1, height, width, channels), label)
    # Nearer samples count more: LIME's exponential kernel on the cosine distance to the whole image, width 0.25.
    nearness = np.exp(-((1 - np.sqrt(kept.mean(axis=1))) ** 2) / 0.25**2)
    design = np.column_stack([np.ones(samples), kept])
    weighted = design * nearness[:, None]
    penalty = ridge * np.eye(count + 1)
    penalty[0, 0] = 0
    weights = np.linalg.solve(weighted.T @ design + penalty, weighted.T @ margins)[1:]
    return AskedMap(np.abs(weights)[regions].reshape(height, width), samples)


def one_pixel_drops(
    classifier: Classifier, image: NDArray[np.float32], label: int, *, pixels: NDArray[np.int64] | None = None
) -> AskedMap:
    """How far the margin falls at most when a pixel alone goes to a corner of the colour cube; >= 0, 2^C queries a pixel.

    Args:
        pixels: only these are tried, the others are NaN; None for all.
    """
    height, width, channels = image.shape
    flat = image.reshape(-1, channels)
    bits = (np.arange(2**channels)[:, None] >> np.arange(channels)) & 1
    clean = margins_asked(classifier, image[None], label)[0]
    tried = np.ones(len(flat), bool) if pixels is None else np.isin(np.arange(len(flat)), pixels)
    drops = np.where(tried, 0.0, np.nan)
    queries = 1
    for corner in bits.astype(np.float32):
        places = np.flatnonzero((flat != corner).any(axis=1) & tried)
        for start in range(0, len(places), _BATCH):
            part = places[start : start + _BATCH]
            batch = np.repeat(flat[None], len(part), axis=0)
            batch[np.arange(len(part)), part] = corner
            margins = margins_asked(classifier, batch.reshape(-1, height, width, channels), label)
            drops[part] = np.maximum(drops[part], clean - margins)
        queries += len(places)
    return AskedMap(drops.reshape(height, width), queries)
