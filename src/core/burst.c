/* Burst: handles queued messages whose handlers do not suspend, without a step of the interpreter
 * between them. Reference: `Listener.work` in src/tidings/handlers/listener.py. What is out of the
 * ordinary (an error, a handler that suspends) goes back to `BurstListener.work`.
 */
#include "core.h"

#include <time.h>

#include "frame_queue.h"

/* Counts: the base of WorkQueue, with the two counts that change with every message. */
typedef struct {
    PyObject_HEAD
    Py_ssize_t handled, pending_bytes;
} Counts;

static PyMemberDef counts_members[] = {
    {"_handled", T_PYSSIZET, offsetof(Counts, handled), 0, NULL},
    {"_pending_bytes", T_PYSSIZET, offsetof(Counts, pending_bytes), 0, NULL},
    {NULL},
};

static PyType_Slot counts_slots[] = {
    {Py_tp_doc, "The counts that change with every message."},
    {Py_tp_members, counts_members},
    {0, NULL},
};

static PyType_Spec counts_spec = {
    .name = "tidings._core.Counts",
    .basicsize = sizeof(Counts),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = counts_slots,
};

PyTypeObject *make_counts_type(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &counts_spec, NULL);
}

/* The arguments of a burst: borrowed references, which the caller holds. */
typedef struct {
    Core *core;
    Counts *counts;
    PyObject *queue;      /* the deque of frames */
    PyObject *decode;     /* decodes a body; None for none */
    PyObject *make;       /* makes a Message */
    PyObject *on_publish; /* the handler of a message, and of a request */
    PyObject *on_request;
    PyObject *answer;  /* sends the value of a handler; None to send none */
    FrameQueue *outbox; /* where answers go without `answer`; NULL for none */
    PyObject *sender;
    PyObject *context; /* of the worker */
    Py_ssize_t context_size;
    PyObject *differs; /* whether the context has changed, when its size does not say it */
    PyObject *add;     /* takes the seconds of a long message; None to measure none */
    double shortest;   /* seconds above which a message is long */
} Burst;

/* What became of a message. */
typedef enum {
    HANDLED,
    FAILED,    /* with an exception */
    SUSPENDED, /* `coroutine` has begun and waits for `awaited` */
    UNSTARTED, /* `coroutine` is no coroutine: it has to be awaited */
    TIMED,     /* the frame has a deadline, and nothing was done with it yet */
    BROKEN,    /* there is no frame to handle, or measuring failed; with an exception */
} Outcome;

typedef struct {
    PyObject *frame, *message, *coroutine, *awaited;
    double began;
} Step;

/* Seconds. Only differences are used, so that it need not be the clock of Python. */
static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static void step_clear(Step *step)
{
    Py_CLEAR(step->frame);
    Py_CLEAR(step->message);
    Py_CLEAR(step->coroutine);
    Py_CLEAR(step->awaited);
}

static int is_frame(PyObject *frame)
{
    return PyTuple_Check(frame) && PyTuple_GET_SIZE(frame) == 5
        && PyUnicode_Check(PyTuple_GET_ITEM(frame, 2)) && PyBytes_Check(PyTuple_GET_ITEM(frame, 3))
        && PyBytes_Check(PyTuple_GET_ITEM(frame, 4));
}

/* Measure the message that began at `began` and has ended now: every message begins when the one
 * before it has ended. 0 for none. Returns -1 with an exception. */
static int measure(const Burst *burst, double began, double ended)
{
    if (began == 0 || ended - began <= burst->shortest) {
        return 0;
    }
    PyObject *seconds = PyFloat_FromDouble(ended - began);
    PyObject *added = seconds == NULL ? NULL : PyObject_CallOneArg(burst->add, seconds);
    Py_XDECREF(seconds);
    Py_XDECREF(added);
    return added == NULL ? -1 : 0;
}

/* Take the next frame from the queue and make its message. `before` is when the message before it
 * began. */
static Outcome begin_step(const Burst *burst, PyObject *popleft, Step *step, double *before)
{
    step->frame = PyObject_CallNoArgs(popleft);
    if (step->frame == NULL) {
        return BROKEN;
    }
    if (!is_frame(step->frame)) {
        PyErr_SetString(PyExc_TypeError, "the queue of a listener holds something else than frames");
        return BROKEN;
    }
    PyObject **frame = &PyTuple_GET_ITEM(step->frame, 0);
    PyObject *block = frame[3], *body = frame[4], *data;
    burst->counts->pending_bytes -= PyBytes_GET_SIZE(block) + PyBytes_GET_SIZE(body);
    step->began = now();
    if (burst->add != Py_None) {
        if (measure(burst, *before, step->began) < 0) {
            return BROKEN;
        }
        *before = step->began;
    }
    if (!PyBytes_CheckExact(block)) { /* a DeadlineBlock */
        return TIMED;
    }
    if (burst->decode == Py_None) {
        data = Py_NewRef(body);
    } else {
        data = PyObject_CallOneArg(burst->decode, body);
        if (data == NULL) {
            return FAILED;
        }
    }
    PyObject *args[] = {frame[1], data, body, frame[2], frame[0], block, burst->sender};
    step->message = PyObject_Vectorcall(burst->make, args, 7, NULL);
    Py_DECREF(data);
    return step->message == NULL ? FAILED : HANDLED;
}

/* Send the value that the handler returned to a request. */
static int send_answer(const Burst *burst, Step *step, PyObject *value)
{
    PyObject *body = NULL;
    if (value != Py_None && burst->outbox != NULL) {
        body = encode_value(burst->core, value);
        if (body == NULL && !PyErr_ExceptionMatches(PyExc_Exception)) {
            return -1;
        }
        PyErr_Clear(); /* `answer` raises the error again, with the name of the handler */
    }
    if (body != NULL) {
        int sent = frame_queue_reply(burst->outbox, PyTuple_GET_ITEM(step->frame, 2), body);
        Py_DECREF(body);
        return sent < 0 ? -1 : 0;
    }
    PyObject *args[] = {step->message, value};
    PyObject *sent = PyObject_Vectorcall(burst->answer, args, 2, NULL);
    Py_XDECREF(sent);
    return sent == NULL ? -1 : 0;
}

/* Run the handler up to its end, or up to where it suspends. */
static Outcome run_step(const Burst *burst, Step *step)
{
    int is_request = PyUnicode_GET_LENGTH(PyTuple_GET_ITEM(step->frame, 2)) > 0;
    PyObject *handler = is_request ? burst->on_request : burst->on_publish, *value;
    step->coroutine = PyObject_CallOneArg(handler, step->message);
    if (step->coroutine == NULL) {
        return FAILED;
    }
    if (!PyCoro_CheckExact(step->coroutine)) {
        return UNSTARTED;
    }
    switch (PyIter_Send(step->coroutine, Py_None, &value)) {
    case PYGEN_NEXT:
        step->awaited = value;
        return SUSPENDED;
    case PYGEN_ERROR:
        return FAILED;
    case PYGEN_RETURN:
        break;
    }
    int sent = is_request && burst->answer != Py_None ? send_answer(burst, step, value) : 0;
    Py_DECREF(value);
    if (sent < 0) {
        return FAILED;
    }
    burst->counts->handled++;
    return HANDLED;
}

static PyObject *or_none(PyObject *object)
{
    return object == NULL ? Py_None : object;
}

/* The stop of a burst: see `burst` in src/tidings/handlers/bursts.py. */
static PyObject *make_stop(Step *step, PyObject *error)
{
    double seconds = now() - step->began;
    PyObject *has_begun = step->awaited == NULL ? Py_False : Py_True;
    return Py_BuildValue("(OOOOOOd)", step->frame, or_none(step->message), or_none(error),
                         or_none(step->coroutine), has_begun, or_none(step->awaited), seconds);
}

/* Whether a handler has changed the context of the worker; -1 with an exception. */
static int is_changed(const Burst *burst)
{
    Py_ssize_t size = PyObject_Size(burst->context);
    if (size == burst->context_size) {
        return 0;
    }
    if (size < 0) {
        return -1;
    }
    PyObject *answer = PyObject_CallOneArg(burst->differs, burst->context);
    if (answer == NULL) {
        return -1;
    }
    int changed = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return changed;
}

/* The end of a burst without a stop. Takes the reference to the result. */
static PyObject *end_burst(const Burst *burst, double began, PyObject *result)
{
    if (burst->add != Py_None && measure(burst, began, now()) < 0) {
        Py_DECREF(result);
        return NULL;
    }
    return result;
}

static PyObject *run_burst(const Burst *burst, PyObject *popleft)
{
    Py_ssize_t waiting;
    double before = 0;
    while ((waiting = PyObject_Size(burst->queue)) > 0) {
        Step step = {0};
        PyObject *stop = NULL, *error = NULL;
        Outcome outcome = begin_step(burst, popleft, &step, &before);
        if (outcome == HANDLED) {
            outcome = run_step(burst, &step);
        }
        if (outcome == BROKEN) {
            step_clear(&step);
            return NULL;
        }
        if (outcome == FAILED) {
            error = take_exception();
            Py_CLEAR(step.coroutine);
        }
        if (outcome != HANDLED) {
            stop = make_stop(&step, error);
            Py_XDECREF(error);
            step_clear(&step);
            return stop;
        }
        step_clear(&step);
        int changed = is_changed(burst);
        if (changed) {
            return changed < 0 ? NULL : end_burst(burst, before, Py_NewRef(Py_False));
        }
    }
    return waiting < 0 ? NULL : end_burst(burst, before, Py_NewRef(Py_None));
}

PyObject *burst(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    Core *core = PyModule_GetState(module);
    if (nargs != 14) {
        return PyErr_Format(PyExc_TypeError, "burst() takes 14 arguments, got %zd", nargs);
    }
    if (!PyObject_TypeCheck(args[0], core->counts)) {
        PyErr_SetString(PyExc_TypeError, "burst() takes a listener first");
        return NULL;
    }
    Burst burst = {
        .core = core,
        .counts = (Counts *)args[0],
        .queue = args[1],
        .decode = args[2],
        .make = args[3],
        .on_publish = args[4],
        .on_request = args[5],
        .answer = args[6],
        .outbox = PyObject_TypeCheck(args[7], core->frame_queue) ? (FrameQueue *)args[7] : NULL,
        .sender = args[8],
        .context = args[9],
        .context_size = PyLong_AsSsize_t(args[10]),
        .differs = args[11],
        .add = args[12],
        .shortest = PyFloat_AsDouble(args[13]),
    };
    if ((burst.context_size == -1 || burst.shortest == -1) && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *popleft = PyObject_GetAttr(burst.queue, core->n_popleft);
    if (popleft == NULL) {
        return NULL;
    }
    PyObject *stop = run_burst(&burst, popleft);
    Py_DECREF(popleft);
    return stop;
}
