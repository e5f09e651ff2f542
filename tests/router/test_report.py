"""The report as text. How it looks was looked at in a browser; what it says is held here."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from router.report import render_report, write_report
from router.report_style import SCRIPT, STYLE
from shadow.evidence import Evidence, EvidenceOptions
from shadow.observation import Observation, Outcome

SCRIPT_TAG = "<script>alert(1)</script>"


def observation(number: int, green_label: Any, *, country: str = "de", path: str = "/v2/models/m/infer") -> Observation:
    def answer(label: Any, ms: float) -> Outcome:
        output = {"name": "predict", "shape": [1], "datatype": "BYTES", "data": [label]}
        return Outcome(200, {"content-type": "application/json"}, json.dumps({"outputs": [output]}).encode(), ms / 2, ms)

    return Observation(
        release=1, revision=1, request_id=f"r{number}", started=1.7e9 + number, method="POST", path=path,
        request_headers={"x-country": country}, request_body=b'{"inputs": []}', live="blue",
        blue=answer("cat", 5.0), green=answer(green_label, 9.0), again=answer("cat", 5.0 + number % 3),
    )  # fmt: skip


@pytest.fixture(scope="module")
def documents() -> dict[str, Any]:
    """What the control API would answer: evidence, status, history, pairs."""
    evidence = Evidence(1, EvidenceOptions(slices=("header:x-country",), floor=0.98))
    for number in range(150):
        evidence.observe(observation(number, "dog" if number % 5 == 0 else "cat"))
    evidence.observe(observation(999, SCRIPT_TAG, country=SCRIPT_TAG, path=f"/{SCRIPT_TAG}"))
    evidence.drop("too many in flight", 7)
    records = evidence.take_records(0.0)
    snapshot = {
        **evidence.snapshot(1.7e9),
        "arms": {"blue": {"name": "iris-v1", "servers": []}, "green": {"name": f"iris-v2{SCRIPT_TAG}", "servers": []}},
        "verdict": {"verdict": "rollback", "reasons": [f"agreement is below 98 % {SCRIPT_TAG}"],
                    "gates": [{"name": "agreement", "state": "fail", "n": 151, "more": None, "detail": "below 0.98"}]},
    }  # fmt: skip
    history = [{"id": 1, "when": 1.7e9, "action": "start", "who": f"anna {SCRIPT_TAG}", "why": "first plan"}]
    status = {"split": {"green_percent": 5}, "shadow": {"percent": 100, "noise_percent": 20}}
    return {"evidence": snapshot, "status": status, "history": history, "pairs": records[::-1]}


@pytest.fixture(scope="module")
def page(documents: dict[str, Any]) -> str:
    return render_report(**documents, now=1.7e9 + 60)


def without_library(page: str) -> str:
    """The page without Plotly's own script, which is four megabytes of somebody else's text."""
    scripts = re.findall(r"<script>.*?</script>", page, re.DOTALL)
    return page.replace(max(scripts, key=len), "")


class Reader(HTMLParser):
    """Tags that are opened and closed, and what they load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.alerts = 0
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.alerts += "alert(1)" in data and "data-figure" not in data and '"layout"' not in data
        else:
            self.text.append(data)


def test_the_page_is_whole_and_loads_nothing(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.loaded == []
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", without_library(page))


def test_nothing_from_traffic_or_people_is_markup(page: str) -> None:
    reader = Reader()
    reader.feed(page)
    assert reader.alerts == 0
    assert SCRIPT_TAG not in without_library(page)
    text = "".join(reader.text)
    for where in (
        f"iris-v2{SCRIPT_TAG}",
        f"agreement is below 98 % {SCRIPT_TAG}",
        f"anna {SCRIPT_TAG}",
        f'green "{SCRIPT_TAG}"',
    ):
        assert where in text


def test_the_page_says_what_was_found(page: str, documents: dict[str, Any]) -> None:
    reader = Reader()
    reader.feed(page)
    text = " ".join("".join(reader.text).split())
    for sentence in documents["evidence"]["summary"]:
        assert " ".join(sentence.split()) in text
    for words in (
        "Green should be taken back",
        "iris-v1",
        "release 1; written 2023-11-14 22:14:20 UTC",
        "below 0.98",
        "different label: blue \"cat\", green \"dog\"",
        "too many in flight",
        "first plan",
        "exact Bernoulli confidence sequence",
        "green had 5 % of live traffic",
    ):  # fmt: skip
        assert words in text, words


def test_each_figure_has_its_data_and_a_caption(page: str) -> None:
    shown = re.findall(r'data-figure="(figure-[a-z_]+)"', page)
    assert len(shown) >= 5
    for name in shown:
        (data,) = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', page)
        assert "<" not in data
        assert set(json.loads(data)) >= {"data", "layout"}


def test_twenty_disagreements_at_most(documents: dict[str, Any]) -> None:
    page = render_report(**documents)
    assert page.count("<details>") == 20
    assert len([pair for pair in documents["pairs"] if not pair["agree"]]) > 20


def test_a_report_of_nothing_claims_nothing() -> None:
    nothing = {"n": 0, "rate": None, "ci": [0.0, 1.0]}
    bare = {"release": 1, "pairs": 0, "dropped": 0, "agreement": nothing, "noise": nothing, "latency": {}, "errors": {}}
    for evidence in (bare, Evidence(1, EvidenceOptions()).snapshot(0.0)):
        page = render_report(evidence)
        reader = Reader()
        reader.feed(page)
        text = "".join(reader.text)
        assert "Hold: not decided yet" in text
        assert "There is nothing yet." in text
        assert "No pair that disagrees is kept." in text
        assert "may be promoted" not in text


def test_the_file_is_written_whole_or_not_at_all(documents: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(path, **documents)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(OSError, match="missing"):
        write_report(tmp_path / "missing" / "report.html", **documents)
    broken = {**documents["evidence"], "agreement": None}
    with pytest.raises(TypeError):
        write_report(path, broken)
    assert path.read_text(encoding="utf-8").endswith("</html>\n")


def test_light_and_dark_have_the_same_colours_by_name() -> None:
    light, dark = (set(re.findall(r"(--[a-z]+):", part)) for part in STYLE.split("@media (prefers-color-scheme: dark)")[:2])
    assert light == dark
    assert set(re.findall(r'css\("(--[a-z]+)"\)', SCRIPT)) <= light
    assert set(re.findall(r"var\((--[a-z]+)\)", STYLE)) <= light
