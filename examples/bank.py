"""Poll a bank in one instance at a time, and let one caller at a time close the books.

    tidings run examples.bank:app --dev
    tidings run examples.bank:app
    tidings req books.close '{"month": "2026-07"}'

The first command starts a server and an instance, the second one more instance. One of them polls:
when you stop it, even with `kill -9`, the other one takes over. If the third command comes while
another one closes the books, the answer is an error after two seconds.
"""

import asyncio

from tidings import App, LockTimeoutError, Message, ServiceError
from tidings.jetstream import Lock

app = App(service_name="bank")


@app.leader(lease=5)
async def poll(lock: Lock) -> None:
    """Publish a balance each second. Whoever stores it can refuse a smaller token."""
    print("this instance polls", flush=True)
    while True:
        await app.publish("bank.balance", {"cents": 4200, "token": lock.token})
        await asyncio.sleep(1)


@app.listen("books.close")
async def close(msg: Message[dict]) -> dict[str, object]:
    try:
        async with app.lock("books", timeout=2) as lock:
            await asyncio.sleep(msg.data.get("seconds", 1))  # the work
            return {"closed": msg.data["month"], "token": lock.token}
    except LockTimeoutError as error:
        raise ServiceError(409, f"{error.holder} is closing the books") from None


if __name__ == "__main__":
    app.run()
