"""HuBERT and wav2vec 2.0 without padding, with the states that rounds padded to the maximum length would have.

A padded round costs as much as the longest possible one, but merely dropping the padding changes the result:
HuBERT-base and wav2vec 2.0-base normalise the output of the first convolution with a GroupNorm over time, whose mean
and variance include the padding. These statistics can be computed from the round alone, however, since the padding is
zero and adds nothing to any sum (derived at `_fold_norm`). Everything after the first layer runs without padding.
On a CPU the convolutions process a round in chunks, so that their states stay in the cache.

States are kept with the channels last in memory, as the transformer needs them. The convolutions are PyTorch's
two-dimensional ones on an image of height 1, since the one-dimensional ones copy such states and take six to eight
times as long on a GPU.

Shapes: R rounds, S samples, A audio frames, W windows of the first convolution, K its kernel, C channels, D width of
the transformer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msmtfn.model.attention import to_attention_mask
from msmtfn.model.runtime.packed import PackedConv1d

Convolve = Callable[[slice], Tensor]
"""Function from a slice of w windows to their states (R, w, C), the same slice for all rounds."""

CHUNK_WINDOWS: Final = 8192
"""Windows of the first convolution, over all rounds, that a CPU processes at a time: with 512 channels 8 MB in bf16."""

PRODUCTS_PER_OUTPUT: Final = 50
"""Products of two samples that take as long as squaring one output of the convolution, measured on a CPU.

Computing the variance through the windows takes K^2 products a window, through the outputs C squares. The second is
faster for a large kernel and few channels.
"""

ALIGNMENT: Final = 8
"""A GPU's fast 16-bit matrix products need rows whose length is a multiple of this."""


def run_convolutions(extractor: Any, waveforms: Tensor, padded_samples: int, dtype: torch.dtype) -> Tensor:
    """Run the convolutions of HuBERT or wav2vec 2.0 as if each round were padded with silence.

    Args:
        extractor: the model's `feature_extractor`; all layers but the first have weights of `dtype`.
        waveforms: (R, S) float32, normalised, zero after each round's samples; S is at least the receptive field.
        padded_samples: number of samples that the padded rounds would have, at least S.
        dtype: dtype of the states.

    Returns:
        (R, A, C), where A is the number of frames of the longest round. Frames entirely within a round equal those of
        the padded run; the frames after them are meaningless.
    """
    first, *others = extractor.conv_layers
    convolve = _first_layer(first, waveforms, padded_samples, dtype)
    convolutions = [_channels_last_convolution(layer.conv) for layer in others]
    frames, stride, field = _frames(extractor.conv_layers, waveforms.shape[1])
    chunk_frames = frames if waveforms.is_cuda else max(1, CHUNK_WINDOWS // (stride * len(waveforms)))
    chunks = []
    for start in range(0, frames, chunk_frames):
        last = min(start + chunk_frames, frames) - 1
        states = first.activation(convolve(slice(start * stride, last * stride + field)))
        for layer, convolution in zip(others, convolutions, strict=True):
            states = convolution(states)
            if hasattr(layer, "layer_norm"):
                states = layer.layer_norm(states)
            states = layer.activation(states)
        chunks.append(states)
    return torch.cat(chunks, dim=1)


def run_transformer(encoder: Any, states: Tensor, mask: Tensor) -> Tensor:
    """Run the transformer of HuBERT or wav2vec 2.0.

    This is the `forward` of transformers' model except for the positional convolution and the attention mask, and
    without LayerDrop, which `MsmtFnConfig` switches off.

    Args:
        encoder: the model's `encoder`.
        states: (R, A, D).
        mask: (R, A) bool, True for real frames; at least one in each round.

    Returns:
        (R, A, D), meaningless where the mask is False.
    """
    is_stable = encoder.config.do_stable_layer_norm
    states = states.masked_fill(~mask[..., None], 0.0)
    states = states + _positional_convolution(encoder.pos_conv_embed, states)
    states = encoder.dropout(states if is_stable else encoder.layer_norm(states))
    attention_mask = to_attention_mask(mask)
    for layer in encoder.layers:
        states = layer(states, attention_mask=attention_mask)
    normed: Tensor = encoder.layer_norm(states) if is_stable else states
    return normed


def _positional_convolution(embedding: Any, states: Tensor) -> Tensor:
    """Compute the convolutional position embedding, (R, A, D) to (R, A, D), with its activation.

    Unpacked weights are applied one group at a time: for few channels a group cuDNN chooses a kernel that in bf16 takes
    longer than all transformer layers together.
    """
    # transformers pads both ends with p = k // 2 zeros, which makes A + 2p - k + 1 frames: A for an odd kernel k, and
    # A + 1 for an even one, of which its `SamePad` layer drops the last. Padding with p before and k - 1 - p after
    # gives exactly those A frames in both cases. In the padded run the frames after a round are masked with zeros
    # before this convolution, so zeros at the end of the unpadded round are what it sees there, too.
    conv = embedding.conv
    before = conv.padding[0]
    after = conv.kernel_size[0] - 1 - before
    padded = F.pad(states.to(conv.bias.dtype), (0, 0, before, after))
    if isinstance(conv, PackedConv1d):
        embedded = conv(padded)
    else:
        parts = padded.transpose(1, 2).unsqueeze(2).chunk(conv.groups, dim=1)
        weights = conv.weight.unsqueeze(2).chunk(conv.groups)
        embedded_parts = [
            F.conv2d(_channels_last(part), _channels_last(weight)) for part, weight in zip(parts, weights, strict=True)
        ]
        embedded = torch.cat(embedded_parts, dim=1).squeeze(2).transpose(1, 2) + conv.bias
    activated: Tensor = embedding.activation(embedded)
    return activated.to(states.dtype)


def _frames(layers: Any, num_samples: int) -> tuple[int, int, int]:
    """Return the number of frames in `num_samples`, and the stride and the receptive field of a frame.

    Stride and receptive field are counted in windows of the first layer. Going up through the layers, a kernel k adds
    (k - 1) strides of the layers below to the receptive field, and the strides multiply.
    """
    frames, stride, field = num_samples, 1, 1
    for index, layer in enumerate(layers):
        (kernel,), (step,) = layer.conv.kernel_size, layer.conv.stride
        frames = (frames - kernel) // step + 1
        if index:
            field += (kernel - 1) * stride
            stride *= step
    return frames, stride, field


def _first_layer(layer: Any, waveforms: Tensor, padded_samples: int, dtype: torch.dtype) -> Convolve:
    """Return a function that applies the first convolution and its norm, as in the padded round, to some windows."""
    conv, norm = layer.conv, getattr(layer, "layer_norm", None)
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    weight = conv.weight[:, 0]  # (C, K)
    if not isinstance(norm, nn.GroupNorm):
        windows, frame_norm = waveforms.unfold(1, kernel, stride), nn.Identity() if norm is None else norm
        return lambda chunk: frame_norm(F.linear(windows[:, chunk], weight, conv.bias)).to(dtype)
    num_windows = (padded_samples - kernel) // stride + 1
    # The statistics must include windows that begin within the round and end in the padding.
    extended = F.pad(waveforms, (0, min(kernel, padded_samples - waveforms.shape[1])))
    windows = extended.unfold(1, kernel, stride)  # (R, W, K), a view
    is_fold_faster = kernel**2 <= PRODUCTS_PER_OUTPUT * len(weight)
    # The bias of the convolution is ignored: it shifts all outputs and their mean alike, so the norm removes it.
    return (_fold_norm if is_fold_faster else _convolve_then_norm)(windows, num_windows, weight, norm, dtype)


def _fold_norm(windows: Tensor, num_windows: int, weight: Tensor, norm: nn.GroupNorm, dtype: torch.dtype) -> Convolve:
    """Fold the GroupNorm into the first convolution, for each round, as one matrix product.

    The convolution of one input channel is y_tc = w_c.u_t, with u_t the t-th window of K samples. The GroupNorm has
    one group per channel and so normalises each channel over the N windows of the padded round:

        z_tc = gamma_c (y_tc - mu_c) / sqrt(var_c + eps) + beta_c.

    With the moments m = (1/N) sum_t u_t and M = (1/N) sum_t u_t u_t^T of the windows,

        mu_c = (1/N) sum_t w_c.u_t = w_c.m,
        var_c = (1/N) sum_t (w_c.u_t)^2 - mu_c^2 = w_c^T M w_c - (w_c.m)^2.

    Windows of padding are zero and add nothing to the sums; they only count in N. As a function of u_t, z is again a
    convolution, whose weights and shift differ from round to round:

        z_tc = s_c w_c.u_t + (beta_c - s_c mu_c),  s_c = gamma_c / sqrt(var_c + eps).

    The shift is computed in the same matrix product, as the weight of an additional sample that is always one.
    """
    scale, shift = _scale_and_shift(*_moments_through_windows(windows, weight, num_windows), norm)
    folded = torch.cat([weight * scale[..., None], shift[..., None]], dim=2)  # (R, C, K + 1)
    ones = 1 - folded.shape[2] % -ALIGNMENT  # for alignment, further ones with zero weights
    folded = F.pad(folded, (0, ones - 1)).to(dtype).transpose(1, 2)
    return lambda chunk: torch.bmm(F.pad(windows[:, chunk].to(dtype), (0, ones), value=1.0), folded)


def _convolve_then_norm(
    windows: Tensor, num_windows: int, weight: Tensor, norm: nn.GroupNorm, dtype: torch.dtype
) -> Convolve:
    """Compute the same as `_fold_norm`, but normalise the output of the convolution."""
    states = F.linear(windows.to(dtype), weight.to(dtype))
    mean = windows.sum(dim=1, dtype=torch.float64) @ weight.double().T / num_windows
    scale, shift = _scale_and_shift(mean, _variance_of_states(states, mean, num_windows), norm)
    return lambda chunk: torch.addcmul(shift[:, None], states[:, chunk], scale[:, None]).to(dtype)


def _scale_and_shift(mean: Tensor, variance: Tensor, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
    """Return the norm as a scale s and a shift beta - s mu, (R, C) each; see `_fold_norm`."""
    mean, variance = mean.float(), variance.float()
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return scale, norm.bias - mean * scale


def _variance_of_states(states: Tensor, mean: Tensor, num_windows: int) -> Tensor:
    """Return the variance (R, C) of the outputs (R, W, C) of the convolution and of zeros up to `num_windows`.

    It sums the squared deviations, (1/N) (sum_t (y_t - mu)^2 + (N - W) mu^2), and not the squares, whose difference to
    N mu^2 would lose digits. The outputs of the N - W windows of padding are 0 and deviate by mu.
    """
    squares = (states - mean[:, None].to(states.dtype)).square().sum(dim=1, dtype=torch.float64)
    return (squares + (num_windows - states.shape[1]) * mean.square()) / num_windows


def _moments_through_windows(windows: Tensor, weight: Tensor, num_windows: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance (R, C) of the convolution's output, without its bias, over all `num_windows` windows.

    They are w.m and w^T M w - (w.m)^2 for the moments m (R, K) and M (R, K, K) of the windows; see `_fold_norm`. The
    difference loses digits, so all of it is computed in double precision.
    """
    windows = windows.double()
    weight = weight.double()
    first = windows.sum(dim=1) / num_windows
    second = windows.transpose(1, 2) @ windows / num_windows
    mean = first @ weight.T
    variance = torch.einsum("ck,rkl,cl->rc", weight, second, weight) - mean.square()
    return mean, variance.clamp(min=0)


def _channels_last_convolution(conv: nn.Conv1d | PackedConv1d) -> Callable[[Tensor], Tensor]:
    """Return a convolution of states with the channels last, (R, A, C) to (R, A', C'); a packed one keeps its GELU."""
    if isinstance(conv, PackedConv1d):
        return conv
    weight, bias, stride = _channels_last(conv.weight.unsqueeze(2)), conv.bias, (1, *conv.stride)
    return lambda states: F.conv2d(states.transpose(1, 2).unsqueeze(2), weight, bias, stride).squeeze(2).transpose(1, 2)


def _channels_last(image: Tensor) -> Tensor:
    return image.contiguous(memory_format=torch.channels_last)
