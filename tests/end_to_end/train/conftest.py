"""Pictures, settings of a run of seconds, and that run."""

import pytest

from tests.end_to_end import tiny_run


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return tiny_run.pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def settings(data, tmp_path_factory):
    return tiny_run.settings_file(tmp_path_factory.mktemp("settings") / "tiny.json", data)


@pytest.fixture(scope="session")
def finished(vitreg, settings, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    done = vitreg("train", "--config", settings, "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done
