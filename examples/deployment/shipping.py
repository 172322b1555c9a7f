"""A service to deploy. The other files of the folder are for systemd, Docker and Kubernetes.

tidings run shipping:app --dev
"""

from tidings import App

# The address of the server is in $NATS_URL, the path of the credentials, if any, in $NATS_CREDS.
app = App(service_name="shipping")


@app.listen("shipping.price")
async def price(msg):
    return {"cents": 490 + 120 * msg.data["kilograms"]}


if __name__ == "__main__":
    app.run()
