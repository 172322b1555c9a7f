"""A web application in front of a service, with Flask. Run each command in its own terminal:

tidings server
tidings run examples.greeter:app
gunicorn --workers 2 --threads 8 examples.flask_app:web

Then open http://127.0.0.1:8000/greet/Ada. For development, replace gunicorn by
`flask --app examples.flask_app:web run`.
"""

import atexit
from contextlib import ExitStack
from threading import Lock

from flask import Flask, jsonify

from tidings import App, NoRespondersError, RequestTimeoutError, ServiceError, TransportError

nats = App(service_name="web", connect_timeout=2)
web = Flask(__name__)

connecting = Lock()
running = ExitStack()
atexit.register(running.close)  # drains when the worker process ends


def connected() -> App:
    """Connect at the first request of this process, so that it is no parent of a worker."""
    with connecting:
        if not nats.is_running:
            running.enter_context(nats)
    return nats


@web.get("/greet/<name>")
def greet(name):
    return jsonify(connected().request_sync("greet", {"name": name}, timeout=5))


@web.errorhandler(ServiceError)
def refused(error):
    status = error.code if 400 <= error.code < 500 else 502
    return jsonify(error=error.description), status


@web.errorhandler(RequestTimeoutError)
def too_slow(error):
    return jsonify(error="the service did not answer in time"), 504


@web.errorhandler(NoRespondersError)  # the service is down
@web.errorhandler(TransportError)  # the NATS server cannot be reached
def unavailable(error):
    return jsonify(error="try again later"), 503, {"Retry-After": "1"}
