"""The audio encoder's convolutions over rounds as long as they are, equal to those over rounds padded to the longest.

A padded round costs what the longest costs. Leaving the padding away alone changes the result, since the GroupNorm
behind the first convolution of HuBERT-base and wav2vec 2.0-base takes its statistics over the padded length. Those
statistics follow from the round's own samples: a window of padding adds nothing to any sum. So each round's norm is
folded into the first convolution, or follows it where that costs less, and the rest is computed without padding.

Shapes: R rounds, S samples, A audio frames, W windows of the first convolution, K its kernel, C channels.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRODUCTS_PER_OUTPUT: Final = 50
"""Products of two samples that cost as much as to square one output of the convolution, measured on a CPU: a window
has K^2 of the former and C of the latter, so that for a large kernel and few channels the outputs are squared."""


def unpadded_features(extractor: Any, waveforms: Tensor, padded_samples: int) -> Tensor:
    """Run the convolutions of HuBERT or wav2vec 2.0 as if each round were padded with silence.

    Args:
        extractor: `feature_extractor` of the model.
        waveforms: (R, S), normalised, zero after each round's samples.
        padded_samples: samples that the padded rounds would have; at least S.

    Returns:
        (R, A, C), A frames of the longest round; those that lie in a round wholly are what the padded run gives, those
        after them are of no use.
    """
    first, *others = extractor.conv_layers
    if isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
        states = _first_layer_with_group_norm(first, waveforms, padded_samples)
    else:
        states = _layer(first, waveforms[..., None])
    for layer in others:
        states = _layer(layer, states)
    return states


def _first_layer_with_group_norm(layer: Any, waveforms: Tensor, padded_samples: int) -> Tensor:
    """Convolution, norm over the padded round, activation: (R, S) to (R, W, C)."""
    conv, norm = layer.conv, layer.layer_norm
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    num_windows = (padded_samples - kernel) // stride + 1
    # A window that begins in the round and ends after it is one of the padded run's.
    reaching_over = F.pad(waveforms, (0, min(kernel, padded_samples - waveforms.shape[1])))
    windows = reaching_over.unfold(1, kernel, stride)  # (R, W, K), a view
    num_inside = (waveforms.shape[1] - kernel) // stride + 1
    weight = conv.weight[:, 0]  # (C, K); a bias of the convolution is part of the mean, and goes with it
    folds = kernel**2 <= PRODUCTS_PER_OUTPUT * len(weight)
    convolve = _fold_norm if folds else _convolve_then_norm
    activated: Tensor = layer.activation(convolve(windows, num_inside, num_windows, weight, norm))
    return activated


def _fold_norm(windows: Tensor, num_inside: int, num_windows: int, weight: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Norm and convolution of the first `num_inside` windows as one matrix product: (R, W, K) to (R, num_inside, C)."""
    scale, shift = _scale_and_shift(*_moments_through_windows(windows, weight, num_windows), norm)
    folded = weight * scale[..., None]  # (R, C, K)
    return torch.baddbmm(shift[:, None], windows[:, :num_inside], folded.transpose(1, 2))


def _convolve_then_norm(
    windows: Tensor, num_inside: int, num_windows: int, weight: Tensor, norm: nn.GroupNorm
) -> Tensor:
    """What `_fold_norm` gives, the convolution first."""
    states = F.linear(windows, weight)
    mean = windows.sum(dim=1, dtype=torch.float64) @ weight.double().T / num_windows
    scale, shift = _scale_and_shift(mean, _variance_of_states(states, mean, num_windows), norm)
    return torch.addcmul(shift[:, None], states[:, :num_inside], scale[:, None])


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


def _layer(layer: Any, states: Tensor) -> Tensor:
    """Convolution, norm if there is one, activation, channels last: (R, A, C) to (R, A', C')."""
    states = _convolve(states, layer.conv)
    if hasattr(layer, "layer_norm"):
        states = layer.layer_norm(states)
    activated: Tensor = layer.activation(states)
    return activated


def _convolve(states: Tensor, conv: nn.Conv1d) -> Tensor:
    """Convolution as one matrix product, of overlapping views of the array as it lies: (R, A, C) to (R, A', C')."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    rounds, frames, channels = states.shape
    after = (frames - kernel) // stride + 1
    states = states.contiguous()
    views = states.as_strided(
        (rounds, after, kernel * channels), (frames * channels, stride * channels, 1), states.storage_offset()
    )
    weight = conv.weight.transpose(1, 2).flatten(1)  # (C', K C)
    return F.linear(views, weight, conv.bias)
