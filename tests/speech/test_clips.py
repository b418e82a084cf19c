from __future__ import annotations

import numpy as np
import pytest

from msmtfn.speech.clips import Clip, batch_clips, cut_clips, padding_share, restore_times
from msmtfn.speech.recogniser import SAMPLE_RATE, Segment, Word


def clips_of(
    seconds: float, *segments: tuple[float, float], max_clip_sec: float = 10.0, padding_sec: float = 0.0
) -> list[Clip]:
    channels = np.ones((1, round(seconds * SAMPLE_RATE)), np.float32)
    edges = np.array(segments, np.float64)
    return cut_clips(channels, [edges], max_clip_sec=max_clip_sec, padding_sec=padding_sec)


def places(clip: Clip) -> list[tuple[float, float, float]]:
    return [(piece.start / SAMPLE_RATE, piece.end / SAMPLE_RATE, piece.at / SAMPLE_RATE) for piece in clip.pieces]


def test_stretches_of_speech_share_a_clip_until_it_is_full() -> None:
    clips = clips_of(60, (1, 5), (10, 14), (20, 24))
    assert [places(clip) for clip in clips] == [[(1, 5, 0), (10, 14, 4)], [(20, 24, 0)]]


def test_padding_stays_within_the_call_and_does_not_overlap() -> None:
    (clip,) = clips_of(6, (0.5, 2), (2.5, 6), padding_sec=1.0)
    assert places(clip) == [(0, 2.25, 0), (2.25, 6, 2.25)]


def test_a_long_stretch_is_cut_where_it_is_quiet() -> None:
    channels = np.ones((1, 15 * SAMPLE_RATE), np.float32)
    channels[0, 8 * SAMPLE_RATE : round(8.2 * SAMPLE_RATE)] = 0
    first, second = cut_clips(channels, [np.array([[0.0, 15.0]])], max_clip_sec=10, padding_sec=0)
    assert 8.0 <= first.pieces[0].end / SAMPLE_RATE <= 8.2
    assert second.pieces[0].start == first.pieces[0].end
    assert first.num_samples + second.num_samples == 15 * SAMPLE_RATE


def test_a_clip_with_much_room_left_is_filled_with_part_of_the_next_stretch() -> None:
    first, second = clips_of(60, (0, 3), (10, 19))
    (whole, part), (rest,) = places(first), places(second)
    assert whole == (0, 3, 0)
    assert (part[0], part[2], rest[1]) == (10, 3, 19)
    assert 4 <= part[1] - part[0] <= 7
    assert rest[0] == part[1]


def test_what_is_left_of_two_channels_shares_a_clip_and_is_told_apart_again() -> None:
    channels = np.stack([np.full(20 * SAMPLE_RATE, 0.1), np.full(20 * SAMPLE_RATE, 0.2)]).astype(np.float32)
    speech = [np.array([[0.0, 2.0]]), np.array([[5.0, 8.0]])]
    (clip,) = cut_clips(channels, speech, max_clip_sec=10, padding_sec=0)
    heard = clip.cut(channels)
    assert (len(heard), heard[0], heard[-1]) == (5 * SAMPLE_RATE, np.float32(0.1), np.float32(0.2))
    words = (Word(" one", 0.5, 1.0), Word(" two", 2.5, 3.0), Word(" three", 4.0, 4.5))
    (first, one), (second, others) = restore_times(Segment(words, 0.9), clip)
    assert (first, [word.start_sec for word in one.words]) == (0, [0.5])
    assert (second, [word.start_sec for word in others.words], others.confidence) == (1, [5.5, 7.0], 0.9)


def test_the_samples_of_a_clip_are_those_of_its_pieces() -> None:
    channels = np.arange(4 * SAMPLE_RATE, dtype=np.float32)[None]
    (clip,) = cut_clips(channels, [np.array([[1.0, 1.5], [3.0, 3.5]])], max_clip_sec=10, padding_sec=0)
    heard = clip.cut(channels)
    assert (len(heard), heard[0], heard[SAMPLE_RATE // 2]) == (SAMPLE_RATE, SAMPLE_RATE, 3 * SAMPLE_RATE)


def test_times_of_words_are_brought_back_to_the_call() -> None:
    (clip,) = clips_of(60, (10, 12), (30, 33))
    words = (Word(" one", 0.5, 1.0, 0.9), Word(" two", 1.8, 2.6, 0.9), Word(" three", 3.0, 3.5, 0.9))
    ((channel, placed),) = restore_times(Segment(words), clip)
    # The middle of `two` lies in the second piece, so it does not begin before that.
    assert channel == 0
    assert [(word.start_sec, word.end_sec) for word in placed.words] == [(10.5, 11.0), (30.0, 30.6), (31.0, 31.5)]


def test_a_batch_has_no_more_seconds_than_allowed_padding_included() -> None:
    assert batch_clips([10.0, 2.0, 3.0, 9.0], 20.0, None) == [[1, 2], [3, 0]]
    assert batch_clips([10.0, 2.0, 3.0, 9.0], 60.0, 30.0) == [[1, 2], [3, 0]]
    assert batch_clips([50.0], 20.0, None) == [[0]]


def test_the_share_of_padding_counts_what_is_computed() -> None:
    assert padding_share([2.0, 4.0], [[0, 1]], None) == pytest.approx(0.25)
    assert padding_share([15.0], [[0]], 30.0) == pytest.approx(0.5)
    assert padding_share([], [], None) == 0
