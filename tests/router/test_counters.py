from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router import counters as c
from router.counters import CounterPage, bin_bounds, bin_of, release_counts, sum_arm
from router.errors import StartError

BLUE, GREEN = 0, 1


def page(folder: Path, slot: int = 0) -> CounterPage:
    return CounterPage(folder / f"{slot}.page", writable=True)


@given(st.integers(0, 2**41 - 1))
def test_a_latency_lies_in_the_bounds_of_its_bin(microseconds: int) -> None:
    low, high = bin_bounds(bin_of(microseconds))
    assert low <= microseconds < high
    assert high - low <= max(1, microseconds / 16)


@given(st.integers(0, c.HISTOGRAM_WORDS - 2))
def test_bins_follow_each_other_without_gaps(position: int) -> None:
    assert bin_bounds(position)[1] == bin_bounds(position + 1)[0]
    assert bin_of(bin_bounds(position)[0]) == position
    assert bin_of(bin_bounds(position)[1] - 1) == position


@pytest.mark.parametrize("microseconds", [-5, 0])
def test_no_time_at_all_is_the_first_bin(microseconds: int) -> None:
    assert bin_of(microseconds) == 0


def test_ages_end_in_the_last_bin() -> None:
    assert bin_of(2**60) == c.HISTOGRAM_WORDS - 1


@given(
    latencies=st.lists(st.integers(1, 10**7), min_size=1, max_size=300),
    level=st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]),
)
def test_a_quantile_is_right_to_within_a_sixteenth(
    tmp_path_factory: pytest.TempPathFactory, latencies: list[int], level: float
) -> None:
    one = page(tmp_path_factory.mktemp("counters"))
    for microseconds in latencies:
        one.words[c.HISTOGRAM_BASE[GREEN] + bin_of(microseconds)] += 1
    exact = sorted(latencies)[max(0, -int(-level * len(latencies) // 1) - 1)]
    found = sum_arm([one], GREEN).quantile(level)
    one.close()
    assert found is not None
    assert found * 1000 == pytest.approx(exact, rel=1 / 16, abs=1)


def test_no_quantile_of_nothing(tmp_path: Path) -> None:
    assert sum_arm([page(tmp_path)], BLUE).quantile(0.5) is None
    assert sum_arm([], BLUE).requests == 0


def test_arms_are_summed_over_pages_and_kept_apart(tmp_path: Path) -> None:
    pages = [page(tmp_path, 0), page(tmp_path, 1)]
    fields = {
        c.ERRORS: "errors",
        c.FALLBACKS: "fallbacks",
        c.RETRIES: "retries",
        c.IN_FLIGHT: "in_flight",
        c.CONNECT_FAILURES: "connect_failures",
        c.TIMEOUTS: "timeouts",
        c.BROKEN: "broken",
        c.SERVER_ERRORS: "server_errors",
        c.SKIPPED: "skipped",
        c.QUEUED: "queued",
        c.OPENED: "opened",
    }
    for number, one in enumerate(pages, 1):
        for colour in (BLUE, GREEN):
            base = c.COLOUR_BASE[colour]
            for offset in fields:
                one.words[base + offset] = 100 * number + 10 * colour + offset
            for status in range(5):
                one.words[base + c.STATUS + status] = number * 1000 + colour + status
    for colour in (BLUE, GREEN):
        counts = sum_arm(pages, colour)
        for offset, field in fields.items():
            assert getattr(counts, field) == 300 + 20 * colour + 2 * offset, field
        assert counts.statuses == tuple(3000 + 2 * colour + 2 * status for status in range(5))
        assert counts.requests == sum(counts.statuses[1:])  # an interim answer is not a request's answer


def test_counts_outlive_the_process_that_made_them(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from router import counters as c\n"
        "page = c.CounterPage(Path(sys.argv[1]), writable=True); page.words[c.COLOUR_BASE[0] + c.ERRORS] += 7\n"
        "os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "0.page"
    for total in (7, 14):
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
        assert sum_arm([CounterPage(path)], BLUE).errors == total


def test_release_cells_begin_anew_with_each_release(tmp_path: Path) -> None:
    first, second = page(tmp_path, 0), page(tmp_path, 1)
    for one in (first, second):
        cell = one.release_cell(3)
        one.words[cell + 1] += 10
        one.words[cell + 2] += 1
    assert release_counts([first, second], 3) == (20, 2)
    assert release_counts([first, second], 7) == (0, 0)
    cell = first.release_cell(7)  # the same cell, four releases later
    assert (first.words[cell + 1], first.words[cell + 2]) == (0, 0)
    first.words[cell + 1] += 5
    assert release_counts([first, second], 7) == (5, 0)
    assert release_counts([first, second], 3) == (10, 1)


def test_a_page_of_another_layout_is_replaced_by_the_worker_and_refused_by_others(tmp_path: Path) -> None:
    path = tmp_path / "0.page"
    path.write_bytes(b"short")
    with pytest.raises(StartError, match="is not a counter page"):
        CounterPage(path)
    mapped = page(tmp_path)
    assert sum(mapped.words[1:]) == 0
    assert path.stat().st_size == c.PAGE_BYTES
    with pytest.raises(TypeError):
        CounterPage(path).words[c.PID] = os.getpid()


def test_no_page_is_a_clear_refusal(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"cannot open the counter page .*: No such file"):
        CounterPage(tmp_path / "9.page")
