"""A user's own comparison: loaded by name, given JSON or bytes, and never able to stop the shadow."""

import gzip
import sys

import numpy as np
import pytest

from models.predictions.prediction import Options, Reason, Unreadable, Wire
from shadow.compare import Comparison, Outcome
from shadow.custom import Failure, UnusableComparison, answer_of, compare_with, load_comparison

MODULE = """
def same_top(blue, green):
    return blue["top"] == green["top"]

class Strict:
    @staticmethod
    def judge(blue, green):
        return blue == green

threshold = 5
"""


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A module of the user's beside his configuration file."""
    (tmp_path / "my_comparison.py").write_text(MODULE)
    (tmp_path / "my_broken.py").write_text("raise SystemExit('no licence')")
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("my_comparison", "my_broken"):
        sys.modules.pop(name, None)


class TestLoading:
    def test_a_function_beside_the_configuration(self, own_module):
        own = load_comparison("my_comparison:same_top", own_module)
        assert compare_with(own, {"top": 1, "x": 1}, {"top": 1, "x": 2}).agree
        assert not compare_with(own, {"top": 1}, {"top": 2}).agree
        assert load_comparison("my_comparison:Strict.judge")(1, 1)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("my_comparison", "write it as 'module:function'"),
            (":f", "write it as 'module:function'"),
            ("my_comparison:", "write it as 'module:function'"),
            ("no_such_module_here:f", "cannot import 'no_such_module_here': ModuleNotFoundError"),
            ("my_broken:f", "cannot import 'my_broken': SystemExit: no licence"),
            ("my_comparison:nothing", "has no function 'nothing'"),
            ("my_comparison:threshold", "has no function 'threshold'"),
            ("my_comparison:Strict.missing.more", "has no function"),
        ],
    )
    def test_what_cannot_be_used(self, own_module, name, said):
        with pytest.raises(UnusableComparison, match=said):
            load_comparison(name, own_module)


class TestWhatItGets:
    def wire(self, body, status=200, **headers):
        return Wire("POST", "/x", {}, b"", status, {k.replace("_", "-"): v for k, v in headers.items()}, body)

    def test_json_or_bytes_without_their_coding(self):
        assert answer_of(self.wire(b'{"a": [1]}')) == {"a": [1]}
        assert answer_of(self.wire(b"\x89PNG")) == b"\x89PNG"
        assert answer_of(self.wire(gzip.compress(b"[1]"), content_encoding="gzip")) == [1]

    def test_what_is_no_answer(self):
        for wire, reason in (
            (self.wire(b"[1]", 500), Reason.STATUS),
            (self.wire(b"[1]", content_encoding="gzip"), Reason.ENCODING),
        ):
            with pytest.raises(Unreadable) as refused:
                answer_of(wire)
            assert refused.value.reason is reason
        with pytest.raises(Unreadable) as refused:
            answer_of(self.wire(b"[1, 2, 3]"), Options(max_decoded=4))
        assert refused.value.reason is Reason.TOO_LARGE


class TestJudgements:
    @pytest.mark.parametrize(
        ("returned", "agree", "similarity"),
        [
            (True, True, 1),
            (False, False, 0),
            (0.95, True, 0.95),
            (0.5, False, 0.5),
            (1, True, 1),
            (np.bool_(True), True, 1),
            (np.float32(0.5), False, 0.5),
            ({"agree": True}, True, 1),
            ({"similarity": 0.95}, True, 0.95),
            ({"agree": False, "similarity": 0.99, "reason": "unit"}, False, 0.99),
            ({"agree": np.bool_(False)}, False, 0),
        ],
    )
    def test_what_may_be_returned(self, returned, agree, similarity):
        found = compare_with(lambda blue, green: returned, 1, 2)
        assert isinstance(found, Comparison)
        assert (found.agree, found.similarity, found.items, found.kind) == (agree, pytest.approx(similarity), 1, None)
        assert found.outcome is (Outcome.AGREE if agree else Outcome.DISAGREE)
        assert (found.reason is None) == agree

    def test_reasons_and_measures(self):
        found = compare_with(lambda b, g: {"agree": False, "reason": "another unit", "measures": {"mm": np.int64(5)}}, 1, 2)
        assert (found.reason, found.measures) == ("another unit", {"mm": 5.0})
        assert compare_with(lambda b, g: False, 1, 2).reason == "your comparison says so"

    def test_the_floor(self):
        assert compare_with(lambda b, g: 0.6, 1, 2, similarity_floor=0.5).agree

    @pytest.mark.parametrize(
        "returned",
        [
            None,
            "yes",
            "0.5",
            1.5,
            -0.1,
            float("nan"),
            [True],
            {},
            {"agre": True},
            {"agree": 1},
            {"agree": True, "similarity": 2},
            {"agree": True, "measures": [1]},
            {"agree": True, "measures": {"x": "much"}},
            {"agree": True, "measures": {5: 1.0}},
            np.array([True, False]),
        ],
    )
    def test_what_is_no_judgement(self, returned):
        found = compare_with(lambda blue, green: returned, 1, 2)
        assert isinstance(found, Failure)
        assert found.reason.startswith("returned ")

    def test_what_raises(self):
        def leaves(blue, green):
            sys.exit("bye")

        def forgets(blue, green):
            return blue["top"]

        def digs(blue, green):
            return digs(blue, green)

        assert compare_with(leaves, 1, 2) == Failure("SystemExit: bye")
        assert compare_with(forgets, {}, {}) == Failure("KeyError: 'top'")
        assert compare_with(digs, 1, 2).reason.startswith("RecursionError")

    def test_what_cannot_even_be_shown(self):
        class Rude(Exception):
            def __str__(self):
                raise ValueError

            def __repr__(self):
                raise ValueError

        def rude(blue, green):
            raise Rude

        assert compare_with(rude, 1, 2) == Failure("Rude")
        assert isinstance(compare_with(lambda b, g: Rude(), 1, 2), Failure)
