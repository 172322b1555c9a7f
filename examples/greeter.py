"""A first service: it answers requests, and sends itself a request once a second.

tidings run examples.greeter:app --dev
"""

from tidings import App

app = App(service_name="greeter")


@app.listen("greet")
async def greet(msg):
    return {"hello": msg.data["name"]}  # the return value is the reply


@app.task(interval=1)
async def ask():
    print(await app.request("greet", {"name": "Ada"}), flush=True)


if __name__ == "__main__":
    app.run()
