"""The numbers of the JetStream errors on which tidings acts: the `err_code` of an error."""

from __future__ import annotations

import enum


class ErrorCode(enum.IntEnum):
    """JetStream's number for an error. (nats-server `server/errors.json`)

    The code of an error, such as 404, is often the same for several errors; this number is not.
    """

    NO_SUITABLE_PEERS = 10005
    CLUSTER_NOT_AVAILABLE = 10008  # no leader
    CLUSTER_NOT_LEADER = 10009
    CONSUMER_NOT_FOUND = 10014
    MESSAGE_NOT_FOUND = 10037
    NOT_ENABLED_FOR_ACCOUNT = 10039
    MESSAGE_TOO_LARGE = 10054  # for max_msg_size of the stream
    STREAM_NAME_IN_USE = 10058
    STREAM_NOT_FOUND = 10059
    WRONG_LAST_MESSAGE_ID = 10070
    WRONG_LAST_SEQUENCE = 10071
    NOT_ENABLED = 10076
    WORK_QUEUE_REQUIRES_ACK = 10084
    WORK_QUEUE_FILTER_TAKEN = 10100  # another consumer of the work queue has one of the filters
    MAX_ACK_PENDING_EXCEEDED = 10121
    CONSUMER_EXISTS = 10148
    DUPLICATE_IN_PROCESS = 10158  # the same message id is being stored
    EXPECTED_SEQUENCE_NOT_READY = 10163
    WRONG_LAST_SEQUENCE_CONSTANT = 10164  # the same, where the server does not say the sequence
    MESSAGE_TTL_DISABLED = 10166
    TOO_MANY_REQUESTS = 10167
    COUNTERS_DISABLED = 10168
    ATOMIC_DISABLED = 10174
    BATCH_INCOMPLETE = 10176  # a message of an atomic batch did not arrive
    BATCH_DUPLICATE = 10201  # a message id of an atomic batch is known already
    BATCHES_DISABLED = 10205
    TOO_MANY_BATCHES = 10210  # under way in one stream


# What an answer with one of these errors says: an expected sequence or message id was not the last.
WRONG_LAST = frozenset(
    {
        ErrorCode.WRONG_LAST_MESSAGE_ID,
        ErrorCode.WRONG_LAST_SEQUENCE,
        ErrorCode.WRONG_LAST_SEQUENCE_CONSTANT,
    }
)
# JetStream is off on the server or for the account, or has no leader.
UNAVAILABLE = frozenset(
    {
        ErrorCode.CLUSTER_NOT_AVAILABLE,
        ErrorCode.NOT_ENABLED_FOR_ACCOUNT,
        ErrorCode.NOT_ENABLED,
    }
)
# The same publish may succeed a moment later.
PASSING = frozenset(
    {
        ErrorCode.CLUSTER_NOT_LEADER,
        ErrorCode.DUPLICATE_IN_PROCESS,
        ErrorCode.EXPECTED_SEQUENCE_NOT_READY,
        ErrorCode.TOO_MANY_REQUESTS,
        ErrorCode.TOO_MANY_BATCHES,
    }
)
