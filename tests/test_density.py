"""The Parzen kernels: the published table to the digit, and the right formula beside it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from asyncjobs.bench import density


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    return density.gaussian_samples()


def test_the_samples_are_those_of_the_seeded_global_generator(samples: np.ndarray) -> None:
    before = np.random.get_state()
    np.random.seed(123)
    expected = np.random.multivariate_normal([0, 0], [[1, 0], [0, 1]], 10_000)
    np.random.set_state(before)
    assert np.array_equal(samples, expected)


def test_drawing_samples_leaves_the_global_generator_alone() -> None:
    np.random.seed(7)
    expected = np.random.random()
    np.random.seed(7)
    density.gaussian_samples(10)
    assert np.random.random() == expected


@pytest.mark.slow
@pytest.mark.parametrize("width", density.PUBLISHED)
def test_the_published_table_is_reproduced_to_the_digit(samples: np.ndarray, width: float) -> None:
    estimate = density.published_estimate(samples, width)
    assert f"{estimate:.12g}" == f"{density.PUBLISHED[width]:.12g}"


@pytest.mark.parametrize("width", density.PUBLISHED)
def test_the_right_estimate_divides_by_the_width_once_more(samples: np.ndarray, width: float) -> None:
    published = density.PUBLISHED[width]
    assert density.parzen_estimate(samples, width) == pytest.approx(published / width, rel=1e-11)


def test_only_the_right_estimate_settles_at_the_true_density(samples: np.ndarray) -> None:
    widths = [0.2, 0.4, 0.6]
    right = [density.parzen_estimate(samples, width) for width in widths]
    published = [density.published_estimate(samples, width) for width in widths]
    assert right == pytest.approx([density.TRUE_DENSITY] * 3, rel=0.05)
    assert all(value < 0.6 * density.TRUE_DENSITY for value in published)


def test_in_one_dimension_both_estimates_agree() -> None:
    samples = np.random.RandomState(1).normal(size=(2_000, 1))
    point = density.origin(1)
    right = density.parzen_estimate(samples, 0.5, point)
    assert right == density.published_estimate(samples, 0.5, point)
    assert right == pytest.approx((2 * np.pi) ** -0.5, rel=0.1)


@pytest.mark.parametrize(
    ("sample", "inside"),
    [
        ([0.0, 0.0], 1),
        ([0.5, -0.5], 1),
        ([0.5000001, 0.0], 0),
        ([0.0, -0.5000001], 0),
        ([3.0, 0.0], 0),
    ],
)
def test_the_surface_of_the_window_counts_as_inside(sample: list[float], inside: int) -> None:
    assert density.samples_inside(np.array([sample]), 1.0, density.origin()) == inside


def test_the_window_moves_with_the_point() -> None:
    samples = np.array([[2.0, 3.0], [2.4, 3.4], [0.0, 0.0]])
    point = np.array([[2.0], [3.0]])
    assert density.samples_inside(samples, 1.0, point) == 2
    assert density.parzen_estimate(samples, 2.0, point) == pytest.approx(2 / 3 / 4)


def test_the_benchmark_runs_a_hundred_widths_from_one_to_one_point_two() -> None:
    widths = density.benchmark_widths()
    assert (len(widths), widths[0], widths[-1]) == (100, 1.0, 1.2)
    assert np.allclose(np.diff(widths), 0.2 / 99)
    assert all(type(width) is float for width in widths)


def test_importing_the_module_does_not_load_numpy() -> None:
    # The command line imports it, and `asyncjobs doctor` must work where numpy is missing.
    program = "import sys, asyncjobs.bench.density; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
