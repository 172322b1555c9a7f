"""Use an app from synchronous code, such as a script or Flask. The app runs in its own thread.

python examples/script.py                (start a server first: tidings server)
"""

from tidings import App

app = App(service_name="script")


@app.listen("stock")
def stock(msg):
    """A `def` handler runs in a worker thread, so it may block."""
    left = {"pen": 12, "ink": 0}.get(msg.data["product"], 0)
    if not left:
        app.publish_sync("stock.empty", {"product": msg.data["product"]})
    return {"left": left}


def main() -> None:
    with app:
        app.subscribe_new_subject_sync("stock.empty", lambda msg: print("order more", msg.data))
        for product in ("pen", "ink"):
            print(product, app.request_sync("stock", {"product": product}))
        app.publish_sync("stock.checked", {"products": 2}, force=True)


if __name__ == "__main__":
    main()
