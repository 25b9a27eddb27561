"""The table of lanes in docs/clusters.md is the one that the code makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncjobs.lanes.comparison import LANES, table
from asyncjobs.options import NAMES

PAGE = Path(__file__).resolve().parents[1] / "docs" / "clusters.md"


def test_the_table_of_lanes_is_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    found = text.partition("<!-- table: lanes -->")[2].partition("<!-- end of table -->")[0].strip()
    assert found == table(), "copy the output of asyncjobs.lanes.comparison.table() there"


@pytest.mark.parametrize("lane", LANES)
def test_every_option_that_a_lane_refuses_exists_and_has_an_advice(lane: str) -> None:
    unsupported = LANES[lane].unsupported
    assert set(unsupported) <= set(NAMES)
    assert all(len(advice) > 20 for advice in unsupported.values())


@pytest.mark.parametrize("lane", LANES)
def test_a_lane_refuses_resources_exactly_where_it_says_that_it_has_none(lane: str) -> None:
    assert ("resources" in LANES[lane].unsupported) is (LANES[lane].resources == "no")
