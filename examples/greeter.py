"""A first service: it answers, and asks itself once a second.

tidings run examples.greeter:app --dev
"""

from tidings import App

app = App(service_name="greeter")


@app.listen("greet")
async def greet(msg):
    return {"hello": msg.data["name"]}  # the value returned is the reply


@app.task(interval=1)
async def ask():
    print(await app.request("greet", {"name": "Ada"}), flush=True)


if __name__ == "__main__":
    app.run()
