"""A web API in front of a service, with FastAPI. Run each command in its own terminal:

tidings server
tidings run examples.greeter:app
uvicorn examples.fastapi_app:api

Then open http://127.0.0.1:8000/greet/Ada.
"""

from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from tidings import App, NoRespondersError, RequestTimeoutError, ServiceError, TransportError

nats = App(service_name="api")


@asynccontextmanager
async def lifespan(api):
    async with nats:  # every worker process connects for itself
        yield


api = FastAPI(lifespan=lifespan)


@api.get("/greet/{name}")
async def greet(name: str):
    return await nats.request("greet", {"name": name}, timeout=5)


@api.exception_handler(ServiceError)
async def refused(request, error):
    status = error.code if 400 <= error.code < 500 else 502
    return JSONResponse({"error": error.description}, status)


@api.exception_handler(RequestTimeoutError)
async def too_slow(request, error):
    return JSONResponse({"error": "the service did not answer in time"}, 504)


@api.exception_handler(NoRespondersError)  # the service is down
@api.exception_handler(TransportError)  # the NATS server cannot be reached
async def unavailable(request, error):
    return JSONResponse({"error": "try again later"}, 503, {"Retry-After": "1"})
