"""The networks that there are, by the `model_type` of their configuration.

A network's module is imported when its class is asked for: a job's driver and its tasks need none, and importing one
takes as long as importing PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msmtfn.compat.transformers import NETWORKS, load_class

if TYPE_CHECKING:
    from msmtfn.model.base import CallNetwork
    from msmtfn.model.config import NetworkConfig


def network_class(model_type: str) -> type[CallNetwork]:
    """Return the class of the networks with a `model_type`.

    Raises:
        KeyError: there is no such network.
    """
    found: type[CallNetwork] = load_class(NETWORKS[model_type])
    return found


def make_network(config: NetworkConfig) -> CallNetwork:
    """Make a network with new weights; its configuration decides which one."""
    make: Any = network_class(config.model_type)
    network: CallNetwork = make(config)
    return network
