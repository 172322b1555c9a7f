/* The queue of outgoing frames, for the files that add frames to it. */
#ifndef TIDINGS_FRAME_QUEUE_H
#define TIDINGS_FRAME_QUEUE_H

#include "core.h"

typedef struct {
    PyObject_HEAD
    Core *core;
    PyObject *loop;
    PyObject *frames; /* a list of bytes, which Buffer.write replaces */
    PyObject *begins; /* the checked beginning of the frame, by subject */
    PyObject *last_subject, *last_begin; /* one of these, which needs no lookup; NULL at first */
    PyObject *reference_publish, *reference_reply, *reference_request;
    Py_ssize_t size, threshold, max_payload, refused;
    unsigned long direct_thread;
    char is_scheduled;
} FrameQueue;

/* The frame of a message: `begin`, `subject` and a space unless it is NULL, the size of the body and
 * the body. Both texts are checked. */
PyObject *make_frame(const char *begin, Py_ssize_t begin_length, const char *subject,
                     Py_ssize_t subject_length, PyObject *body);

/* Add a frame, which is bytes. Returns 0; 1 if the queue is crowded, so that the caller should make
 * room; -1 with an exception. */
int frame_queue_add(FrameQueue *self, PyObject *frame);

/* Add the frame of a message. Returns as `frame_queue_add`. */
int frame_queue_publish(FrameQueue *self, PyObject *subject, PyObject *body);

/* Add the frame of an answer without headers. Returns as `frame_queue_add`. */
int frame_queue_reply(FrameQueue *self, PyObject *reply, PyObject *body);

#endif
