"""The soak uses the servers of the tests of faults."""

from faults.conftest import server  # noqa: F401 - a fixture
