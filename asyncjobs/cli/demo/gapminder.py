"""Read the gapminder table that ships inside the plotly package, for one year.

The csv module is enough: `plotly.data.gapminder` would ask for pandas.
"""

from __future__ import annotations

import csv
import gzip
import math
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray


class Country(NamedTuple):
    """One country in one year."""

    name: str
    continent: str
    income: float
    """Gross domestic product per person and year, in dollars corrected for inflation."""
    life: float
    """Life expectancy at birth, in years."""
    population: int


class Standardised(NamedTuple):
    """Values shifted and scaled to mean 0 and standard deviation 1, with the way back."""

    values: NDArray[float64]
    mean: float
    deviation: float


def read(year: int = 2007) -> list[Country]:
    """The 142 countries of `year`; every fifth year from 1952 to 2007 is there.

    Raises:
        ValueError: the table has no such year.
    """
    path = resources.files("plotly") / "package_data" / "datasets" / "gapminder.csv.gz"
    with path.open("rb") as packed, gzip.open(packed, "rt", encoding="utf-8", newline="") as lines:
        countries = [_country(row) for row in csv.DictReader(lines) if row["year"] == str(year)]
    if not countries:
        raise ValueError(f"the table has no year {year}; it has every fifth from 1952 to 2007")
    return countries


def _country(row: dict[str, str]) -> Country:
    return Country(row["country"], row["continent"], float(row["gdpPercap"]), float(row["lifeExp"]), int(row["pop"]))


def standardise(values: list[float]) -> Standardised:
    """Shift and scale `values` to mean 0 and standard deviation 1; shape ``(n,)``."""
    import numpy as np

    array = np.asarray(values, dtype=np.float64)
    mean, deviation = float(array.mean()), float(array.std())
    return Standardised((array - mean) / deviation, mean, deviation)


def log_income(country: Country) -> float:
    """Income on a scale on which each doubling counts the same; its natural logarithm."""
    return math.log(country.income)
