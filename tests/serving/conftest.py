"""Tiny classifiers and a server of one."""

import pytest
from served_models import run_service, save_classifier


@pytest.fixture(scope="session")
def classifier(tiny_checkpoint, tmp_path_factory):
    """The folder of a tiny classifier of `LABELS`."""
    return save_classifier(tiny_checkpoint("bert"), tmp_path_factory.mktemp("served") / "first")


@pytest.fixture(scope="session")
def successor(tiny_checkpoint, tmp_path_factory):
    """The folder of another one, which answers differently."""
    return save_classifier(tiny_checkpoint("bert"), tmp_path_factory.mktemp("served") / "second", seed=2)


@pytest.fixture(scope="module")
def client(classifier):
    """A client of a server with the default options."""
    with run_service(classifier) as (made, _):
        yield made
