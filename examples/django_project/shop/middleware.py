"""Turns the errors of requests over NATS into responses."""

from django.http import JsonResponse

from tidings import NoRespondersError, RequestTimeoutError, ServiceError, TransportError


class NatsErrors:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, error):
        if isinstance(error, ServiceError):
            status = error.code if 400 <= error.code < 500 else 502
            return JsonResponse({"error": error.description}, status=status)
        if isinstance(error, RequestTimeoutError):
            return JsonResponse({"error": "the service did not answer in time"}, status=504)
        if isinstance(error, NoRespondersError | TransportError):  # no service, or no server
            return JsonResponse({"error": "try again later"}, status=503)
        return None  # Django handles every other error
