"""Time: jobs that the server starts, and messages that it delivers later. (NATS ADR-51)"""
