from __future__ import annotations

import pytest
import torch

from msmtfn.compat import pytorch
from msmtfn.compat.pytorch import find_operator
from msmtfn.errors import BrokenEnvironmentError


def test_the_error_about_a_missing_operator_names_the_version_of_pytorch() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of PyTorch has no oneDNN and so none of its operators")
    with pytest.raises(BrokenEnvironmentError, match=rf"torch {torch.__version__.split('+')[0]}.*mkldnn\._gone"):
        find_operator("mkldnn", "_gone")


def test_a_build_without_onednn_fails_only_when_an_operator_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    operator = find_operator("mkldnn", "_gone")
    with pytest.raises(RuntimeError, match="no oneDNN"):
        operator(torch.zeros(1))


def test_a_packed_linear_layer_gives_the_same_result_as_the_layer() -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of PyTorch has no oneDNN")
    weight, bias, states = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.5, 0.0]), torch.tensor([[1.0, -1.0]])
    packed = pytorch.reorder_linear_weight(weight, None)
    assert pytorch.linear_pointwise(states, packed, bias, "none", [], "").tolist() == [[-0.5, -1.0]]
