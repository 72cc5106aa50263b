import pytest
import synthetic_scan


@pytest.fixture(scope="session")
def scan_result():
    return synthetic_scan.scan_result


@pytest.fixture(scope="session")
def make_examples():
    return synthetic_scan.examples
