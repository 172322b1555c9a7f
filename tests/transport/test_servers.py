"""The servers of a connection: which there are, in which order, and what they are told."""

from __future__ import annotations

import pytest

from tidings.transport.servers import Server, ServerPool


def hosts(pool: ServerPool) -> list[str]:
    return [server.host for server in pool.in_order()]


def pool_of(*urls: str, **options: bool) -> ServerPool:
    return ServerPool(urls, **{"randomize": False, **options})


def first(pool: ServerPool) -> Server:
    return pool.in_order()[0]


def test_user_password_and_token_of_a_url_are_decoded() -> None:
    server = Server.from_url("nats://sh%20op:p%40ss%2F%25@h:4222")
    assert server.login == {"user": "sh op", "pass": "p@ss/%"}
    assert Server.from_url("nats://t%3Aken@h:4222").login == {"auth_token": "t:ken"}
    assert Server.from_url("nats://h:4222").login == {}
    assert "ss" not in f"{server!r} {server.url}"


def test_a_server_that_is_announced_is_used_with_the_credentials_and_scheme_of_the_first() -> None:
    pool = pool_of("tls://ada:secret@one.example:4222")
    pool.announce(["10.0.0.2:4222", "[::1]:4223"], first(pool))
    assert hosts(pool) == ["one.example", "10.0.0.2", "::1"]
    second, third = pool.in_order()[1:]
    assert (second.scheme, second.login) == ("tls", {"user": "ada", "pass": "secret"})
    assert (second.url, third.url) == ("tls://10.0.0.2:4222", "tls://[::1]:4223")


def test_the_tls_name_of_a_server_heard_of_late_is_the_name_first_given() -> None:
    pool = pool_of("tls://one.example:4222")
    pool.announce(["10.0.0.2:4222"], first(pool))
    pool.announce(["10.0.0.2:4222", "10.0.0.3:4222"], pool.in_order()[1])
    assert [server.tls_name for server in pool.in_order()] == ["one.example"] * 3


def test_where_an_address_was_given_each_server_has_its_own_tls_name() -> None:
    pool = pool_of("tls://10.0.0.1:4222")
    pool.announce(["10.0.0.2:4222"], first(pool))
    assert [server.tls_name for server in pool.in_order()] == ["10.0.0.1", "10.0.0.2"]


def test_a_server_that_is_no_longer_announced_is_forgotten() -> None:
    pool = pool_of("nats://given:4222")
    for number in range(20):
        pool.announce([f"10.0.0.{number}:4222"], first(pool))
    assert hosts(pool) == ["given", "10.0.0.19"]


def test_the_given_servers_and_the_one_in_use_are_never_forgotten() -> None:
    pool = pool_of("nats://one:4222", "nats://two:4222")
    pool.announce(["three:4222", "four:4222"], first(pool))
    pool.announce(["five:4222"], pool.in_order()[2])
    assert hosts(pool) == ["one", "two", "three", "five"]


def test_a_server_that_announces_nobody_changes_nothing() -> None:
    pool = pool_of("nats://one:4222")
    pool.announce(["two:4222"], first(pool))
    pool.announce([], first(pool))
    pool.announce(["nonsense", "h:port"], first(pool))
    assert hosts(pool) == ["one", "two"]


def test_an_announced_server_that_was_given_is_not_there_twice() -> None:
    pool = pool_of("nats://One:4222", "nats://two:4222")
    pool.announce(["one:4222", "TWO:4222"], first(pool))
    assert len(pool) == 2


def test_what_is_announced_can_be_ignored() -> None:
    pool = pool_of("nats://one:4222", ignore_discovered=True)
    pool.announce(["two:4222"], first(pool))
    assert hosts(pool) == ["one"]


def test_servers_are_tried_in_random_order_unless_that_is_not_wanted() -> None:
    urls = [f"nats://h{number}:4222" for number in range(8)]
    given = [f"h{number}" for number in range(8)]
    assert hosts(pool_of(*urls)) == given
    orders = {tuple(hosts(pool_of(*urls, randomize=True))) for _ in range(20)}
    assert len(orders) > 1
    assert all(sorted(order) == given for order in orders)


def test_what_worked_comes_first_and_what_failed_comes_last() -> None:
    pool = pool_of(*(f"nats://h{number}:4222" for number in range(4)), randomize=True)
    by_name = {server.host: server for server in pool.in_order()}
    by_name["h2"].has_connected = True
    by_name["h0"].failures = 1
    for _ in range(10):
        order = hosts(pool)
        assert (order[0], order[-1]) == ("h2", "h0")


@pytest.mark.parametrize(
    ("url", "resource"),
    [("ws://h:80", "/"), ("wss://h:443/nats?a=b", "/nats?a=b"), ("nats://h:4222", "/")],
)
def test_a_websocket_url_keeps_its_path_and_does_not_show_it(url: str, resource: str) -> None:
    server = Server.from_url(url)
    assert server.resource == resource
    assert server.url == "://".join([server.scheme, f"h:{server.port}"])
