"""The views of the project."""

from django.http import JsonResponse

from shop.nats import connected


def greet(request, name):
    return JsonResponse(connected().request_sync("greet", {"name": name}, timeout=5))
