"""Panini: what to write instead of Panini's names that tidings does not have.

Only an error reads these tables, so nothing imports this module at the start.
"""

from __future__ import annotations

_HTTP = (
    "tidings has no HTTP server; run FastAPI, aiohttp or another framework in the same event loop "
    "with `async with app`"
)
_FILTERS = "put the listeners into groups, and call app.include() for the groups that you need"
_LOGGING = (
    "tidings logs to the logger 'tidings'; configure it, and any files, with Python's `logging`"
)
_CLIENT = "tidings does not use nats-py; open a connection of your own with nats.connect()"
_ONE_NAME = "the connection has the name of the service; set service_name="
_STARTED_TASKS = "declare tasks with @app.task()"
_STATE = "write app.connected_url is not None, or app.stats().connection.state"

# What was an attribute or a method, by the class that had it.
ATTRIBUTES = {
    "App": {
        "add_filters": _FILTERS,
        "check_connection": _STATE,
        "client": _CLIENT,
        "client_id": _ONE_NAME,
        "client_nats_name": _ONE_NAME,
        "http": _HTTP,
        "http_server": _HTTP,
        "js_listen": 'write @app.consume("ORDERS", durable="billing")',
        "logger_files_path": _LOGGING,
        "logger_in_separate_process": _LOGGING,
        "logger_required": _LOGGING,
        "loop": "write asyncio.get_running_loop() in a coroutine",
        "on_start_task": "write @app.on_startup, without parentheses",
        "publish_js": "write await app.js.publish(subject, message)",
        "set_logger": _LOGGING,
        "setup_web_server": _HTTP,
        "timer_task": "write @app.task(interval=2)",
    },
    "app.nats": {
        "add_filters": _FILTERS,
        "check_connection": _STATE,
        "client": _CLIENT,
        "client_nats_name": _ONE_NAME,
        "enable_js": "JetStream needs no option; write app.js",
        "js": "write app.js",
        "loop": "write asyncio.get_running_loop() in a coroutine",
        "middleware_manager": "write app.add_middleware() and app.middlewares",
        "middlewares": "write app.middlewares",
        "publish_js": "write await app.js.publish(subject, message)",
        "request_from_another_thread_sync": "write app.request_sync(subject, message)",
        "unsubscribe_js_listen": "a consumer ends with the app",
    },
    "Message": {
        "context": "keep what belongs to a message in a variable of the handler",
        "header": "write msg.headers",
    },
}

# What was an option of a call.
OPTIONS = {
    "App": {
        "allocation_queue_group": (
            "each listener has a queue group of its own; queue= changes its name, and queue='' "
            "turns groups off"
        ),
        "allow_reconnect": "the app always reconnects; max_reconnect_attempts= limits it",
        "auth": "write user= and password=, token=, credentials= or nkey_seed=",
        "client_id": _ONE_NAME,
        "client_nats_name": _ONE_NAME,
        "closed_cb": 'write @app.on("closed")',
        "custom_logger": _LOGGING,
        "disconnected_cb": 'write @app.on("disconnected")',
        "dont_randomize": "write randomize_servers=False",
        "enable_js": "JetStream needs no option; write app.js",
        "error_cb": 'write @app.on("error")',
        "ignore_tasks_exceptions": (
            "if a task raises, the error is logged and the next run takes place"
        ),
        "listen_subject_only_if_exclude": _FILTERS,
        "listen_subject_only_if_include": _FILTERS,
        "logger_files_path": _LOGGING,
        "logger_in_separate_process": _LOGGING,
        "logger_required": _LOGGING,
        "name": _ONE_NAME,
        "nkeys_seed": "write nkey_seed=",
        "pending_bytes_limit": "set it for each listener: @app.listen(..., pending_bytes_limit=)",
        "reconnect": "the app always reconnects; max_reconnect_attempts= limits it",
        "reconnected_cb": 'write @app.on("reconnected")',
        "reconnecting_time_sleep": "write reconnect_time_wait=",
        "subscribe_subjects_and_callbacks": "declare listeners with @app.listen()",
        "tasks": _STARTED_TASKS,
        "user_credentials": "write credentials=",
        "web_app": _HTTP,
        "web_host": _HTTP,
        "web_port": _HTTP,
        "web_server": _HTTP,
    },
    "listen()": {
        "dynamic_subscription": "write await app.subscribe_new_subject(subject, handler)",
        "is_async": "messages are handled concurrently; concurrency= limits how many",
        "validator": "write data_type=, with a class or a function that checks the body",
    },
    "subscribe_new_subject()": {
        "init_subscription": "leave it out",
        "is_async": "messages are handled concurrently; concurrency= limits how many",
    },
    "App.request()": {"callback": "await the call, and use what it returns"},
    "DebugMiddleware": {
        "log_level": "write level=logging.DEBUG",
        "logger": "it logs to the logger 'tidings'",
        "logger_name": "it logs to the logger 'tidings'",
        "use_listen_any": "subclass Middleware and override one hook",
        "use_send_any": "subclass Middleware and override one hook",
    },
    "TimeoutMiddleware": {
        "app": "it calls callback= with the error; publish or request there",
        "send_func_type": "it calls callback= with the error; publish or request there",
        "subject": "it calls callback= with the error; publish or request there",
    },
}
