"""Define the errors of a single call and of a whole job.

A `CallError` is caught where its call is processed and becomes a rejected row. A `JobError` ends the job with one line
that says what to do.
"""

from __future__ import annotations

import traceback
from enum import StrEnum
from typing import ClassVar


class RejectCode(StrEnum):
    """Reason why a call could not be scored or transcribed; its value is written to the column `error_code`."""

    BAD_ROW = "bad_row"
    FILE_OUTSIDE_ALLOWED_PREFIXES = "file_outside_allowed_prefixes"
    AUDIO_NOT_FOUND = "audio_not_found"
    AUDIO_UNREADABLE = "audio_unreadable"
    AUDIO_EMPTY = "audio_empty"
    AUDIO_TOO_LONG = "audio_too_long"
    AUDIO_TOO_LARGE = "audio_too_large"
    AUDIO_TIMEOUT = "audio_timeout"
    AUDIO_OUT_OF_MEMORY = "audio_out_of_memory"
    STORAGE_UNAVAILABLE = "storage_unavailable"  # never published: the call is retried
    WORKER_CRASHED = "worker_crashed"
    ASR_TIMEOUT = "asr_timeout"
    ASR_FAILED = "asr_failed"
    SCORING_FAILED = "scoring_failed"
    INTERNAL_ERROR = "internal_error"


class CallError(Exception):
    """Error of a call that cannot be scored.

    Attributes:
        code: reason, as published in the leads.
        detail: explanation for the operator in one line; never contains a transcript or a customer's id.
    """

    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class JobError(Exception):
    """Error that ends the job; its message names the problem and the cure.

    Attributes:
        exit_code: exit code of the job.
    """

    exit_code: ClassVar[int] = 1


class UsageError(JobError):
    """Error in the command line or the configuration."""

    exit_code = 2


def require(holds: bool, field: str, value: object, cure: str) -> None:
    """Check a field of a configuration.

    Args:
        holds: whether the field may have its value.
        field: name of the field.
        value: its value.
        cure: what it must be, as in "at least 1".

    Raises:
        ValueError: it may not; the message names the field, its value and the cure.
    """
    if not holds:
        raise ValueError(f"{field} is {value!r}; it must be {cure}")


class BrokenEnvironmentError(JobError):
    """Error of installed packages that do not work together or lack something that msmtfn uses."""


class ManifestError(JobError):
    """Error of a manifest that is missing, unreadable or lacks a required column."""


class ModelError(JobError):
    """Error of a model that cannot be fetched or loaded."""


class StorageError(JobError):
    """Error of a file or folder that cannot be listed, read or written."""


class ScoringError(JobError):
    """Error of a day whose graph failed in spite of retries."""


class BatchesFailedError(ScoringError):
    """Error of a pass in which batch after batch fails; its calls are to be tried one by one."""


class PublishError(JobError):
    """Error of a day that is not published: its parts do not match the manifest, or the published one is better."""


class OutcomesError(JobError):
    """Error of a file or table of outcomes that cannot be used."""


class LockedError(JobError):
    """Error of a run whose day is locked, or was taken over, by another run."""

    exit_code = 4


class TrainingDataError(JobError):
    """Error of labelled calls that are invalid or insufficient for training."""


class TrainingError(JobError):
    """Error of a training that cannot continue: the loss is not finite, or workers failed too often."""


def format_trace(error: BaseException) -> str:
    """Format the stack traces of an exception and of those it was raised from, without their messages, for the log.

    The messages are left out because that of an unexpected error may quote a transcript.
    """
    traces, current, seen = [], error, {id(error)}
    while True:
        stack = "".join(traceback.format_tb(current.__traceback__))
        traces.append(f"{type(current).__name__}, raised in\n{stack}")
        previous = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
        if previous is None or id(previous) in seen:
            return "after which ".join(reversed(traces)).rstrip()
        seen.add(id(previous))
        current = previous
