from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.rollout.records import NO_HASH, broken_link, canonical, chained, trimmed

DOCUMENTS = st.dictionaries(
    st.text(max_size=5), st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), max_size=4
)


def chain(*documents: dict[str, Any]) -> list[dict[str, Any]]:
    found, previous = [], NO_HASH
    for number, document in enumerate(documents, start=1):
        document = {**document, "number": number}
        found.append({"number": number, "previous": previous, "hash": chained(previous, document), "document": document})
        previous = found[-1]["hash"]
    return found


def test_a_hash_is_what_the_manual_says() -> None:
    text = "0" * 64 + '\n{"number":1,"outcome":"done"}'
    assert chained(NO_HASH, {"outcome": "done", "number": 1}) == hashlib.sha256(text.encode()).hexdigest()


@given(DOCUMENTS)
@settings(deadline=None, max_examples=50)
def test_a_document_has_the_same_hash_after_it_was_sent(document: dict[str, Any]) -> None:
    assert canonical(json.loads(json.dumps(document))) == canonical(document)


@given(st.lists(DOCUMENTS, max_size=5))
@settings(deadline=None, max_examples=50)
def test_a_whole_chain_is_whole(documents: list[dict[str, Any]]) -> None:
    assert broken_link(chain(*documents)) is None
    assert broken_link(json.loads(json.dumps(chain(*documents)))) is None


@given(st.lists(DOCUMENTS, min_size=1, max_size=5), st.data())
@settings(deadline=None, max_examples=50)
def test_nothing_can_be_changed_unseen(documents: list[dict[str, Any]], data: st.DataObject) -> None:
    records = chain(*documents)
    at = data.draw(st.integers(0, len(records) - 1))
    records[at]["document"]["why"] = "another reason"
    assert f"record {at + 1} is not what it was" in (broken_link(records) or "")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda records: records.pop(0), "record 2 does not follow the beginning"),
        (lambda records: records.pop(1), "record 3 does not follow record 1"),
        (lambda records: records.reverse(), "record 3 does not follow the beginning"),
        (lambda records: records[1].update(hash="0" * 64), "record 2 is not what it was"),
        (lambda records: records[2].update(number=9), "record 9 holds the document of rollout 3"),
    ],
)
def test_nothing_can_be_taken_away_or_moved_unseen(spoil: Any, words: str) -> None:
    records = chain({"a": 1}, {"b": 2}, {"c": 3})
    spoil(records)
    assert (broken_link(records) or "").startswith(words)


def test_pictures_are_left_out_of_the_evidence() -> None:
    evidence = {"pairs": 3, "latency": {"paired": {"n": 1, "curve": [1, 2]}}, "numbers": {"histogram": {}, "n": 2}, "state": {}}
    assert trimmed(evidence) == {"pairs": 3, "latency": {"paired": {"n": 1}}, "numbers": {"n": 2}}
