import pytest

from tests.conformance.suite import find_suite


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "conformance: runs the protocol's own suite (needs npm)")


@pytest.fixture(scope="session")
def suite() -> list[str]:
    return find_suite()
