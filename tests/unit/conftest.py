import pytest
from tests.end_to_end.conftest import vitreg  # noqa: F401  # the entry point in this process


@pytest.fixture(scope="module", autouse=True)
def _planted_once(planted_once):
    pass
