"""Keep the balance of each account: its bookings in their order, in as many processes as you like.

    tidings run examples.accounts:app --dev

Start it a second time in another terminal, without `--dev` and with the URL that the first one
prints in $NATS_URL: each process then handles half of the accounts.

A booking can be delivered again, after a crash for example. Since the bookings of an account come
in their order, the sequence of the last one shows whether a booking has been added already.
"""

from dataclasses import dataclass

from tidings import App, Reject, Stream, StreamMessage


@dataclass
class Account:
    balance: int = 0
    last: int = 0  # the sequence of the last booking


app = App(
    "ledger",
    streams=[
        Stream("ACCOUNTS", subjects=["accounts.*.booked"]),
        Stream("REFUSED", subjects=["refused.>"]),
    ],
)
accounts = app.js.key_value("accounts", type=Account)


@app.consume(
    "ACCOUNTS",
    durable="ledger",
    subject="accounts.*.booked",
    partitions=16,
    key=1,
    dead_letter="refused.bookings",
)
async def book(msg: StreamMessage[int]) -> None:
    """Add a booking to its account. No other booking of this account is handled meanwhile."""
    name = msg.subject.split(".")[1]
    account = await accounts.value(name, Account())
    if msg.sequence <= account.last:
        return
    balance = account.balance + msg.data
    if balance < 0:
        raise Reject(f"{name} would have {balance}")
    await accounts.put(name, Account(balance, msg.sequence))
