"""The audio encoder's convolutions over rounds as long as they are, equal to those over rounds padded to the longest.

A padded round costs what the longest costs. Leaving the padding away alone changes the result, since the GroupNorm
behind the first convolution of HuBERT-base and wav2vec 2.0-base takes its statistics over the padded length. Those
statistics follow from the round's own samples: a window of padding adds nothing to any sum. So each round's norm is
folded into the first convolution, or follows it where that costs less, and the rest is computed without padding. On a
CPU the layers go over a round a stretch at a time, so that their states stay in its cache.

Shapes: R rounds, S samples, A audio frames, W windows of the first convolution, K its kernel, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Convolve = Callable[[slice], Tensor]
"""Gives the states (R, w, C) of w windows, of all rounds the same."""

STRETCH_WINDOWS: Final = 8192
"""Windows of the first convolution, of all rounds together, that go through the layers at once on a CPU: 512 channels
of them are 8 MB in bf16."""

PRODUCTS_PER_OUTPUT: Final = 50
"""Products of two samples that cost as much as to square one output of the convolution, measured on a CPU: a window
has K^2 of the former and C of the latter, so that for a large kernel and few channels the outputs are squared."""


def unpadded_features(extractor: Any, waveforms: Tensor, padded_samples: int) -> Tensor:
    """Run the convolutions of HuBERT or wav2vec 2.0 as if each round were padded with silence.

    Args:
        extractor: `feature_extractor` of the model.
        waveforms: (R, S), normalised, zero after each round's samples; S is a receptive field at least.
        padded_samples: samples that the padded rounds would have; at least S.

    Returns:
        (R, A, C), A frames of the longest round; those that lie in a round wholly are what the padded run gives, those
        after them are of no use.
    """
    first, *others = extractor.conv_layers
    convolve = _first_layer(first, waveforms, padded_samples)
    weights = [_as_matrix(layer.conv) for layer in others]
    frames, stride, field = _frames(extractor.conv_layers, waveforms.shape[1])
    at_once = frames if waveforms.is_cuda else max(1, STRETCH_WINDOWS // (stride * len(waveforms)))
    stretches = []
    for start in range(0, frames, at_once):
        last = min(start + at_once, frames) - 1
        states = first.activation(convolve(slice(start * stride, last * stride + field)))
        for layer, weight in zip(others, weights, strict=True):
            states = _layer(layer, states, weight)
        stretches.append(states)
    return torch.cat(stretches, dim=1)


def _frames(layers: Any, num_samples: int) -> tuple[int, int, int]:
    """Frames of so many samples; and a frame's distance to the next and its length, in windows of the first layer."""
    frames, stride, field = num_samples, 1, 1
    for index, layer in enumerate(layers):
        (kernel,), (step,) = layer.conv.kernel_size, layer.conv.stride
        frames = (frames - kernel) // step + 1
        if index:
            field += (kernel - 1) * stride
            stride *= step
    return frames, stride, field


def _first_layer(layer: Any, waveforms: Tensor, padded_samples: int) -> Convolve:
    """The first convolution and its norm, over all of the padded round, of a stretch of windows."""
    conv, norm = layer.conv, getattr(layer, "layer_norm", None)
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    weight = conv.weight[:, 0]  # (C, K)
    if not isinstance(norm, nn.GroupNorm):
        windows, then = waveforms.unfold(1, kernel, stride), norm or nn.Identity()
        return lambda stretch: then(F.linear(windows[:, stretch], weight, conv.bias))
    num_windows = (padded_samples - kernel) // stride + 1
    # A window that begins in the round and ends after it is one of the padded run's.
    reaching_over = F.pad(waveforms, (0, min(kernel, padded_samples - waveforms.shape[1])))
    windows = reaching_over.unfold(1, kernel, stride)  # (R, W, K), a view
    folds = kernel**2 <= PRODUCTS_PER_OUTPUT * len(weight)
    # A bias of the convolution is part of the mean, and goes with it.
    return (_fold_norm if folds else _convolve_then_norm)(windows, num_windows, weight, norm)


def _fold_norm(windows: Tensor, num_windows: int, weight: Tensor, norm: nn.GroupNorm) -> Convolve:
    """Norm and convolution as one matrix product."""
    scale, shift = _scale_and_shift(*_moments_through_windows(windows, weight, num_windows), norm)
    folded = (weight * scale[..., None]).transpose(1, 2)  # (R, K, C)
    return lambda stretch: torch.baddbmm(shift[:, None], windows[:, stretch], folded)


def _convolve_then_norm(windows: Tensor, num_windows: int, weight: Tensor, norm: nn.GroupNorm) -> Convolve:
    """What `_fold_norm` gives, the convolution first."""
    states = F.linear(windows, weight)
    mean = windows.sum(dim=1, dtype=torch.float64) @ weight.double().T / num_windows
    scale, shift = _scale_and_shift(mean, _variance_of_states(states, mean, num_windows), norm)
    return lambda stretch: torch.addcmul(shift[:, None], states[:, stretch], scale[:, None])


def _scale_and_shift(mean: Tensor, variance: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """What to multiply the convolution's output with and to add to it, (R, C) each."""
    mean, variance = mean.float(), variance.float()
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def _variance_of_states(states: Tensor, mean: Tensor, num_windows: int) -> Tensor:
    """Variance (R, C) of the convolution's output (R, W, C) and of zeros for the rest of `num_windows`.

    The deviations are squared, not the outputs, so that no digits are lost; each zero deviates by the mean.
    """
    squares = (states - mean[:, None].to(states.dtype)).square().sum(dim=1, dtype=torch.float64)
    return (squares + (num_windows - states.shape[1]) * mean.square()) / num_windows


def _moments_through_windows(windows: Tensor, weight: Tensor, num_windows: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (R, C) of the convolution's output without its bias over all windows, silent ones included.

    They follow from the windows' first two moments m (R, K) and M (R, K, K): a channel with the weights w has the mean
    w.m and the variance w.M w - (w.m)^2. All of it in double precision, since the difference loses digits.
    """
    windows = windows.double()
    weight = weight.double()
    first = windows.sum(dim=1) / num_windows
    second = windows.transpose(1, 2) @ windows / num_windows
    mean = first @ weight.T
    variance = torch.einsum("ck,rkl,cl->rc", weight, second, weight) - mean.square()
    return mean, variance.clamp(min=0)


def _layer(layer: Any, states: Tensor, weight: Tensor) -> Tensor:
    """Convolution, norm if there is one, activation, channels last: (R, A, C) to (R, A', C')."""
    states = _convolve(states, layer.conv, weight)
    if hasattr(layer, "layer_norm"):
        states = layer.layer_norm(states)
    activated: Tensor = layer.activation(states)
    return activated


def _convolve(states: Tensor, conv: nn.Conv1d, weight: Tensor) -> Tensor:
    """Convolution as one matrix product, of overlapping views of the array as it lies: (R, A, C) to (R, A', C')."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    rounds, frames, channels = states.shape
    after = (frames - kernel) // stride + 1
    states = states.contiguous()
    views = states.as_strided(
        (rounds, after, kernel * channels), (frames * channels, stride * channels, 1), states.storage_offset()
    )
    return F.linear(views, weight, conv.bias)


def _as_matrix(conv: nn.Conv1d) -> Tensor:
    """The weights (C', C, K) as (C', K C)."""
    return conv.weight.transpose(1, 2).flatten(1)
