"""What a walk through a recording's bytes tells without decoding it, and the error for what cannot be decoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from msmtfn.errors import CallError, RejectCode

MAX_JUNK_SHARE: Final = 0.02
"""Share of a file's bytes that may follow its audio although they are no tag: a WAV's or an AMR's."""

DECODER_SLACK_SEC: Final = 2.0
"""More than any decoder trims from the packets in a file: a walk that has passed the limit by this much may stop."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Place of the audio in a file, and its duration.

    Attributes:
        end: offset of the first byte after the audio; what follows are tags or junk.
        duration_sec: length of the audio in the file; None where only the decoder can tell.
        slack_sec: how much less or more a decoder may deliver: the codec's delay and padding.
        packet_bytes: how many bytes the packets of an MP4 have together; None in other containers.
        patches: bytes to put in place of the file's, by offset, because its header is wrong.
    """

    end: int
    duration_sec: float | None = None
    slack_sec: float = 0.0
    packet_bytes: int | None = None
    patches: Mapping[int, bytes] = field(default_factory=dict)


def check_heard(heard_sec: float, layout: Layout, container: str) -> None:
    """Check that a decoder delivered what is in the file.

    Raises:
        CallError: it ended early, or delivered more (`audio_unreadable`).
    """
    if layout.duration_sec is None:
        return
    slack_sec = layout.slack_sec + 1e-6  # the rounding error of a division
    if heard_sec < layout.duration_sec - slack_sec:
        raise unreadable(
            f"the {container} is damaged: {layout.duration_sec:.2f} s are there, but decoding ends after "
            f"{heard_sec:.2f} s"
        )
    if heard_sec > layout.duration_sec + slack_sec:
        raise unreadable(
            f"the {container} is damaged: {heard_sec:.2f} s are decoded, but only {layout.duration_sec:.2f} s are there"
        )


def too_long(problem: str, max_duration_sec: float) -> CallError:
    """Return the error that rejects a recording because it is longer than the limit."""
    return CallError(RejectCode.AUDIO_TOO_LONG, f"the recording {problem}; the limit is {max_duration_sec:g} s")


def unreadable(detail: str) -> CallError:
    """Return the error that rejects a recording because it cannot be decoded; `detail` gives the reason in one line."""
    return CallError(RejectCode.AUDIO_UNREADABLE, detail)
