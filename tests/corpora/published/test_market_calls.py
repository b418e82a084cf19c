from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from msmtfn.corpora.published.corpus import CorpusFormatError
from msmtfn.corpora.published.market_calls import read_market_calls, split_by_phone
from tests.corpora.published.layouts import write_csv, write_market_calls

ROW = {"phone": "1", "Audio_id": "a", "Segment_number": "1", "text": "t", "label": "A"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030"])
def test_the_intent_of_a_call_is_the_label_of_its_first_row(tmp_path: Path, encoding: str) -> None:
    write_market_calls(tmp_path, encoding=encoding)
    corpus = read_market_calls(tmp_path)
    intents = [call.columns["intent"] for call in corpus.conversations]

    assert "".join(intents) == "E" + "BCD" + 4 * "ABCD"  # the rows of the first call begin with its second segment
    assert [each.name for each in corpus.conversations[0].utterances] == ["1", "2"]
    assert corpus.conversations[0].utterances[1].text == "您好 2"
    assert corpus.conversations[0].utterances[1].clip == tmp_path / "wav" / "13900000000-0_2.wav"


def test_no_phone_number_is_kept(tmp_path: Path) -> None:
    write_market_calls(tmp_path)
    corpus = read_market_calls(tmp_path)
    kept = [(call.call_id, sorted(call.columns.items())) for call in corpus.conversations]

    assert "1390000" not in repr(kept)
    assert [call.columns["customer_id"] for call in corpus.conversations[:3]] == [
        "customer-0001",
        "customer-0001",
        "customer-0002",
    ]


def test_the_calls_of_a_phone_are_in_one_split() -> None:
    phones = [str(call % 400) for call in range(877)]
    splits = split_by_phone(phones)

    assert Counter(splits) == {"training": 701, "validation": 88, "test": 88}
    assert len(set(zip(phones, splits, strict=True))) == 400
    assert splits == split_by_phone(phones)


def test_calls_without_a_phone_are_customers_of_their_own(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [ROW | {"phone": "", "Audio_id": name} for name in "abc"])
    customers = [call.columns["customer_id"] for call in read_market_calls(tmp_path).conversations]
    assert customers == ["customer-0001", "customer-0002", "customer-0003"]


def test_numbers_that_differ_from_the_published_ones_are_named(tmp_path: Path) -> None:
    write_market_calls(tmp_path)
    differences = read_market_calls(tmp_path).differences
    assert differences[:3] == [
        "MarketCalls: 20 calls are here, 877 were published",
        "MarketCalls: 40 segments are here, 2,942 were published",
        "MarketCalls: 16 training calls are here, 701 were published",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW | {"label": "F"}], "label other than A to E in the first row of its 1th call"),
        ([ROW, ROW], "has segment 1 of the 1th call twice"),
        ([ROW | {"Segment_number": "one"}], "Segment_number 'one', which is no whole number"),
    ],
)
def test_a_wrong_table_is_an_error(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(CorpusFormatError, match=message):
        read_market_calls(tmp_path)


def test_two_tables_are_an_error(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        write_csv(tmp_path / name, [ROW])
    with pytest.raises(CorpusFormatError, match="has 2 CSV files; it must have one"):
        read_market_calls(tmp_path)
