"""The resources of training on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass

from msmtfn.errors import require


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """The resources of training; apart from rounding, none of them changes what is learned."""

    num_workers: int = 1
    """Number of worker processes; each trains on its share of every step."""
    gpus_per_worker: float = 0.0
    """GPUs per worker, which may be a fraction; 0 trains on CPUs."""
    cpus_per_worker: int = 1
    """CPUs per worker; without a GPU, also its number of threads."""
    max_failures: int = 3
    """Number of times that training resumes from the last epoch after a worker has died."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a number is out of range.
        """
        minimums = {"num_workers": 1, "cpus_per_worker": 1, "gpus_per_worker": 0, "max_failures": 0}
        for name, minimum in minimums.items():
            value = getattr(self, name)
            require(value >= minimum, name, value, f"at least {minimum}")
