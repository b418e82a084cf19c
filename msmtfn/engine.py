"""Ray for a job: the cluster that it was submitted to, or one on this machine for as long as the job runs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Final

import ray

from msmtfn.compat.ray import QUIET_LOGGERS
from msmtfn.errors import JobError

LOCAL: Final = "local"
LEAST_CPUS: Final = 4


@contextlib.contextmanager
def start_engine(*, show_workers: bool = True, num_cpus: int | None = None) -> Iterator[None]:
    """Join the cluster of `RAY_ADDRESS`, or start Ray here.

    Args:
        show_workers: whether what the workers log is shown here too; it stands in Ray's own logs anyway.
        num_cpus: logical CPUs of a Ray that is started; those of the machine, 4 at least, if left out.

    Raises:
        JobError: no cluster answers at the address.
    """
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    address = os.environ.get("RAY_ADDRESS", LOCAL)
    if address != LOCAL:
        try:
            ray.init(logging_level=logging.WARNING, log_to_driver=show_workers)
        except ConnectionError as exc:
            raise JobError(
                f"no Ray cluster answers at RAY_ADDRESS={address}; correct it, or unset it to start one"
            ) from exc
    else:
        # The count is logical: the engine's own actors and the stages need some beside each other on any machine.
        ray.init(
            LOCAL,
            num_cpus=num_cpus or max(LEAST_CPUS, os.cpu_count() or 1),
            logging_level=logging.WARNING,
            log_to_driver=show_workers,
            include_dashboard=False,  # nobody looks, and its six processes compute beside the network
        )
    try:
        yield
    finally:
        ray.shutdown()
