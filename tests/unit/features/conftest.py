"""Extraction on one thread, into shards of few images."""

import pytest
import torch
from tests.unit.features.pictures import PER_SHARD

from vitreg.features import shards as feature_shards


@pytest.fixture(scope="module")
def one_thread():
    """Forked children run on one thread; this process must compute in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(feature_shards, "MOST_IMAGES", PER_SHARD)
