"""The networks that there are, by the `model_type` of their configuration; transformers' `AutoModel` knows them.

No other module of the networks may import the auto classes at its top: transformers' module that holds them imports
this one (`compat.transformers`), which needs the networks whole.
"""

from __future__ import annotations

from typing import Any, Final, cast

from transformers import AutoModel

from msmtfn.model.base import CallNetwork
from msmtfn.model.config import Architecture, NetworkConfig
from msmtfn.model.mmml import Mmml
from msmtfn.model.network import MsmtFn

NETWORKS: Final[dict[Architecture, type[CallNetwork]]] = {"msmtfn": MsmtFn, "mmml": Mmml}


def network_class(model_type: str) -> type[CallNetwork]:
    """Return the class of the networks with a `model_type`.

    Raises:
        KeyError: there is no such network.
    """
    return NETWORKS[cast(Architecture, model_type)]


def make_network(config: NetworkConfig) -> CallNetwork:
    """Make a network with new weights; its configuration decides which one."""
    make: Any = network_class(config.model_type)
    network: CallNetwork = make(config)
    return network


for network in NETWORKS.values():
    AutoModel.register(network.config_class, network, exist_ok=True)
