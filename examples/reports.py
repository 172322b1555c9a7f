"""Write a report each minute, once for all instances, and remind of invoices that are not paid.

    tidings run examples.reports:app --dev
    tidings req invoices.sent '{"id": "I-7"}'
    tidings req invoices.paid '{"id": "I-7"}'

The server holds the schedule of the report. If you run several instances, one of them writes it.
The second command sends an invoice: unless the third one follows within 20 seconds, a reminder is
printed. It waits in the stream, so you may stop the service meanwhile.
"""

from tidings import App, Message, Stream, StreamMessage

REMIND_AFTER = 20.0  # seconds

STREAMS = [
    Stream("REMINDERS", subjects=["reminders.due"], retention="workqueue", schedules=True),
]

app = App(service_name="reports", streams=STREAMS)
invoices = app.js.key_value("open-invoices", type=str)  # the schedule of each reminder


@app.cron("* * * * *", ttl=30)
async def report() -> None:
    print(f"open invoices: {len(await invoices.keys())}", flush=True)


@app.listen("invoices.sent")
async def sent(msg: Message[dict]) -> dict[str, str]:
    reminder = await app.js.publish("reminders.due", msg.data, delay=REMIND_AFTER)
    await invoices.put(msg.data["id"], reminder.schedule)
    return {"reminder": reminder.schedule}


@app.listen("invoices.paid")
async def paid(msg: Message[dict]) -> dict[str, bool]:
    """Cancel the reminder. The answer says whether it was still waiting."""
    schedule = await invoices.value(msg.data["id"])
    await invoices.delete(msg.data["id"])
    return {"in_time": schedule is not None and await app.js.cancel(schedule)}


@app.consume("REMINDERS", durable="reminders", subject="reminders.due")
async def remind(msg: StreamMessage[dict]) -> None:
    print(f"invoice {msg.data['id']} is not paid", flush=True)


if __name__ == "__main__":
    app.run()
