"""Subscribing and unsubscribing that is cut short leaves all of it or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from support.fake_peer import FakePeer
from support.inbox import Inbox
from support.waits import PATIENCE, until
from tidings import App, FlushTimeoutError, NoRespondersError
from tidings.server import NATSServer

MakeApp = Callable[..., App]


async def test_who_is_cancelled_while_subscribing_leaves_no_subscription(
    server: NATSServer, make_app: MakeApp
) -> None:
    async with make_app(server) as app:
        subscribing = asyncio.create_task(app.subscribe_new_subject("late", Inbox()))
        await asyncio.sleep(0)  # it has begun, and the server cannot have answered
        subscribing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await subscribing
        await until(lambda: not app.stats().listeners)
        with pytest.raises(NoRespondersError):
            await app.request("late")


async def test_a_subscription_that_the_server_does_not_confirm_is_taken_back(
    make_app: MakeApp,
) -> None:
    async with FakePeer() as peer, make_app(peer, request_timeout=0.2) as app:
        peer.answers = False
        with pytest.raises(FlushTimeoutError):
            await app.subscribe_new_subject("late", Inbox())
        await peer.until(lambda: b"UNSUB %d\r\n" % peer.subscribed["late"] in peer.received)
        await until(lambda: not app.stats().listeners)
        peer.answers = True


async def test_a_connection_that_drops_while_subscribing_is_made_good_by_the_next(
    make_app: MakeApp,
) -> None:
    async with FakePeer() as peer, make_app(peer) as app:
        peer.answers = False
        subscribing = asyncio.create_task(app.subscribe_new_subject("late", Inbox()))
        sid = await peer.sid_of("late")
        peer.answers = True
        peer.subscribed.clear()
        peer.cut()
        async with asyncio.timeout(PATIENCE):
            assert await subscribing == str(sid)
        assert await peer.sid_of("late") == sid
        await app.unsubscribe_ssid(str(sid))


@pytest.mark.parametrize("how", ["cut", "cancelled"])
async def test_unsubscribing_that_is_cut_short_ends_the_subscription_all_the_same(
    make_app: MakeApp, how: str
) -> None:
    async with FakePeer() as peer, make_app(peer) as app:
        await app.subscribe_new_subject("early", Inbox())
        peer.answers = False
        ending = asyncio.create_task(app.unsubscribe_subject("early"))
        await peer.until(lambda: b"UNSUB" in peer.received)
        peer.answers = True
        if how == "cut":
            peer.cut()
            async with asyncio.timeout(PATIENCE):
                await ending
        else:
            ending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await ending
            peer.send(b"PONG\r\n")
        await until(lambda: not app.stats().listeners)
