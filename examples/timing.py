"""Two middlewares: one measures every handler, the other passes a trace id on to every message.

tidings run examples.timing:app --dev
"""

import contextvars
import secrets
import time

from tidings import App, Middleware

trace = contextvars.ContextVar("trace", default="")


class Timing(Middleware):
    """Logs how long each handler took."""

    def __init__(self, unit: str = "ms") -> None:
        self.unit = unit
        self.factor = {"s": 1, "ms": 1e3, "us": 1e6}[unit]

    async def listen_any(self, msg, callback):
        started = time.perf_counter()
        try:
            return await callback(msg)
        finally:
            took = (time.perf_counter() - started) * self.factor
            app.logger.info("%s took %.2f %s", msg.subject, took, self.unit)


class Tracing(Middleware):
    """Copies the header `Trace-Id` of a message to all messages that its handler sends."""

    async def send_any(self, subject, message, send_func, *args, **kwargs):
        headers = {**(kwargs.pop("headers", None) or {})}
        headers.setdefault("Trace-Id", trace.get() or secrets.token_hex(8))
        return await send_func(subject, message, *args, headers=headers, **kwargs)

    async def listen_any(self, msg, callback):
        token = trace.set(msg.headers.get("Trace-Id", ""))
        try:
            return await callback(msg)
        finally:
            trace.reset(token)


app = App(service_name="timing")
app.add_middleware(Timing, unit="us")
app.add_middleware(Tracing)


@app.listen("double")
async def double(msg):
    half = await app.request("increment", {"n": msg.data["n"] - 1})
    return {"n": half["n"] * 2, "trace": half["trace"]}


@app.listen("increment")
async def increment(msg):
    return {"n": msg.data["n"] + 1, "trace": msg.headers["Trace-Id"]}


@app.task(interval=1)
async def ask():
    print(await app.request("double", {"n": 21}), flush=True)


if __name__ == "__main__":
    app.run()
