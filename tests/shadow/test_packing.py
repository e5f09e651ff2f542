import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadow.packing import pack_histogram, unpack_histogram
from shadow.quantiles import Histogram


@given(st.lists(st.floats(-1e6, 1e6), max_size=60))
def test_a_histogram_survives(values):
    histogram = Histogram(signed=True)
    for value in values:
        histogram.update(value)
    back = unpack_histogram(json.loads(json.dumps(pack_histogram(histogram))))
    assert back.to_dict() == histogram.to_dict()
    assert (back.n, back.least, back.most) == (histogram.n, histogram.least, histogram.most)
    back.update(1.0)
    assert back.n == histogram.n + 1


def test_one_that_has_seen_everything_is_small():
    histogram = Histogram(low_exponent=-10, high_exponent=30)
    for bucket in range(len(histogram.counts)):
        histogram.counts[bucket] = (bucket * 7919) % 100_000
    histogram.n, histogram.least, histogram.most = sum(histogram.counts), 0.0, 1e9
    assert len(json.dumps(histogram.to_dict())) > 60_000
    assert len(json.dumps(pack_histogram(histogram))) < 25_000


@pytest.mark.parametrize("packed", ["", "AAAA", "not base64!", "eJwDAAAAAAE="])
def test_what_is_no_histogram_is_refused(packed):
    with pytest.raises(ValueError, match=r"histogram|base64|padding"):
        unpack_histogram({**pack_histogram(Histogram()), "packed": packed})
