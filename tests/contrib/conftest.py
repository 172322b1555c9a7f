"""What the tests of the integrations share."""

from support.traces import traces  # noqa: F401 - a fixture
