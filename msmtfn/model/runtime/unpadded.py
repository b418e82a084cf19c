"""HuBERT and wav2vec 2.0 over rounds as long as they are, equal to rounds padded to the longest.

A padded round costs what the longest costs. Leaving the padding away alone changes the result, since the GroupNorm
behind the first convolution of HuBERT-base and wav2vec 2.0-base takes its statistics over the padded length. Those
statistics follow from the round's own samples: a window of padding adds nothing to any sum. So each round's norm is
folded into the first convolution, or follows it where that costs less, and the rest is computed without padding. On a
CPU the convolutions go over a round a stretch at a time, so that their states stay in its cache.

States lie in memory with their channels last, as the transformer wants them, and the convolutions are taken of them so
by the two-dimensional ones of PyTorch: those of one dimension copy, and take six to eight times as long on a GPU.

Shapes: R rounds, S samples, A audio frames, W windows of the first convolution, K its kernel, C channels, D width of
the transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msmtfn.model.attention import attended
from msmtfn.model.runtime.packed import PackedConv1d

Convolve = Callable[[slice], Tensor]
"""Gives the states (R, w, C) of w windows, of all rounds the same."""

STRETCH_WINDOWS: Final = 8192
"""Windows of the first convolution, of all rounds together, that go through the layers at once on a CPU: 512 channels
of them are 8 MB in bf16."""

PRODUCTS_PER_OUTPUT: Final = 50
"""Products of two samples that cost as much as to square one output of the convolution, measured on a CPU: a window
has K^2 of the former and C of the latter, so that for a large kernel and few channels the outputs are squared."""

ALIGNMENT: Final = 8
"""Numbers a row of a matrix must be a multiple of for a GPU to take products of 16 bits in its fast way."""


def unpadded_features(extractor: Any, waveforms: Tensor, padded_samples: int, dtype: torch.dtype) -> Tensor:
    """Run the convolutions of HuBERT or wav2vec 2.0 as if each round were padded with silence.

    Args:
        extractor: `feature_extractor` of the model; all of its layers but the first have weights of `dtype`.
        waveforms: (R, S) float32, normalised, zero after each round's samples; S is a receptive field at least.
        padded_samples: samples that the padded rounds would have; at least S.
        dtype: of the states.

    Returns:
        (R, A, C), A frames of the longest round; those that lie in a round wholly are what the padded run gives, those
        after them are of no use.
    """
    first, *others = extractor.conv_layers
    convolve = _first_layer(first, waveforms, padded_samples, dtype)
    convolutions = [_channels_last(layer.conv) for layer in others]
    frames, stride, field = _frames(extractor.conv_layers, waveforms.shape[1])
    at_once = frames if waveforms.is_cuda else max(1, STRETCH_WINDOWS // (stride * len(waveforms)))
    stretches = []
    for start in range(0, frames, at_once):
        last = min(start + at_once, frames) - 1
        states = first.activation(convolve(slice(start * stride, last * stride + field)))
        for layer, convolution in zip(others, convolutions, strict=True):
            states = convolution(states)
            if hasattr(layer, "layer_norm"):
                states = layer.layer_norm(states)
            states = layer.activation(states)
        stretches.append(states)
    return torch.cat(stretches, dim=1)


def unpadded_context(encoder: Any, states: Tensor, mask: Tensor) -> Tensor:
    """Run the transformer of HuBERT or wav2vec 2.0.

    It is the model's own `forward` but for the positional convolution, and for what is asked of the mask; no layer is
    left out in training (`MsmtFnConfig` sees to that).

    Args:
        encoder: `encoder` of the model.
        states: (R, A, D).
        mask: (R, A) bool, True for the frames of a round; at least one in each.

    Returns:
        (R, A, D); of the masked frames of no use.
    """
    is_stable = encoder.config.do_stable_layer_norm
    states = states.masked_fill(~mask[..., None], 0.0)
    states = states + _positions(encoder.pos_conv_embed, states)
    states = encoder.dropout(states if is_stable else encoder.layer_norm(states))
    seen = attended(mask)
    for layer in encoder.layers:
        states = layer(states, attention_mask=seen)
    normed: Tensor = encoder.layer_norm(states) if is_stable else states
    return normed


def _positions(embedding: Any, states: Tensor) -> Tensor:
    """The convolution that tells a frame its place, (R, A, D) to the same, with its activation.

    Where its weights are not packed, group by group: cuDNN takes one with few channels a group in a slow way, in bf16
    longer than all layers of the transformer together.
    """
    conv = embedding.conv
    before = conv.padding[0]
    after = conv.kernel_size[0] - 1 - before  # one less than before, where the kernel is even
    padded = F.pad(states.to(conv.bias.dtype), (0, 0, before, after))
    if isinstance(conv, PackedConv1d):
        places = conv(padded)
    else:
        parts = padded.transpose(1, 2).unsqueeze(2).chunk(conv.groups, dim=1)
        weights = conv.weight.unsqueeze(2).chunk(conv.groups)
        placed = [
            F.conv2d(_interleaved(part), _interleaved(weight)) for part, weight in zip(parts, weights, strict=True)
        ]
        places = torch.cat(placed, dim=1).squeeze(2).transpose(1, 2) + conv.bias
    activated: Tensor = embedding.activation(places)
    return activated.to(states.dtype)


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


def _first_layer(layer: Any, waveforms: Tensor, padded_samples: int, dtype: torch.dtype) -> Convolve:
    """The first convolution and its norm, over all of the padded round, of a stretch of windows."""
    conv, norm = layer.conv, getattr(layer, "layer_norm", None)
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    weight = conv.weight[:, 0]  # (C, K)
    if not isinstance(norm, nn.GroupNorm):
        windows, then = waveforms.unfold(1, kernel, stride), norm or nn.Identity()
        return lambda stretch: then(F.linear(windows[:, stretch], weight, conv.bias)).to(dtype)
    num_windows = (padded_samples - kernel) // stride + 1
    # A window that begins in the round and ends after it is one of the padded run's.
    reaching_over = F.pad(waveforms, (0, min(kernel, padded_samples - waveforms.shape[1])))
    windows = reaching_over.unfold(1, kernel, stride)  # (R, W, K), a view
    folds = kernel**2 <= PRODUCTS_PER_OUTPUT * len(weight)
    # A bias of the convolution is part of the mean, and goes with it.
    return (_fold_norm if folds else _convolve_then_norm)(windows, num_windows, weight, norm, dtype)


def _fold_norm(windows: Tensor, num_windows: int, weight: Tensor, norm: nn.GroupNorm, dtype: torch.dtype) -> Convolve:
    """Norm and convolution as one matrix product; what is added to a channel is the weight of a sample that is one."""
    scale, shift = _scale_and_shift(*_moments_through_windows(windows, weight, num_windows), norm)
    folded = torch.cat([weight * scale[..., None], shift[..., None]], dim=2)  # (R, C, K + 1)
    ones = 1 - folded.shape[2] % -ALIGNMENT  # those but the first are multiplied with zero
    folded = F.pad(folded, (0, ones - 1)).to(dtype).transpose(1, 2)
    return lambda stretch: torch.bmm(F.pad(windows[:, stretch].to(dtype), (0, ones), value=1.0), folded)


def _convolve_then_norm(
    windows: Tensor, num_windows: int, weight: Tensor, norm: nn.GroupNorm, dtype: torch.dtype
) -> Convolve:
    """What `_fold_norm` gives, the convolution first."""
    states = F.linear(windows.to(dtype), weight.to(dtype))
    mean = windows.sum(dim=1, dtype=torch.float64) @ weight.double().T / num_windows
    scale, shift = _scale_and_shift(mean, _variance_of_states(states, mean, num_windows), norm)
    return lambda stretch: torch.addcmul(shift[:, None], states[:, stretch], scale[:, None]).to(dtype)


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


def _channels_last(conv: nn.Conv1d | PackedConv1d) -> Callable[[Tensor], Tensor]:
    """A convolution, and what is packed with it, of states whose channels are last: (R, A, C) to (R, A', C')."""
    if isinstance(conv, PackedConv1d):
        return conv
    weight, bias, stride = _interleaved(conv.weight.unsqueeze(2)), conv.bias, (1, *conv.stride)
    return lambda states: F.conv2d(states.transpose(1, 2).unsqueeze(2), weight, bias, stride).squeeze(2).transpose(1, 2)


def _interleaved(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)
