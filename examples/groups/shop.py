"""The app, which includes the groups of the other modules.

tidings run examples.groups.shop:app --dev
"""

from tidings import App, ServiceError

from .payments import payments

app = App(service_name="shop")
app.include(payments)


@app.listen("checkout")
async def checkout(msg):
    try:
        paid = await app.request("payments.charge", {"cents": msg.data["cents"]})
    except ServiceError as error:
        return {"paid": False, "why": error.description}
    return {"paid": True, "cents": paid["charged"]}
