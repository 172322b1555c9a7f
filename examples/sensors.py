"""Publish readings on one subject per room, and watch all rooms with a wildcard.

tidings run examples.sensors:app --dev
"""

import random
from dataclasses import dataclass

from tidings import App, Message

ROOMS = ("kitchen", "cellar", "attic")
TOO_WARM = 26.0

app = App(service_name="sensors")


@dataclass
class Reading:
    celsius: float


@app.task(interval=0.5)
async def measure():
    """Simulate the sensors."""
    for room in ROOMS:
        reading = Reading(round(random.gauss(22, 3), 1))
        await app.publish(f"sensors.{room}.temperature", reading)


@app.listen("sensors.*.temperature")
async def watch(msg: Message[Reading]):
    if msg.data.celsius > TOO_WARM:
        room = msg.subject.split(".")[1]
        await app.publish(f"alarms.{room}", {"room": room, "celsius": msg.data.celsius})


@app.listen("alarms.>")
async def alarm(msg):
    print(f"{msg.data['room']} has {msg.data['celsius']} degrees", flush=True)


if __name__ == "__main__":
    app.run()
