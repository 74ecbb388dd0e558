"""Blocks and their estimates against direct computations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from effkit.measure.blocks import DRAWS, block_means, cuts, exponential, mean_over, percentiles_over, share_over
from effkit.spec.intervals import Estimate, resample, small_sample_stretch


def losses(windows: int = 8, n: int = 255, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).exponential(2.0, size=(windows, n))


@pytest.mark.parametrize("n", [1, 31, 63, 64, 99, 255, 511, 1023])
def test_blocks_are_windows_or_about_64_tokens(n):
    assert cuts(4, n) == [0, n]
    for windows in (1, 2, 3):
        sizes = np.diff(cuts(windows, n))
        assert sizes.sum() == n
        assert sizes.max() - sizes.min() <= 1
        assert n < 48 or 40 <= sizes.min() <= sizes.max() <= 96


def test_no_block_crosses_a_window():
    values = np.repeat(np.arange(6.0)[:, None], 255, axis=1)
    assert block_means(values).tolist() == list(range(6))
    assert block_means(values[:3]).tolist() == [float(w) for w in range(3) for _ in range(4)]


def test_mean_is_the_mean_of_tokens_and_lies_in_its_interval():
    for windows, blocks in ((8, 8), (3, 12)):
        values = losses(windows)
        got = mean_over(values, unit="nats")
        assert got.value == pytest.approx(values.mean(), rel=1e-12)
        assert got.low < got.value < got.high
        assert (got.n, got.unit) == (blocks, "nats")


def test_one_block_has_no_interval():
    assert mean_over(losses(1, 40)).low is None
    assert percentiles_over(losses(1, 40), [0.5])[0].low is None


@pytest.mark.parametrize(("windows", "n", "blocks"), [(12, 64, 12), (3, 256, 12)])
def test_percentiles_and_their_bootstrap_are_numpys(windows, n, blocks):
    """Equal to drawing whole blocks and sorting every draw anew, then stretched for few blocks."""
    values, shares = losses(windows, n), [0.5, 0.9, 0.99]
    got = percentiles_over(values, shares)
    assert [e.value for e in got] == pytest.approx(np.quantile(values, shares).tolist())
    drawn = values.reshape(blocks, 64)[resample(blocks, DRAWS)].reshape(DRAWS, -1)
    plain = np.quantile(np.quantile(drawn, shares, axis=1, method="inverted_cdf"), [0.025, 0.975], axis=1)
    stretch = small_sample_stretch(blocks)
    for estimate, low, high in zip(got, *plain, strict=True):
        assert estimate.low == pytest.approx(max(values.min(), estimate.value - (estimate.value - low) * stretch))
        assert estimate.high == pytest.approx(estimate.value + (high - estimate.value) * stretch)


def test_percentiles_do_not_fall_below_what_was_seen():
    values = np.zeros((4, 128))
    values[:, ::10] = 1.0
    assert percentiles_over(values, [0.5])[0] == Estimate(value=0.0, low=0.0, high=0.0, n=4)


def test_shares_stay_between_nothing_and_all():
    hits = (losses(4, 127) < 4.0).astype(float)
    got = share_over(hits)
    assert 0 <= got.low < got.value < got.high <= 1
    every = share_over(np.ones((4, 127)))
    assert (every.value, every.high) == (1.0, 1.0)
    assert every.low == pytest.approx(1 - 3 / 508)
    assert share_over(np.zeros((4, 127))).high == pytest.approx(3 / 508)


def test_exponential():
    got = exponential(Estimate(value=1.0, low=0.5, high=2.0, n=3))
    assert (got.value, got.low, got.high, got.n) == (math.e, math.exp(0.5), math.exp(2.0), 3)
    assert exponential(Estimate(value=5000.0)).value is None
    assert exponential(Estimate.unavailable()).value is None
