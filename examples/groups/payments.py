"""The payments of the shop: a group that does not need to know the app that includes it."""

from tidings import Group, Message, ServiceError

payments = Group("payments")
LIMIT = 100_000


@payments.listen("charge")  # payments.charge
async def charge(msg: Message[dict]):
    if msg.data["cents"] > LIMIT:
        raise ServiceError(402, f"no more than {LIMIT} cents at a time")
    return {"charged": msg.data["cents"]}


@payments.listen("refund")  # payments.refund
async def refund(msg: Message[dict]):
    return {"refunded": msg.data["cents"]}
