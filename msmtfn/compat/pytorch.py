"""Private operators of PyTorch for packed weights on CPUs.

PyTorch has no public API to reorder a weight for oneDNN once and reuse it; `torch.compile` uses these operators for
that purpose (torch/_inductor/fx_passes/mkldnn_fusion.py and quantization.py). Every build with oneDNN has them, under
these names in torch 2.11 and 2.14.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from msmtfn.compat.versions import install_command
from msmtfn.errors import BrokenEnvironmentError


def find_operator(namespace: str, name: str) -> Callable[..., Any]:
    """Return the private operator `torch.ops.<namespace>.<name>`.

    In a build of PyTorch without oneDNN the result is a function that raises `RuntimeError` when it is called.

    Raises:
        BrokenEnvironmentError: this PyTorch has oneDNN but lacks the operator.
    """
    try:
        operator: Callable[..., Any] = getattr(getattr(torch.ops, namespace), name)
    except AttributeError as exc:
        if torch.backends.mkldnn.is_available():
            raise BrokenEnvironmentError(
                f"torch {torch.__version__} has no private operator {namespace}.{name}, which msmtfn uses on CPUs; "
                f"install a tested version: {install_command('torch', 'torchaudio')}"
            ) from exc

        def unavailable(*_arguments: Any) -> NoReturn:
            raise RuntimeError("this build of PyTorch has no oneDNN")

        return unavailable
    return operator


is_bf16_supported = find_operator("mkldnn", "_is_mkldnn_bf16_supported")
reorder_convolution_weight = find_operator("mkldnn", "_reorder_convolution_weight")
convolution_pointwise = find_operator("mkldnn", "_convolution_pointwise")
reorder_linear_weight = find_operator("mkldnn", "_reorder_linear_weight")
linear_pointwise = find_operator("mkldnn", "_linear_pointwise")
qlinear_prepack = find_operator("onednn", "qlinear_prepack")
qlinear_pointwise = find_operator("onednn", "qlinear_pointwise")
