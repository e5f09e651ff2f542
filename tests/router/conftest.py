"""A worker for each module of tests, two model servers for it, and a clean start for each test.

A module says with SETTINGS what its worker's settings are; a test that needs others starts a `Router` of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from certificates import Authority
from plane import Client, Router, Upstream


@pytest.fixture(scope="module")
def _servers() -> Iterator[tuple[Upstream, Upstream]]:
    blue, green = Upstream(), Upstream()
    yield blue, green
    blue.close()
    green.close()


@pytest.fixture(scope="module")
def _worker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _servers: tuple[Upstream, Upstream]
) -> Iterator[Router]:
    settings = getattr(request.module, "SETTINGS", {})
    with Router(tmp_path_factory.mktemp("state"), _servers[0], settings=settings) as router:
        yield router
        router.quiet()
        assert router.complaints() == []


@pytest.fixture
def blue(_servers: tuple[Upstream, Upstream]) -> Upstream:
    return _servers[0].anew()


@pytest.fixture
def green(_servers: tuple[Upstream, Upstream]) -> Upstream:
    return _servers[1].anew()


@pytest.fixture
def router(_worker: Router, blue: Upstream, green: Upstream) -> Router:
    """The module's worker, everything at blue, green there but without traffic."""
    assert _worker.process.poll() is None, _worker.log
    _worker.begins(blue, green)
    return _worker


@pytest.fixture
def client(router: Router) -> Iterator[Client]:
    with router.client() as one:
        yield one


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))
