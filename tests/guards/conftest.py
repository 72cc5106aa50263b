"""No garbage collections while rules are asked: syntax trees of all files are many objects, and none of them is garbage."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
