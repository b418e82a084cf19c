"""Recognise failures that no retry can mend, within the first batches, and end the pass with their cause.

Ray Data goes on whatever fails, and a call that fails is tried again alone. That is right for a few calls, and useless
where everything fails: storage that takes no more files, a model that kills its process, a bug that every call meets.
Workers unpickle this with Ray Data's settings, so its imports are kept few.
"""

from __future__ import annotations

import logging
import re
from collections import Counter as Count
from dataclasses import dataclass, field
from typing import Final

from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from msmtfn.daily.counter import RunFigures
from msmtfn.errors import JobError, ScoringError, StorageError

logger = logging.getLogger(__name__)

MAX_CAUSE_LENGTH: Final = 300
"""Maximum length of a cause in the job's last line, in characters."""
STORAGE_IS_CLOSED: Final = re.compile(
    "no space left on device|read-only file system|disk quota exceeded|permission denied|access ?denied|nosuchbucket",
    re.IGNORECASE,
)
"""Errors of storage that come back, however often one writes again."""
MAX_CLOSED: Final = 3
"""Blocks that may meet such an error."""
MAX_FAILED_BLOCKS: Final = 8
"""Blocks that may fail in the same way with none committed in between; more on clusters, by their CPUs."""
MAX_DEADLY_BATCHES: Final = 2
"""Batches that may kill their processes, with all retries, before any is done."""
MAX_DEADLY_BATCHES_LATER: Final = 8
"""Batches that may kill their processes in a row once some were done."""
MIN_FAILED_CALLS: Final = 32
"""Number of calls, and more than half of those done, that must fail for their error to be no fault of theirs."""
RESUME: Final = "fix the cause, and the same command resumes where this one stopped"
DEATHS: Final = (LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError)
"""Errors of Ray that say that a process died, which other calls may survive."""


@dataclass
class Fuse:
    """Record of what fails in one pass, which says when to give up.

    Attributes:
        folder: folder of the run.
        pool_size: number of actors that run the model.
        num_cpus: CPUs of the cluster.
        max_retries: number of times a batch is tried again when its process dies.
        tolerated: number of calls that may fail in a row, in a pass over calls that have failed before.
        cause: of the last block that failed, in one line; empty if none did.
        error: the failure that is to end the pass; None as long as there is none.
        committed: number of blocks that were committed.
        failed: number of blocks that failed in the same way since one was committed last, by what they have in common.
        seen: number of blocks that failed in the same way during the pass.
        closed: number of blocks that storage refused for good.
    """

    folder: str
    pool_size: int
    num_cpus: int
    max_retries: int
    tolerated: int = 0
    cause: str = ""
    error: JobError | None = None
    committed: int = 0
    failed: Count[str] = field(default_factory=Count)
    seen: Count[str] = field(default_factory=Count)
    closed: int = 0

    def check(self, committed: int) -> None:
        """Note how many blocks are committed, and end the pass if there is a failure to end it.

        Raises:
            JobError: there is; the message names the cause.
        """
        if committed > self.committed:
            self.committed = committed
            self.failed.clear()
        if self.error is not None:
            raise self.error

    def add_failed_block(self, error: BaseException) -> bool:
        """Note that a block failed; return True if another has not failed in the same way before."""
        self.cause = cause_of(error)
        kind = kind_of(self.cause)
        self.failed[kind] += 1
        self.seen[kind] += 1
        limit = max(MAX_FAILED_BLOCKS, 2 * self.num_cpus) * (2 if isinstance(error, DEATHS) else 1)
        if STORAGE_IS_CLOSED.search(self.cause):
            self.closed += 1
            if self.closed >= MAX_CLOSED:
                self.give_up(StorageError(f"the storage takes no more files ({self.cause}); {RESUME}"))
        elif self.failed[kind] >= max(limit, self.tolerated + 1):
            many = f"{self.failed[kind]} blocks of calls in a row failed in the same way"
            self.give_up(ScoringError(f"{many}, so the calls are not the cause ({self.cause}); {RESUME}"))
        return self.seen[kind] == 1

    def log_repeated(self) -> None:
        """Log how often failures came again of which only the first was logged."""
        for kind, number in self.seen.items():
            if number > 1:
                logger.warning("%d blocks of calls failed in the same way: %s", number, kind)

    def see(self, figures: RunFigures) -> None:
        """Note the figures of the pass."""
        batches = max(MAX_DEADLY_BATCHES_LATER if figures.done else MAX_DEADLY_BATCHES, self.tolerated)
        if figures.starts > self.pool_size + batches * (self.max_retries + 1):
            deaths = figures.starts - self.pool_size
            when = "" if figures.ready else " before they had loaded the model"
            self.give_up(
                ScoringError(
                    f"the processes that run the model died {deaths} times in a row{when}, so the calls are not the "
                    f"cause; use another version of the model, or see the log for what the machines lack; {RESUME}"
                )
            )
        if figures.failed >= MIN_FAILED_CALLS and 2 * figures.failed > figures.done:
            self.give_up(
                ScoringError(
                    f"{figures.failed} of the first {figures.done} calls failed alike, so the calls are not the cause "
                    f"({figures.failure[:MAX_CAUSE_LENGTH]}); fix it, remove {self.folder}, and run the same command "
                    "again"
                )
            )
        if figures.unavailable >= MIN_FAILED_CALLS and figures.unavailable > figures.done:
            self.give_up(
                StorageError(
                    f"storage did not deliver the recordings of {figures.unavailable} of the first "
                    f"{figures.unavailable + figures.done} calls; check that it responds and accepts the credentials "
                    "of every machine; the same command resumes where this one stopped"
                )
            )

    def give_up(self, error: JobError) -> None:
        """End the pass at its next step; the first failure is the one that is told."""
        self.error = self.error or error


def cause_of(error: BaseException) -> str:
    """Return the cause of a failure in one line: the last line of the error, which follows Ray's stack traces."""
    if isinstance(error, DEATHS):
        return f"{type(error).__name__}: its process died"
    last = str(error).strip().rpartition("\n")[2].strip()
    return (last or type(error).__name__)[:MAX_CAUSE_LENGTH]


def kind_of(cause: str) -> str:
    """Return what causes of the same kind have in common: the text without paths, numbers and quoted names."""
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\w*\d\w*", "…", cause)
