"""A linear classifier on the network's own inputs: the yardstick that a network has to beat.

In: the encoded inputs (int8, as the network takes them, flattened; all frames that it sees, of events). Out: what
multinomial logistic regression predicts on the test rows. The loss is the mean cross-entropy and a penalty of
λ/2 · ‖W‖², minimised by L-BFGS from strong to weak λ, each from where the last one ended; the λ with the best
validation accuracy (then loss) counts. The test rows choose nothing.

It computes on the CPU, whatever the network runs on, and draws nothing at random. Time and memory are bounded: beyond
:data:`MOST_VALUES`, neighbouring pixels are averaged (2 × 2, repeatedly), then training rows are left out, evenly from
all classes. What was done is said in ``note``.

Shapes: N rows, D features, K classes, T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from litesnn.data.batches import Samples
from litesnn.data.sources import Data, Split
from litesnn.data.splits import stratified_limit
from litesnn.snn.backbone import INPUT_SCALE, first_frames
from litesnn.snn.network import InputInfo, encode

__all__ = ["MOST_VALUES", "PENALTIES", "LinearBaseline", "fit_linear"]

MOST_VALUES = 16_000_000
"""Most numbers (rows × features) of the training inputs for up to ten classes; fewer for more, as each costs more."""

PENALTIES = (10.0, 1.0, 0.1, 0.01, 1e-3)
"""The values of λ that are tried, for inputs of variance 1."""

_ENOUGH_FEATURES = 1024
"""Pixels are not averaged below this, unless there would be too few rows for the classes."""

_FEW_FEATURES = 64
_ROWS_PER_CLASS = 20
_ITERATIONS = 30
_CHUNK = 1024

_Fetch = Callable[[slice], Tensor]


@dataclass(frozen=True)
class LinearBaseline:
    """The classifier's predictions on test, ``predicted`` [N]. ``rows`` × ``features`` is what it was fitted on."""

    predicted: tuple[int, ...]
    rows: int
    features: int
    penalty: float
    note: str | None


def fit_linear(data: Data, test: Samples, info: InputInfo, timesteps: int) -> LinearBaseline:
    """Fit on the training rows, choose λ on the validation rows, predict the test rows.

    Args:
        data: of the run.
        test: the test rows, encoded.
        info: how the network's inputs are encoded.
        timesteps: T of the network; of events, so many frames are seen.
    """
    classes = len(info.classes)
    rows, poolings = _plan(data.train, info, timesteps)
    train = _thinned(data.train, rows)
    validation = _thinned(data.validation, rows)
    x = _features(_encoded(train, info, timesteps), len(train.y), info, poolings)
    mean = x.mean(0)
    x -= mean
    spread = x.square().mean().sqrt().clamp_min(1e-6)  # one for all: pixels that hardly vary stay small
    x /= spread
    checked = (_features(_encoded(validation, info, timesteps), len(validation.y), info, poolings) - mean) / spread
    weights, penalty = _fitted(x, train.y, checked, validation.y, classes)
    predicted: list[int] = []
    for start in range(0, len(test), _CHUNK):
        part = _pooled(_seen(test.x[start : start + _CHUNK].cpu(), info, timesteps), info, poolings)
        predicted += _logits((part - mean) / spread, weights).argmax(1).tolist()
    return LinearBaseline(tuple(predicted), len(x), x.shape[1], penalty, _note(data.train, rows, poolings))


def _plan(train: Split, info: InputInfo, timesteps: int) -> tuple[int, int]:
    """How many training rows are used, and how often pixels are averaged."""
    most = MOST_VALUES * 10 // max(10, len(info.classes))
    rows, poolings = len(train.y), 0
    while True:
        features = _pooled(_seen(torch.zeros_like(train.x[:1], dtype=torch.int8), info, timesteps), info, poolings)
        size = features.shape[1]
        allowed = max(most // size, 1)
        fits = rows <= allowed
        too_few = allowed < min(rows, _ROWS_PER_CLASS * len(info.classes)) and size > _FEW_FEATURES
        smallest = max(info.shape[1:]) <= 2**poolings
        if fits or smallest or (size <= _ENOUGH_FEATURES and not too_few):
            return min(rows, max(allowed, 2 * len(info.classes))), poolings
        poolings += 1


def _thinned(split: Split, rows: int) -> Split:
    if rows >= len(split.y):
        return split
    kept = torch.from_numpy(stratified_limit(split.y.numpy(), rows))
    return Split(split.x[kept], split.y[kept])


def _encoded(split: Split, info: InputInfo, timesteps: int) -> _Fetch:
    return lambda part: encode(_seen(split.x[part], info, timesteps), info.input.mean, info.input.std)


def _seen(x: Tensor, info: InputInfo, timesteps: int) -> Tensor:
    """The inputs that a network of T timesteps reads of [N, C, H, W], or of [N, T or more, C, H, W]."""
    return first_frames(x, timesteps) if info.frames else x


def _features(fetch: _Fetch, rows: int, info: InputInfo, poolings: int) -> Tensor:
    """float32 [N, D], a few rows at a time."""
    parts = [_pooled(fetch(slice(start, start + _CHUNK)), info, poolings) for start in range(0, rows, _CHUNK)]
    return torch.cat(parts)


def _pooled(x: Tensor, info: InputInfo, poolings: int) -> Tensor:
    """int8 [N, …, H, W] → float32 [N, D]; each pooling averages 2 × 2 neighbours, at the edges those that there are."""
    height, width = info.shape[1:]
    pixels = x.reshape(len(x), -1, height, width).float() * INPUT_SCALE
    for _ in range(poolings):
        kernel = (min(2, pixels.shape[2]), min(2, pixels.shape[3]))
        pixels = F.avg_pool2d(pixels, kernel, ceil_mode=True, count_include_pad=False)
    return pixels.flatten(1)


def _fitted(x: Tensor, y: Tensor, checked: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, float]:
    """The weights [K, D + 1] with the best validation accuracy, the last column of them biases, and their λ.

    Of equal accuracies the lower loss counts: of rare classes all λ may have the accuracy of one answer for everything.
    """
    weights = torch.zeros(classes, x.shape[1] + 1)
    best, chosen, penalty, worse = (-1, 0.0), weights, PENALTIES[0], 0
    for tried in PENALTIES:
        weights = _minimised(x, y, weights, tried)
        logits = _logits(checked, weights)
        rank = (int((logits.argmax(1) == labels).sum()), -float(F.cross_entropy(logits, labels)))
        if rank > best:
            best, chosen, penalty, worse = rank, weights, tried, 0
        else:
            worse += 1
        if worse == 2:  # weaker penalties will not help any more
            break
    return chosen, penalty


def _minimised(x: Tensor, y: Tensor, start: Tensor, penalty: float) -> Tensor:
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=_ITERATIONS, history_size=10, tolerance_grad=1e-5, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        loss, gradient = _loss(x, y, weights.detach(), penalty)
        weights.grad = gradient
        return float(loss)

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def _loss(x: Tensor, y: Tensor, weights: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """The penalised loss and its gradient [K, D + 1].

    Written out, because the product that autograd takes for it, xᵀ·r with few columns, is 35 times as slow as rᵀ·x in
    the BLAS of some CPUs.
    """
    logits = _logits(x, weights)
    loss = F.cross_entropy(logits, y) + penalty / 2 * weights[:, :-1].square().sum()
    residual = (logits.softmax(1) - F.one_hot(y, len(weights))) / len(y)
    gradient = torch.cat([residual.t() @ x + penalty * weights[:, :-1], residual.sum(0)[:, None]], 1)
    return loss, gradient


def _logits(x: Tensor, weights: Tensor) -> Tensor:
    return F.linear(x, weights[:, :-1], weights[:, -1])


def _note(train: Split, rows: int, poolings: int) -> str | None:
    parts = []
    if poolings:
        parts.append(f"means of {2**poolings} × {2**poolings} neighbouring pixels")
    if rows < len(train.y):
        parts.append(f"{rows:,} of {len(train.y):,} training rows")
    return None if not parts else "to bound its time, it was fitted on " + " and ".join(parts)
