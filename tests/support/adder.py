"""A service that adds two numbers, for the tests with programs of others."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tidings import App, ServiceError


@dataclass
class Numbers:
    a: int
    b: int


@contextlib.asynccontextmanager
async def adding(app: App, subject: str) -> AsyncIterator[App]:
    """Run an app with one endpoint, that has answered one request and failed with another."""

    @app.listen(subject, queue="adders")
    async def add(numbers: Numbers) -> dict[str, int]:
        if numbers.a < 0:
            raise ServiceError(400, "negative")
        return {"sum": numbers.a + numbers.b}

    async with app:
        await app.request(subject, Numbers(1, 2))
        with pytest.raises(ServiceError):
            await app.request(subject, Numbers(-1, 2))
        yield app
