"""A service to deploy. The other files of the folder are for systemd, Docker and Kubernetes.

tidings run shipping:app --dev
"""

import tempfile
from pathlib import Path

from tidings import App

# The address of the server is in $NATS_URL, the path of the credentials, if any, in $NATS_CREDS.
app = App(service_name="shipping")

ALIVE = Path(tempfile.gettempdir(), "alive")


@app.listen("shipping.price")
async def price(msg):
    return {"cents": 490 + 120 * msg.data["kilograms"]}


@app.task(interval=5)
async def show_alive():
    """Tell Kubernetes that the service runs and that nothing blocks its event loop."""
    ALIVE.touch()


if __name__ == "__main__":
    app.run()
