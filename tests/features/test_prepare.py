import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile as sf

from msmtfn.calls.conversation import ConversationConfig
from msmtfn.features.prepare import PREPARED, PrepareConfig, Preparer
from tests.features.prepared import (
    CALLS,
    CLS,
    HASH_B,
    PASSTHROUGH,
    SEP,
    A,
    B,
    C,
    MakePreparer,
    calls,
    prepare_one,
    ramp,
    samples_of,
    write,
)

# ---- samples


def test_the_samples_of_each_round_are_cut_from_the_recording(make_preparer: MakePreparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 4.0)
    turns = [("agent", 0.5, 1, ""), ("customer", 1, 1.5, ""), ("agent", 1.75, 2, ""), ("customer", 2, 3.2505, "")]
    prepared = prepare_one(make_preparer(outer_silence="drop"), uri="a.wav", turns=turns)
    assert prepared["rounds"] == [{"start_sec": 0.5, "end_sec": 1.75}, {"start_sec": 1.75, "end_sec": 3.2505}]
    assert (prepared["num_rounds"], prepared["duration_sec"]) == (2, 4.0)
    assert prepared["round_samples"] == [10_000, 12_004]
    # The rounds are samples 4000 to 14,000 and 14,000 to 26,004.
    assert np.abs(samples_of(prepared) - ramp(26_004)[4000:]).max() <= 1


def test_the_silence_around_the_turns_is_cut_with_them(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 3.0)
    turns = [("agent", 0.5, 1, "a"), ("customer", 1, 1.5, "b"), ("agent", 1.75, 2, ""), ("customer", 2, 2.5, "c")]
    prepared = prepare_one(preparer, uri="a.wav", turns=turns)
    assert prepared["rounds"] == [{"start_sec": 0.0, "end_sec": 1.75}, {"start_sec": 1.75, "end_sec": 3.0}]
    assert prepared["round_samples"] == [14_000, 10_000]
    assert np.abs(samples_of(prepared) - ramp(24_000)).max() <= 1


@pytest.mark.parametrize(("level", "loudness"), [(1.0, -3.01), (0.1, -23.01), (0.0, -90.31)])
def test_the_loudness_is_the_root_mean_square_over_the_rounds(
    make_preparer: MakePreparer, tmp_path: Path, level: float, loudness: float
) -> None:
    sine = level * np.sin(2 * np.pi * 200 * np.arange(16_000) / 8000)
    sf.write(tmp_path / "a.wav", np.concatenate([sine, np.zeros(16_000)]), 8000, subtype="PCM_16")
    prepared = prepare_one(
        make_preparer(outer_silence="drop"), uri="a.wav", turns=[("agent", 0, 1, "ab"), ("customer", 1, 2, "")]
    )
    assert prepared["loudness_dbfs"] == pytest.approx(loudness, abs=0.02)
    assert prepared["num_tokens"] == len(prepared["tokens"]) == 4  # with [CLS] and [SEP]


def test_silence_between_turns_is_kept_where_audio_outside_the_turns_is_dropped(
    make_preparer: MakePreparer, tmp_path: Path
) -> None:
    write(tmp_path / "a.wav", 4.0)
    turns = [("agent", 1, 1.25, ""), ("customer", 2, 2.5, "")]
    prepared = prepare_one(make_preparer(outer_silence="drop"), uri="a.wav", turns=turns)
    assert np.abs(samples_of(prepared) - ramp(20_000)[8000:]).max() <= 1


def test_an_overlong_round_is_truncated_and_keeps_its_text(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 5.0)
    turns = [("agent", 0, 1, "a"), ("customer", 1, 4.5, "b"), ("agent", 4.5, 5, "c")]
    prepared = prepare_one(preparer, uri="a.wav", turns=turns)
    assert prepared["round_samples"] == [16_000, 4_000]
    assert prepared["tokens"] == [CLS, A, B, SEP, CLS, C, SEP]
    expected = np.concatenate([ramp(40_000)[:16_000], ramp(40_000)[36_000:]])
    assert np.abs(samples_of(prepared) - expected).max() <= 1


def test_an_overlong_round_is_split_if_the_network_is_configured_so(
    make_preparer: MakePreparer, tmp_path: Path
) -> None:
    write(tmp_path / "a.wav", 4.5)
    turns = [("agent", 0, 1, "a"), ("customer", 2.5, 4.5, "b")]
    prepared = prepare_one(make_preparer(overlong_rounds="split"), uri="a.wav", turns=turns)
    assert prepared["round_samples"] == [16_000, 16_000, 4_000]
    assert (prepared["tokens"], prepared["round_tokens"]) == ([CLS, A, SEP, CLS, B, SEP], [3, 3, 0])
    assert np.abs(samples_of(prepared) - ramp(36_000)).max() <= 1


def test_every_turn_is_a_round_if_the_network_is_configured_so(make_preparer: MakePreparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 3.0)
    turns = [("speaker_1", 0, 1, "a"), ("speaker_1", 1, 2.5, "b"), ("speaker_2", 2.5, 3, "c")]
    prepared = prepare_one(make_preparer(round_unit="turn"), uri="a.wav", turns=turns)
    assert prepared["round_samples"] == [8_000, 12_000, 4_000]
    assert (prepared["tokens"], prepared["round_tokens"]) == ([CLS, A, SEP, CLS, B, SEP, CLS, C, SEP], [3, 3, 3])


def test_the_maximum_round_comes_from_the_network(make_preparer: MakePreparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 5.0)
    assert prepare_one(make_preparer(max_round_sec=3.0), uri="a.wav")["round_samples"] == [24_000, 16_000]


@pytest.mark.parametrize("max_round_sec", [0.7001, 1 / 3, 1.00006])
def test_no_split_round_is_longer_than_the_network_takes(
    max_round_sec: float, make_preparer: MakePreparer, tmp_path: Path
) -> None:
    write(tmp_path / "a.wav", 5.0)
    prepared = prepare_one(make_preparer(max_round_sec=max_round_sec), uri="a.wav")
    max_samples = round(8000 * max_round_sec)
    assert max_samples - 1 <= max(prepared["round_samples"]) <= max_samples
    assert len(prepared["samples"]) == sum(prepared["round_samples"])
    # Rounding loses at most one sample per round.
    assert 40_000 - len(prepared["rounds"]) <= len(prepared["samples"]) <= 40_000


def test_a_call_of_one_sample_is_prepared(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 1 / 8000)
    prepared = prepare_one(preparer, uri="a.wav")
    assert (prepared["status"], prepared["round_samples"], prepared["num_rounds"]) == (None, [1], 1)


def test_two_channels_are_mixed_to_their_mean(preparer: Preparer, tmp_path: Path) -> None:
    left, right = ramp(8000), np.full(8000, -2000, np.int16)
    sf.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 8000)
    expected = (left.astype(np.int64) - 2000) / 2
    assert np.abs(samples_of(prepare_one(preparer, uri="a.wav")) - expected).max() <= 1


@pytest.mark.parametrize(("agent_channel", "starts"), [(0, [0.0, 1.6]), (1, [0.0, 0.8, 2.4])])
def test_without_turns_the_rounds_come_from_the_channels(
    agent_channel: int, starts: list[float], preparer: Preparer, tmp_path: Path
) -> None:
    line = 0.001 * np.random.default_rng(0).standard_normal((25_600, 2))
    for turn in range(4):  # on channel 0, 1, 0, 1, every 0.8 s
        line[turn * 6400 :][:4800, turn % 2] += 0.2 * np.sin(2 * np.pi * 400 / 8000 * np.arange(4800))
    sf.write(tmp_path / "a.wav", line, 8000, subtype="ULAW")
    prepared = prepare_one(preparer, uri="a.wav", agent_channel=agent_channel)
    assert [spoken["start_sec"] for spoken in prepared["rounds"]] == pytest.approx(starts, abs=0.03)


TWO_ROUNDS = [("agent", 0, 1, "a"), ("customer", 1, 1.5, "b"), ("agent", 2, 3, "c"), ("customer", 3, 4, "")]
"""Turns that make rounds from 0 s to 2 s and from 2 s to 4 s."""


def write_tones(path: Path, *spans: tuple[float, float]) -> None:
    """Write four seconds of a noisy line with a tone in the given spans of seconds."""
    line = 0.001 * np.random.default_rng(0).standard_normal(32_000)
    tone = 0.2 * np.sin(2 * np.pi * 400 / 8000 * np.arange(32_000))
    for start, end in spans:
        line[round(start * 8000) : round(end * 8000)] += tone[round(start * 8000) : round(end * 8000)]
    sf.write(path, line, 8000)


def test_removing_silence_keeps_the_speech_of_each_round(make_preparer: MakePreparer, tmp_path: Path) -> None:
    write_tones(tmp_path / "a.wav", (0.5, 0.9), (1.6, 2.4), (3.0, 3.6))
    kept = samples_of(prepare_one(make_preparer(), uri="a.wav", turns=TWO_ROUNDS))
    prepared = prepare_one(make_preparer(silence="remove"), uri="a.wav", turns=TWO_ROUNDS)
    assert prepared["round_samples"] == [3200 + 3200, 3200 + 4800]  # 0.4 s + 0.4 s, 0.4 s + 0.6 s
    expected = [kept[4000:7200], kept[12_800:19_200], kept[24_000:28_800]]
    assert samples_of(prepared).tolist() == np.concatenate(expected).tolist()


def test_removing_silence_leaves_the_rounds_unchanged(make_preparer: MakePreparer, tmp_path: Path) -> None:
    write_tones(tmp_path / "a.wav", (0.5, 0.9))
    kept = prepare_one(make_preparer(), uri="a.wav", turns=TWO_ROUNDS)
    removed = prepare_one(make_preparer(silence="remove"), uri="a.wav", turns=TWO_ROUNDS)
    for name in ("duration_sec", "num_rounds", "rounds", "tokens", "round_tokens"):
        assert removed[name] == kept[name]
    assert removed["num_rounds"] == 2


def test_removing_silence_leaves_a_round_without_speech_no_samples(make_preparer: MakePreparer, tmp_path: Path) -> None:
    write_tones(tmp_path / "a.wav", (0.5, 0.9))
    prepared = prepare_one(make_preparer(silence="remove"), uri="a.wav", turns=TWO_ROUNDS)
    assert (prepared["status"], prepared["round_samples"]) == (None, [3200, 0])


def test_removing_silence_leaves_a_silent_call_no_samples(make_preparer: MakePreparer, tmp_path: Path) -> None:
    write_tones(tmp_path / "a.wav")
    prepared = prepare_one(make_preparer(silence="remove"), uri="a.wav", turns=TWO_ROUNDS)
    assert (prepared["round_samples"], prepared["samples"]) == ([0, 0], [])


def test_samples_beyond_full_scale_are_clipped(preparer: Preparer, tmp_path: Path) -> None:
    sf.write(tmp_path / "a.wav", np.array([1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -1.5]), 8000, subtype="FLOAT")
    prepared = prepare_one(preparer, uri="a.wav")
    assert prepared["samples"] == [32767, 32767, 16384, 0, -16384, -32767, -32767]


def test_a_recording_is_resampled_to_the_encoders_rate(make_preparer: MakePreparer, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 / 8000 * np.arange(8000))
    sf.write(tmp_path / "a.wav", tone, 8000)
    prepared = prepare_one(make_preparer(encoder_sample_rate=16_000), uri="a.wav")
    assert (prepared["round_samples"], prepared["duration_sec"]) == ([16_000], 1.0)
    expected = 16_384 * np.sin(2 * np.pi * 440 / 16_000 * np.arange(16_000))
    assert np.abs(samples_of(prepared) - expected)[100:-100].max() < 200


# ---- tokens


def test_the_text_of_a_round_is_tokenised_as_a_whole(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 3.0)
    turns = [("agent", 0, 1, "ab"), ("customer", 1, 2, " c "), ("agent", 2, 3, "b")]
    prepared = prepare_one(preparer, uri="a.wav", turns=turns)
    assert prepared["tokens"] == [CLS, A, HASH_B, C, SEP, CLS, B, SEP]
    assert prepared["round_tokens"] == [5, 3]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(4, [CLS, A, HASH_B, SEP]), (5, [CLS, A, HASH_B, C, SEP]), (6, [CLS, A, HASH_B, C, SEP])],
)
def test_tokens_are_truncated_and_special_tokens_count(
    limit: int, expected: list[int], make_preparer: MakePreparer, tmp_path: Path
) -> None:
    write(tmp_path / "a.wav")
    prepared = prepare_one(make_preparer(max_text_tokens=limit), uri="a.wav", turns=[("agent", 0, 1, "ab c")])
    assert prepared["tokens"] == expected


def test_a_round_without_text_has_no_tokens(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 4.0)
    turns = [("customer", 0, 1, None), ("agent", 1, 2, "a"), ("customer", 2, 3, ""), ("agent", 3, 4, " \n ")]
    prepared = prepare_one(preparer, uri="a.wav", turns=turns)
    assert (prepared["tokens"], prepared["round_tokens"]) == ([CLS, A, SEP], [0, 3, 0])


def test_a_call_without_turns_has_rounds_without_tokens(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 3.0)
    prepared = prepare_one(preparer, uri="a.wav")
    assert (prepared["tokens"], prepared["round_tokens"], prepared["round_samples"]) == ([], [0, 0], [16_000, 8_000])


# ---- facts, and calls without a rank


TWO_VOICES = [("agent", 0, 2, "a"), ("customer", 3, 5, "b")]


def test_the_facts_of_a_call_are_those_of_its_turns(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 6.0)
    prepared = prepare_one(preparer, uri="a.wav", turns=TWO_VOICES)
    assert prepared["unranked_reason"] is None
    assert prepared["facts"] == {
        "agent_talk_share": 0.5,
        "longest_monologue_sec": 2.0,
        "customer_reply_delay_sec": 1.0,
        "interruptions": 0,
        "silence_share": pytest.approx(1 / 3),
        "turns_per_min": 20.0,
    }


def test_the_facts_of_a_real_call_without_turns_are_much_like_those_of_its_turns(
    make_preparer: MakePreparer, recordings: Path, tmp_path: Path
) -> None:
    preparer = Preparer(PrepareConfig(), make_preparer().processor, str(recordings))
    turns = json.loads((recordings / "auto_repairs_40.turns.json").read_text())
    named = [tuple(turn[name] for name in ("speaker", "start_sec", "end_sec", "text")) for turn in turns]
    call = {"uri": "auto_repairs_40.flac", "agent_channel": 0}
    by_turns, by_channels = (prepare_one(preparer, **call, turns=each)["facts"] for each in (named, None))
    # The transcript has many of the customer's turns begin a second or two after the voice; the channels do not.
    for name, tolerance in (("agent_talk_share", 0.05), ("silence_share", 0.1), ("customer_reply_delay_sec", 1.0)):
        assert by_channels[name] == pytest.approx(by_turns[name], abs=tolerance), name
    without_roles = prepare_one(preparer, uri=call["uri"])["facts"]
    assert without_roles == {**by_channels, "agent_talk_share": None, "customer_reply_delay_sec": None}


def test_one_channel_without_turns_has_no_facts(preparer: Preparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 3.0)
    assert prepare_one(preparer, uri="a.wav")["facts"] is None


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"turns": TWO_VOICES}, None),
        ({"turns": TWO_VOICES, "Do_Not_Call": True}, "do_not_call"),
        ({"turns": TWO_VOICES, "consent": "no"}, "no_consent"),
        ({"turns": TWO_VOICES, "Do_Not_Call": False, "consent": "yes"}, None),
        ({"turns": TWO_VOICES[:1], "consent": "no"}, "no_consent"),
        ({"turns": TWO_VOICES[:1]}, "no_conversation"),
        ({"turns": [("agent", 0, 2, "a"), ("customer", 3, 3.5, "b")]}, "too_little_evidence"),
    ],
)
def test_a_call_without_a_rank_is_prepared_with_the_reason(
    row: dict[str, Any], reason: str | None, preparer: Preparer, tmp_path: Path
) -> None:
    write(tmp_path / "a.wav", 6.0)
    flags = {"Do_Not_Call": row.pop("Do_Not_Call", None), "consent": row.pop("consent", None)}
    batch = calls({"uri": "a.wav", **row})
    batch = batch.append_column("Do_Not_Call", pa.array([flags["Do_Not_Call"]], pa.bool_()))
    batch = batch.append_column("consent", pa.array([flags["consent"]], pa.string()))
    [prepared] = preparer.prepare_batch(batch, PASSTHROUGH).to_pylist()
    assert (prepared["status"], prepared["unranked_reason"]) == (None, reason)
    assert sum(prepared["round_samples"]) > 0


def test_a_consent_that_is_not_understood_rejects_the_call_before_anything_is_fetched(preparer: Preparer) -> None:
    batch = calls({"uri": "missing.wav"}).append_column("consent", pa.array(["perhaps"]))
    [prepared] = preparer.prepare_batch(batch, PASSTHROUGH).to_pylist()
    assert (prepared["error_code"], prepared["unranked_reason"]) == ("bad_row", None)
    assert prepared["error_detail"] == "consent cannot be understood; it must be true, false, 1, 0, yes, no or null"


def test_the_thresholds_of_a_conversation_are_options(make_preparer: MakePreparer, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 6.0)
    strict = ConversationConfig(min_customer_sec=2.5)
    preparer = Preparer(PrepareConfig(), make_preparer().processor, str(tmp_path), strict)
    assert prepare_one(preparer, uri="a.wav", turns=TWO_VOICES)["unranked_reason"] == "too_little_evidence"


# ---- batches


NESTED = pa.struct([("name", pa.string()), ("numbers", pa.list_(pa.int32()))])
EXTRA = {
    "started_at": pa.array([0, None, 2], pa.timestamp("us", "UTC")),
    "nested": pa.array([{"name": "x", "numbers": [1, None]}, None, {"name": None, "numbers": None}], NESTED),
    "weights": pa.array([[1.0], [], None], pa.large_list(pa.float32())),
    "blob": pa.array([b"\xff", None, b""], pa.binary()),
    "nothing": pa.nulls(3),
    "status": pa.array([None, "x", "y"]).dictionary_encode(),
}


def three_calls(folder: Path) -> pa.Table:
    """Make calls of one second, with a missing recording and of half a second, with further columns of many types."""
    write(folder / "long.wav")
    write(folder / "short.wav", 0.5)
    turns = [("agent", 0, 0.25, "a")]
    batch = calls({"uri": "long.wav", "turns": turns}, {"uri": "missing.wav"}, {"uri": "short.wav", "turns": turns})
    for name, column in EXTRA.items():
        batch = batch.append_column(f"their_{name}", column)
    return batch


def test_passthrough_columns_are_unchanged(preparer: Preparer, tmp_path: Path) -> None:
    batch = three_calls(tmp_path)
    passthrough = [*PASSTHROUGH, *(f"their_{name}" for name in EXTRA)]
    assert preparer.prepare_batch(batch, passthrough).select(passthrough).equals(batch.select(passthrough))


def test_the_result_has_the_passthrough_columns_and_the_declared_ones(preparer: Preparer, tmp_path: Path) -> None:
    batch = three_calls(tmp_path)
    prepared = preparer.prepare_batch(batch, ["call_id", "their_nested"])
    assert prepared.schema == pa.schema([pa.field("call_id", pa.string()), pa.field("their_nested", NESTED), *PREPARED])
    prepared.validate(full=True)


def test_a_call_is_prepared_the_same_alone_and_in_a_batch(preparer: Preparer, tmp_path: Path) -> None:
    batch = three_calls(tmp_path)
    whole = preparer.prepare_batch(batch, PASSTHROUGH)
    for row in range(3):
        assert preparer.prepare_batch(batch.slice(row, 1), PASSTHROUGH).to_pylist() == whole.slice(row, 1).to_pylist()


def test_a_batch_in_several_chunks_is_prepared_like_one(preparer: Preparer, tmp_path: Path) -> None:
    batch = three_calls(tmp_path)
    chunked = pa.concat_tables([batch.slice(0, 1), batch.slice(1)])
    assert chunked["uri"].num_chunks == 2
    assert (
        preparer.prepare_batch(chunked, PASSTHROUGH).to_pylist()
        == preparer.prepare_batch(batch, PASSTHROUGH).to_pylist()
    )


@pytest.mark.parametrize("batch", [CALLS.empty_table(), calls({"uri": "a"}).slice(0, 0)], ids=["no_chunks", "a_slice"])
def test_a_batch_without_rows_has_all_columns(batch: pa.Table, preparer: Preparer) -> None:
    prepared = preparer.prepare_batch(batch, PASSTHROUGH)
    assert prepared.num_rows == 0
    assert prepared.schema.names == [*PASSTHROUGH, *PREPARED.names]


def test_a_batch_of_rejects_is_prepared(preparer: Preparer) -> None:
    prepared = preparer.prepare_batch(calls({"uri": "x.wav"}, {"uri": "y.wav"}), PASSTHROUGH)
    assert prepared["error_code"].to_pylist() == ["audio_not_found"] * 2
    prepared.validate(full=True)
