"""Intervals over images of a scan, against the same numbers from the table of tokens."""

import numpy as np
import pyarrow.parquet as pq
import pytest

import vitreg
from vitreg.analysis.verdict.over_images import ends

pytestmark = pytest.mark.usefixtures("planted_once", "blank_figures", "undrawn")


@pytest.fixture(scope="module")
def scans(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("scans")
    # Any detector does, and the confidence of the verdict is not looked at.
    words = {"limit": 24, "tokens": True, "intervals": True, "detector": "mad", "resamples": 5, "power": False}
    return {
        kind: (vitreg.scan(f"planted:{kind}", list(map(str, photographs)), out=out / kind, **words), out / kind)
        for kind in ("high-norm", "global-registers")
    }


def by_image(table):
    """Norms of the last block's patches, [images, patches]."""
    last = table[table["layer"] == table["layer"].max()]
    patches = last[last["role"] == "patch"]
    return np.stack([each["norm"].to_numpy() for _, each in patches.groupby("image", observed=True)])


def test_share_and_ratio_of_the_last_block_are_those_of_resampled_images(scans):
    result, folder = scans["high-norm"]
    last, found = result.layers[-1], result.over_images
    norms = by_image(pq.read_table(folder / "tokens.parquet").to_pandas())
    draw = np.random.default_rng(5)
    shares, ratios = [], []
    for _ in range(400):
        picked = norms[draw.integers(0, len(norms), len(norms))].ravel()
        outside = picked >= last.threshold
        shares.append(outside.mean())
        ratios.append(np.median(picked[outside]) / np.median(picked[~outside]))
    spread = np.std(shares)
    assert found.share == pytest.approx(np.quantile(shares, (0.025, 0.975)), abs=0.6 * spread)
    assert found.ratio == pytest.approx(np.quantile(ratios, (0.025, 0.975)), rel=0.02)
    assert found.share[0] < last.outlier_fraction < found.share[1]
    assert found.ratio[0] <= last.ratio <= found.ratio[1]
    assert found.found == 1.0
    assert found.first == (result.verdict.first_layer, result.verdict.first_layer)
    assert found.longest_register is None


def test_registers_have_an_interval_where_there_are_no_outliers_too(scans):
    result, _ = scans["global-registers"]
    found, last = result.over_images, result.layers[-1]
    assert (found.share, found.first, found.found) == (None, None, None)
    low, high = found.longest_register
    assert low <= max(last.register_norms) / last.median <= high
    assert high - low < 0.2 * low


def test_none_is_given_unless_asked_for_or_of_three_images(photographs):
    images = list(map(str, photographs))
    assert vitreg.scan("planted:clean", images[:4], power=False).over_images is None
    assert vitreg.scan("planted:clean", images[:3], power=False, intervals=True).over_images is None


def test_ends_are_numbers_of_resamples():
    """Of 100 numbers two lie outside on each side, at least 95 % between."""
    values = np.arange(100.0)
    low, high = ends(values)
    assert (low, high) == (2.0, 97.0)
    assert ((values >= low) & (values <= high)).mean() >= 0.95
    assert ends([12.0] * 98 + [3.0, 4.0]) == (12.0, 12.0)
