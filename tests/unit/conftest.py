from tests.end_to_end.conftest import vitreg  # noqa: F401  # the entry point in this process
