"""Connect a job to Ray: to the cluster it was submitted to, or to a local one for as long as the job runs."""

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
MIN_LOGICAL_CPUS: Final = 4


@contextlib.contextmanager
def start_engine(*, show_workers: bool = True, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to the Ray cluster at `RAY_ADDRESS`, or start Ray on this machine; shut down at the end.

    In a process that is connected to Ray already, such as a notebook, that connection is used and kept.

    Args:
        show_workers: whether the workers' logs are also shown here; Ray keeps them in its own files in any case.
        num_cpus: logical CPUs of a local Ray; by default those of the machine, but at least 4.

    Raises:
        JobError: no cluster responds at `RAY_ADDRESS`.
    """
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", LOCAL)
    if address != LOCAL:
        try:
            ray.init(logging_level=logging.WARNING, log_to_driver=show_workers)
        except ConnectionError as exc:
            raise JobError(
                f"no Ray cluster responds at RAY_ADDRESS={address}; correct the address, or unset it to start Ray here"
            ) from exc
    else:
        # The count is logical: Ray's actors and the stages need several CPUs at once, even on a small machine.
        ray.init(
            LOCAL,
            num_cpus=num_cpus or max(MIN_LOGICAL_CPUS, os.cpu_count() or 1),
            logging_level=logging.WARNING,
            log_to_driver=show_workers,
            include_dashboard=False,  # unused, and its six processes would compete with the network for CPUs
        )
    try:
        yield
    finally:
        ray.shutdown()
