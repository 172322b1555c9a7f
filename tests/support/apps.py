"""Options of apps that notice and repair faults quickly."""

QUICK = {
    "connect_timeout": 10.0,
    "reconnect_time_wait": 0.1,
    "drain_timeout": 5.0,
    "request_timeout": 5.0,
}
