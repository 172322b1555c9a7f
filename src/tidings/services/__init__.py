"""Services: discovery by the `micro` protocol of NATS (ADR-32), in both directions."""

from tidings.services.blocking import AppServices
from tidings.services.finder import Services
from tidings.services.records import (
    EndpointInfo,
    EndpointStats,
    ServiceInfo,
    ServicePing,
    ServiceStats,
)

__all__ = [
    "AppServices",
    "EndpointInfo",
    "EndpointStats",
    "ServiceInfo",
    "ServicePing",
    "ServiceStats",
    "Services",
]
