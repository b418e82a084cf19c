"""Recognise failures that no retry can mend, within the first batches, and end the pass with their cause.

Ray Data goes on whatever fails, and a call that fails is tried again alone. That is right for a few calls, and useless
where everything fails: storage that takes no more files, a model that kills its process, a bug that every call meets.
`RULES` are the failures that end a pass. None of them ends a run whose calls can still be done, but for a few rejects.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter as Count
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError

from msmtfn.daily.counter import RunFigures
from msmtfn.errors import BatchesFailedError, JobError, ScoringError, StorageError

logger = logging.getLogger(__name__)

MAX_CAUSE_LENGTH: Final = 300
"""Maximum length of a cause in the job's last line, in characters."""
RESUME: Final = "fix the cause, and the same command resumes where this one stopped"
STORAGE_IS_CLOSED: Final = re.compile(
    "no space left on device|read-only file system|disk quota exceeded|permission denied|access ?denied|nosuchbucket"
    "|file too large",
    re.IGNORECASE,
)
"""Errors of storage that come back, however often one writes again."""
DEATHS: Final = (LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError)
"""Errors of Ray that say that a process died."""
CREATION: Final = "an error raised in its creation task"
"""What Ray says of an actor whose `__init__` raised: its process has not died, and the error is in the message."""
DIED: Final = "its process died"
CHAINED: Final = re.compile("\nThe above exception was the direct cause|\nDuring handling of the above exception")
"""What Python writes below the stack trace of an error after which another was raised."""
MAX_REFUSED_BLOCKS: Final = 3
"""Number of blocks that closed storage may refuse."""
MAX_ACCEPTED_BLOCKS: Final = 16
"""Number of blocks that it may take between the first and the last of them: a full disk has room for small ones, and a
server that refuses a block now and then is not closed."""
MAX_ROW: Final = 8
"""Number of blocks that may fail alike with none committed in between; more in a first pass with many CPUs."""
PATIENCE_SEC: Final = 60.0
"""Seconds for which errors that are no deaths must go on: storage may fail for a while."""
MAX_DEATHS_AT_START: Final = 4
"""Number of processes that may die before any has loaded the model; more where there are more of them."""
MIN_CALLS: Final = 64
"""Number of calls that must fail before their common error is taken for the cause."""
MIN_RATIO: Final = 10
"""Number of calls that must fail for each that is done."""


@dataclass
class Fuse:
    """Record of what fails in one pass.

    Attributes:
        folder: folder of the run.
        pool_size: number of actors that run the model.
        num_cpus: CPUs of the cluster.
        allowed: number of calls that may be rejected because the work on them fails.
        alone: whether the pass tries calls one by one.
        begun: whether calls of the run are committed before the pass.
        patience_sec: seconds for which errors other than deaths must go on.
        cause: of the last block that failed, in one line; empty if none did.
        committed: number of blocks that were committed.
        row: number of blocks that failed since the last was committed, by what their causes have in common.
        row_began: time of the first of them, by the monotonic clock.
        seen: number of blocks that failed in the same way during the pass.
        refused: number of committed blocks at the time of each of the last refusals by closed storage.
        figures: figures of the pass so far.
    """

    folder: str
    pool_size: int
    num_cpus: int
    allowed: int
    alone: bool = False
    begun: bool = False
    patience_sec: float = PATIENCE_SEC
    cause: str = ""
    committed: int = 0
    row: Count[str] = field(default_factory=Count)
    row_began: float = 0.0
    seen: Count[str] = field(default_factory=Count)
    refused: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_REFUSED_BLOCKS))
    figures: RunFigures = field(default_factory=RunFigures)

    def add_failed_block(self, error: Exception) -> bool:
        """Note that a block failed; return True if none has failed in the same way before."""
        self.cause = cause_of(error)
        kind = kind_of(self.cause)
        if not self.row:
            self.row_began = time.monotonic()
        self.row[kind] += 1
        self.seen[kind] += 1
        if STORAGE_IS_CLOSED.search(self.cause) is not None:
            self.refused.append(self.committed)
        return self.seen[kind] == 1

    def see(self, figures: RunFigures) -> None:
        """Note the figures of the pass."""
        self.figures = figures

    def find_failure(self, committed: int) -> JobError | None:
        """Return the failure that is to end the pass, if there is one.

        Args:
            committed: number of blocks that are committed.
        """
        if committed > self.committed:
            self.committed = committed
            self.row.clear()
        return next((error for rule in RULES if (error := rule(self)) is not None), None)

    def log_repeated(self) -> None:
        """Log how often failures came again of which only the first was logged."""
        for kind, number in self.seen.items():
            if number > 1:
                logger.warning("%d blocks of calls failed in the same way: %s", number, kind)


def storage_is_closed(fuse: Fuse) -> JobError | None:
    """Return an error if storage refuses files for good; a few small ones may still find room."""
    refused = fuse.refused
    if len(refused) < MAX_REFUSED_BLOCKS or refused[-1] - refused[0] > MAX_ACCEPTED_BLOCKS:
        return None
    return StorageError(f"the storage takes no more files ({fuse.cause}); {RESUME}")


def blocks_fail_alike(fuse: Fuse) -> JobError | None:
    """Return an error if one block after another fails alike.

    In a first pass each may hold a call that kills its process, so that is for the second to find out. There the calls
    are not to blame if the first ones of the run all fail, or more than may be rejected.
    """
    number = max(fuse.row.values(), default=0)
    died = fuse.cause.endswith(DIED)
    if not died and time.monotonic() - fuse.row_began < fuse.patience_sec:
        return None
    if not fuse.alone:
        if number < max(MAX_ROW, 2 * fuse.num_cpus):
            return None
        return BatchesFailedError(f"{number} blocks of calls in a row failed in the same way ({fuse.cause})")
    if number <= (fuse.allowed if fuse.begun or fuse.committed else min(fuse.allowed, MAX_ROW)):
        return None
    return ScoringError(
        f"{number} calls in a row failed in the same way, each alone, so the calls are not the cause ({fuse.cause}); "
        f"{RESUME}"
    )


def actors_never_start(fuse: Fuse) -> JobError | None:
    """Return an error if the processes that run the model die before they have loaded it and tried it."""
    deaths = fuse.figures.starts - fuse.pool_size
    if fuse.figures.ready or deaths <= max(MAX_DEATHS_AT_START, fuse.pool_size):
        return None
    return ScoringError(
        f"the processes that run the model died {deaths} times before any had loaded it and tried it on a built-in "
        f"call; use another version of the model, or see the log for what the machines lack; {RESUME}"
    )


def calls_fail_alike(fuse: Fuse) -> JobError | None:
    """Return an error if hardly a call of a first pass is done without an error that no call should cause."""
    figures = fuse.figures
    if fuse.alone or figures.failed < MIN_CALLS or figures.failed <= MIN_RATIO * (figures.done - figures.rejected):
        return None
    return ScoringError(
        f"{figures.failed} of the first {figures.done} calls failed, so the calls are not the cause "
        f"({figures.failure[:MAX_CAUSE_LENGTH]}); fix it, remove {fuse.folder}, and run the same command again"
    )


def recordings_are_missing(fuse: Fuse) -> JobError | None:
    """Return an error if storage delivers fewer recordings than not, and too few for the run to succeed."""
    figures = fuse.figures
    if figures.unavailable <= max(fuse.allowed, MIN_CALLS, figures.done):
        return None
    return StorageError(
        f"storage did not deliver the recordings of {figures.unavailable} of the first "
        f"{figures.unavailable + figures.done} calls; check that it responds and accepts the credentials of every "
        "machine; the same command resumes where this one stopped"
    )


RULES: Final[tuple[Callable[[Fuse], JobError | None], ...]] = (
    storage_is_closed,
    actors_never_start,
    calls_fail_alike,
    recordings_are_missing,
    blocks_fail_alike,
)
"""Failures that end a pass; the first that holds is the one that is told."""


def cause_of(error: BaseException) -> str:
    """Return the cause of a failure in one line.

    Ray's messages hold the stack traces of all processes involved, the first error first, and may end with a hint.
    """
    if isinstance(error, DEATHS) and CREATION not in str(error):
        return f"{type(error).__name__}: {DIED}"
    last = CHAINED.split(str(error))[0].strip().rpartition("\n")[2].strip()
    return (last or type(error).__name__)[:MAX_CAUSE_LENGTH]


def kind_of(cause: str) -> str:
    """Return what causes of the same kind have in common: the text without paths, numbers and quoted names."""
    if cause.endswith(DIED):  # Ray has several errors for it
        return DIED
    return re.sub(r"'[^']*'|\"[^\"]*\"|\S*/\S*|\w*\d\w*", "…", cause)
