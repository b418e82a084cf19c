"""Connect a job to Ray: to the cluster it was submitted to, or to a local one for as long as the job runs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Final

import ray

from msmtfn.compat.ray import QUIET_LOGGERS, keep_sigterm_handler
from msmtfn.errors import JobError

LOCAL: Final = "local"
MIN_LOGICAL_CPUS: Final = 4
MAX_CAUSE_CHARS: Final = 300
CURES: Final = {
    "AF_UNIX path length": "the temporary folder's path is too long for sockets; set RAY_TMPDIR to a shorter one",
    "exceeds the maximum size": "Ray uploads the current folder; start the job in a smaller one",
    "object store memory": "leave more of /dev/shm and of the memory to Ray",
}
"""What to do, by a part of Ray's message."""
_interrupted: Final = threading.Event()
"""Set where Ctrl-C or SIGTERM ended Ray's start in this process: Ray may then be connected half-way."""


@contextlib.contextmanager
def start_engine(*, show_workers: bool = True, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to the Ray cluster at `RAY_ADDRESS`, or start Ray on this machine; shut down at the end.

    In a process that is connected to Ray already, such as a notebook, that connection is used and kept. What an
    interrupted start has left of Ray in this process is shut down first.

    Args:
        show_workers: whether the workers' logs are also shown here; Ray keeps them in its own files in any case.
        num_cpus: logical CPUs of a local Ray; by default those of the machine, but at least 4.

    Raises:
        JobError: no cluster responds at `RAY_ADDRESS`, it refuses the token, or Ray cannot start on this machine.
    """
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if _interrupted.is_set():
        ray.shutdown()
        _interrupted.clear()
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", LOCAL)
    with keep_sigterm_handler(), _note_interruption(), _translate_errors(address):
        if address != LOCAL:
            ray.init(logging_level=logging.WARNING, log_to_driver=show_workers)
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
        # An interrupted graph leaves a thread, and the process would abort if Ray were shut down beneath it; Ray's
        # processes end with this one.
        if not isinstance(sys.exception(), KeyboardInterrupt):
            ray.shutdown()


@contextlib.contextmanager
def _note_interruption() -> Iterator[None]:
    """Note that Ray's start was interrupted; shutting down at once could keep a job that is to end waiting."""
    try:
        yield
    except KeyboardInterrupt:
        _interrupted.set()
        raise


@contextlib.contextmanager
def _translate_errors(address: str) -> Iterator[None]:
    """Turn the many errors of Ray's start into a `JobError` of one line with the cure, as far as it is known."""
    try:
        yield
    except (ConnectionError, SystemExit) as exc:  # Ray ends the process where a cluster is gone
        if "AuthenticationError" in str(exc.__cause__):
            raise JobError(
                f"the Ray cluster at RAY_ADDRESS={address} refuses the token; set RAY_AUTH_TOKEN, or the file at "
                "RAY_AUTH_TOKEN_PATH, to the token of the cluster"
            ) from exc
        raise JobError(
            f"no Ray cluster responds at RAY_ADDRESS={address}; correct the address, or unset it to start Ray here"
        ) from exc
    # Ray raises OSError, ValueError, RuntimeError and errors of its own, depending on what is wrong.
    except Exception as exc:
        cause = " ".join(str(exc).split())[:MAX_CAUSE_CHARS] or type(exc).__name__
        cures = [cure for symptom, cure in CURES.items() if symptom in cause]
        raise JobError("; ".join([f"Ray cannot start: {cause}", *cures])) from exc
