"""A stream as server-sent events, with FastAPI. Run each command in its own terminal:

tidings server
uvicorn --timeout-graceful-shutdown 5 examples.order_events:api
curl --no-buffer http://127.0.0.1:8000/events
curl --json '{"id": 7}' http://127.0.0.1:8000/orders
"""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse

from tidings import App, Stream

nats = App(service_name="order-events", streams=[Stream("ORDERS", subjects=["orders.>"])])


@asynccontextmanager
async def lifespan(api):
    async with nats:
        yield


api = FastAPI(lifespan=lifespan)


@api.post("/orders")
async def create(order: dict[str, Any]):
    return {"id": (await nats.js.publish("orders.created", order)).sequence}


@api.get("/events")
async def events(last_event_id: Annotated[int | None, Header()] = None):
    # A browser that comes back names the last event that it got.
    start = "new" if last_event_id is None else last_event_id + 1
    return StreamingResponse(events_from(start), media_type="text/event-stream")


async def events_from(start):
    async with nats.js.messages("ORDERS", start=start, data_type="json") as messages:
        yield ": connected\n\n"
        while True:
            try:
                async with asyncio.timeout(15):
                    msg = await anext(messages)
            except TimeoutError:
                yield ": still here\n\n"  # keeps proxies from closing the connection
            except StopAsyncIteration:
                return  # the app ends
            else:
                data = json.dumps(msg.data)
                yield f"id: {msg.sequence}\nevent: {msg.subject}\ndata: {data}\n\n"
