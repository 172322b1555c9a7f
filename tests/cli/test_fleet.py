"""The lines of `tidings top` from two samples."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tidings.cli.columns import cells_of, columns_of
from tidings.cli.fleet import Line, Sample, View, consumers_of, lines_of
from tidings.services import EndpointStats, ServiceStats

STARTED = datetime(2025, 1, 1, tzinfo=UTC)


def endpoint(requests: int = 0, errors: int = 0, time: int = 0, **more: Any) -> EndpointStats:
    return EndpointStats(
        **{"name": "price", "subject": "shop.price", **more},
        num_requests=requests,
        num_errors=errors,
        processing_time=time,
    )


def service(*endpoints: EndpointStats, **more: Any) -> ServiceStats:
    fields = {"name": "shop", "id": "a", "version": "1.0.0", "started": STARTED, **more}
    return ServiceStats(**fields, endpoints=endpoints)


def sample(at: float, *services: ServiceStats, **lags: int) -> Sample:
    return Sample(at=at, services=services, lags={k.replace("_", "."): v for k, v in lags.items()})


def only(lines: list[Line]) -> Line:
    [line] = lines
    return line


def test_rates_are_the_difference_between_two_samples() -> None:
    before = sample(10.0, service(endpoint(100, 1, time=1000)))
    now = sample(12.0, service(endpoint(150, 2, time=6000)))
    line = only(lines_of(before, now, View.SERVICE))
    assert (line.requests, line.errors) == (150, 2)
    assert (line.requests_per_second, line.errors_per_second) == (25.0, 0.5)
    assert line.average_processing_time == 100


def test_without_a_sample_before_rates_are_unknown() -> None:
    line = only(lines_of(None, sample(1.0, service(endpoint(10, time=100))), View.SERVICE))
    assert line.requests_per_second is None
    assert line.average_processing_time == 10


def test_a_new_instance_does_not_count_as_a_burst_of_requests() -> None:
    before = sample(0.0, service(endpoint(100)))
    now = sample(1.0, service(endpoint(110)), service(endpoint(5000), id="b"))
    line = only(lines_of(before, now, View.SERVICE))
    assert (line.requests, line.requests_per_second) == (5110, 10.0)


def test_counts_that_were_reset_begin_at_zero() -> None:
    before, now = sample(0.0, service(endpoint(100, 9))), sample(1.0, service(endpoint(4, 1)))
    line = only(lines_of(before, now, View.SERVICE))
    assert (line.requests_per_second, line.errors_per_second) == (4.0, 1.0)


def test_a_line_stands_for_a_service_an_instance_or_an_endpoint() -> None:
    both = (endpoint(1), endpoint(2, name="stock"))
    now = sample(0.0, service(*both), service(*both, id="b"))
    seen = {
        view: [(line.id, line.endpoint, line.instances, line.requests) for line in found]
        for view in View
        for found in [lines_of(None, now, view)]
    }
    assert seen == {
        View.SERVICE: [("", "", 2, 6)],
        View.INSTANCE: [("a", "", 1, 3), ("b", "", 1, 3)],
        View.ENDPOINT: [("", "price", 2, 2), ("", "stock", 2, 4)],
    }


def test_versions_of_a_service_have_lines_of_their_own() -> None:
    now = sample(0.0, service(), service(id="b", version="2.0.0"))
    assert [line.version for line in lines_of(None, now, View.SERVICE)] == ["1.0.0", "2.0.0"]


def test_percentiles_are_those_of_the_slowest_and_queues_are_summed() -> None:
    slow = {"p50": 7, "p99": 70, "pending": 2, "running": 1, "dropped": 0}
    fast = {"p50": 3, "p99": 90, "pending": 3, "running": 1, "dropped": 4}
    now = sample(0.0, service(endpoint(data=slow)), service(endpoint(data=fast), id="b"))
    line = only(lines_of(None, now, View.SERVICE))
    assert (line.p50, line.p99) == (7, 90)
    assert (line.pending, line.running, line.dropped) == (5, 2, 4)


def test_what_a_service_does_not_send_is_unknown_and_not_zero() -> None:
    line = only(lines_of(None, sample(0.0, service(endpoint())), View.SERVICE))
    assert (line.p50, line.p99, line.pending, line.lag) == (None, None, None, None)
    assert line.average_processing_time is None


def test_numbers_that_are_no_counts_are_unknown() -> None:
    data = {"p50": -1, "p99": True, "pending": 10**30, "running": "7", "dropped": None}
    now = sample(0.0, service(endpoint(-5, data=data)), service(endpoint(data=[1]), id="b"))
    line = only(lines_of(None, now, View.SERVICE))
    assert line.requests == 0
    assert (line.p50, line.p99, line.pending, line.running, line.dropped) == (None,) * 5


def test_instances_share_the_lag_of_their_consumers() -> None:
    metadata = {"tidings.consumers": "ORDERS.bills,ORDERS.mails"}
    services = (service(metadata=metadata), service(id="b", metadata=metadata))
    now = sample(0.0, *services, ORDERS_bills=5, ORDERS_mails=2, OTHER_x=9)
    assert only(lines_of(None, now, View.SERVICE)).lag == 7
    assert [line.lag for line in lines_of(None, now, View.ENDPOINT)] == [None]


def test_names_that_are_no_consumers_are_not_asked_for() -> None:
    listed = "ORDERS.bills,>,a.b.c,ORDERS.*,ORDERS.a b,,x,ORDERS.c\r\nPUB"
    assert consumers_of(service(metadata={"tidings.consumers": listed})) == ["ORDERS.bills"]
    many = ",".join(f"S.{number}" for number in range(10_000))
    assert len(consumers_of(service(metadata={"tidings.consumers": many}))) == 100


def test_a_filter_looks_at_all_names() -> None:
    line = only(lines_of(None, sample(0.0, service(endpoint())), View.ENDPOINT))
    assert [line.contains(each) for each in ("SHOP", "pri", "1.0", "bill", "")] == [
        *(True, True, True, False, True)
    ]


def test_cells_cannot_steer_a_terminal() -> None:
    line = only(lines_of(None, sample(0.0, service(version="\x1b[2J\n1")), View.SERVICE))
    assert cells_of(line, columns_of(View.SERVICE))[1] == "\\x1b[2J\\n1"


def test_a_name_from_the_network_does_not_fill_the_terminal() -> None:
    now = sample(0.0, service(endpoint(name="\x00" * 100_000)))
    cell = cells_of(only(lines_of(None, now, View.ENDPOINT)), columns_of(View.ENDPOINT))[2]
    assert cell.startswith("\\x00\\x00")
    assert len(cell) == 80


def test_a_narrow_terminal_leaves_out_columns() -> None:
    wide, narrow = columns_of(View.SERVICE), columns_of(View.SERVICE, 80)
    assert {column.title for column in wide} - {column.title for column in narrow} == {
        *("VERSION", "INSTANCES", "RUNNING", "DROPPED")
    }
