"""The project's own errors: of one call, and of a whole job.

A `CallError` is caught at the edge of the call it belongs to and becomes a rejected row; a `JobError` ends
the job with one line that says what to do.
"""

from __future__ import annotations

import traceback
from enum import StrEnum
from typing import ClassVar


class RejectCode(StrEnum):
    """Why a call could not be scored; the value is what stands in the column `error_code`."""

    BAD_ROW = "bad_row"
    FILE_OUTSIDE_ALLOWED_PREFIXES = "file_outside_allowed_prefixes"
    AUDIO_NOT_FOUND = "audio_not_found"
    AUDIO_UNREADABLE = "audio_unreadable"
    AUDIO_EMPTY = "audio_empty"
    AUDIO_TOO_LONG = "audio_too_long"
    AUDIO_TOO_LARGE = "audio_too_large"
    AUDIO_TIMEOUT = "audio_timeout"
    AUDIO_OUT_OF_MEMORY = "audio_out_of_memory"
    STORAGE_UNAVAILABLE = "storage_unavailable"  # never published: the call is tried again
    WORKER_CRASHED = "worker_crashed"
    SCORING_FAILED = "scoring_failed"
    INTERNAL_ERROR = "internal_error"


class CallError(Exception):
    """One call cannot be scored.

    Attributes:
        code: the reason, as published.
        detail: one line for the operator; never a transcript or a customer's id.
    """

    def __init__(self, code: RejectCode, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class JobError(Exception):
    """The job cannot go on; the message names the thing and the cure.

    Attributes:
        exit_code: of the job that it ends.
    """

    exit_code: ClassVar[int] = 1


class UsageError(JobError):
    """The command line or the configuration is wrong."""

    exit_code = 2


class BrokenEnvironmentError(JobError):
    """Installed packages do not work together, or lack what msmtfn uses of them."""


class ManifestError(JobError):
    """The day's manifest is missing, unreadable or lacks a required column."""


class ModelError(JobError):
    """The model's folder cannot be fetched or loaded."""


class StorageError(JobError):
    """A folder cannot be listed, read or written."""


class ScoringError(JobError):
    """The engine gave up on the day, after its retries."""


class PublishError(JobError):
    """The scored parts do not add up to the manifest, so nothing is published."""


class LockedError(JobError):
    """Another run holds the day, or took it away from this one."""

    exit_code = 4


class TrainingDataError(JobError):
    """There is nothing to learn from the labelled calls, or something is wrong with them."""


class TrainingError(JobError):
    """Training cannot go on: its loss is no number, or its workers failed too often."""


def trace_of(error: BaseException) -> str:
    """Where an exception and those it came from were raised, for the log.

    Without their messages: one that nobody has thought of may quote the transcript that it was raised for.
    """
    lines, each, seen = [], error, {id(error)}
    while True:
        lines.append(f"{type(each).__name__}, raised in\n{''.join(traceback.format_tb(each.__traceback__))}")
        before = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
        if before is None or id(before) in seen:
            return "after which ".join(reversed(lines)).rstrip()
        seen.add(id(before))
        each = before
