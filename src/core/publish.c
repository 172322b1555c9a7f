/* Publisher and Publish: `app.publish` and what it returns. Reference: `Bus.publish` in
 * src/tidings/bus.py.
 *
 * A Publish behaves as the coroutine of `Bus.publish` does: nothing happens before it is awaited,
 * errors are raised where it is awaited, and it warns if nobody awaits it. A message without options
 * goes straight into the queue of frames. Whatever else there is to do, it does by awaiting the
 * coroutine of `Bus.publish`.
 */
#include "core.h"

#include "frame_queue.h"

/* Publisher: `app.publish`. */
typedef struct {
    PyObject_HEAD
    Core *core;
    vectorcallfunc call;
    PyObject *current; /* the CurrentLink */
    PyObject *publish; /* the bound method Bus.publish */
    FrameQueue *queue; /* of the last run; NULL before the first */
} Publisher;

typedef enum {
    NEW,     /* not awaited yet */
    STARTED, /* `inner` is at work */
    DONE,
} State;

/* Publish: what `app.publish(...)` returns. */
typedef struct {
    PyObject_HEAD
    Publisher *publisher;
    PyObject *subject, *message;
    PyObject *inner; /* the coroutine that does the rest */
    State state;
} Publish;

/* Sending. */

/* Remember the queue of the run that goes on. Whatever fails here fails in `Bus.publish` too, which
 * then raises the right error. */
static void find_queue(Publisher *self)
{
    Core *core = self->core;
    PyObject *queue = NULL, *link = PyObject_GetAttr(self->current, core->n_link);
    if (link != NULL && link != Py_None) {
        queue = PyObject_GetAttr(link, core->n_outbox);
    }
    Py_XDECREF(link);
    PyErr_Clear();
    if (queue != NULL && !PyObject_TypeCheck(queue, core->frame_queue)) {
        Py_CLEAR(queue);
    }
    Py_XSETREF(self->queue, (FrameQueue *)queue);
}

/* A new reference to the queue of frames if the message may go straight into it: the app runs in
 * this thread, the loop is in a turn that writes, and no middleware has a hook. Otherwise NULL. */
static FrameQueue *direct_queue(Publisher *self)
{
    if (self->queue == NULL || self->queue->direct_thread == 0) {
        find_queue(self); /* of another run */
    }
    FrameQueue *queue = self->queue;
    if (queue == NULL || queue->direct_thread != PyThread_get_thread_ident()
        || !queue->is_scheduled) {
        return NULL;
    }
    return (FrameQueue *)Py_NewRef((PyObject *)queue);
}

/* Send the message, or set `inner` to the coroutine that sends it or waits for room. Returns -1 with
 * an exception. */
static int start(Publish *self)
{
    Publisher *publisher = self->publisher;
    FrameQueue *queue = direct_queue(publisher);
    if (queue == NULL) {
        PyObject *args[] = {self->subject, self->message};
        self->inner = PyObject_Vectorcall(publisher->publish, args, 2, NULL);
        return self->inner == NULL ? -1 : 0;
    }
    PyObject *body = encode_value(publisher->core, self->message);
    int is_crowded = body == NULL ? -1 : frame_queue_publish(queue, self->subject, body);
    Py_XDECREF(body);
    if (is_crowded > 0) {
        self->inner = PyObject_CallMethodNoArgs((PyObject *)queue, publisher->core->n_make_room);
        is_crowded = self->inner == NULL ? -1 : 0;
    }
    Py_DECREF(queue);
    return is_crowded;
}

static void finish(Publish *self)
{
    self->state = DONE;
    Py_CLEAR(self->inner);
    Py_CLEAR(self->subject);
    Py_CLEAR(self->message);
}

static PySendResult publish_am_send(Publish *self, PyObject *argument, PyObject **result)
{
    *result = NULL;
    if (self->state == DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return PYGEN_ERROR;
    }
    if (self->state == NEW) {
        if (argument != Py_None) {
            PyErr_SetString(PyExc_TypeError,
                            "can't send non-None value to a just-started coroutine");
            return PYGEN_ERROR;
        }
        self->state = STARTED;
        if (start(self) < 0) {
            finish(self);
            return PYGEN_ERROR;
        }
    } else if (self->inner == NULL) {
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return PYGEN_ERROR;
    }
    if (self->inner == NULL) {
        finish(self);
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    }
    PyObject *inner = Py_NewRef(self->inner);
    PySendResult sent = PyIter_Send(inner, argument, result);
    Py_DECREF(inner);
    if (sent != PYGEN_NEXT) {
        finish(self);
    }
    return sent;
}

/* The value that `send` and `throw` return: what is awaited, or NULL with StopIteration. */
static PyObject *publish_send(Publish *self, PyObject *argument)
{
    PyObject *result;
    switch (publish_am_send(self, argument, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        if (result == Py_None) {
            PyErr_SetNone(PyExc_StopIteration);
        } else {
            PyErr_SetObject(PyExc_StopIteration, result);
        }
        Py_DECREF(result);
        return NULL;
    default:
        return NULL;
    }
}

static PyObject *publish_iternext(Publish *self)
{
    return publish_send(self, Py_None);
}

static PyObject *publish_await(Publish *self)
{
    if (self->state == STARTED) {
        PyErr_SetString(PyExc_RuntimeError, "coroutine is being awaited already");
        return NULL;
    }
    return Py_NewRef((PyObject *)self);
}

/* Raise what `throw` was given. */
static PyObject *raise_thrown(PyObject *args)
{
    PyObject *error, *value = NULL, *traceback = NULL;
    if (!PyArg_ParseTuple(args, "O|OO:throw", &error, &value, &traceback)) {
        return NULL;
    }
    if (PyExceptionInstance_Check(error)) {
        PyErr_SetObject(PyExceptionInstance_Class(error), error);
    } else if (PyExceptionClass_Check(error)) {
        PyErr_SetObject(error, value == NULL ? Py_None : value);
    } else {
        PyErr_SetString(PyExc_TypeError, "throw() takes an exception");
    }
    return NULL;
}

static PyObject *publish_throw(Publish *self, PyObject *args)
{
    if (self->state == DONE) {
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse already awaited coroutine");
        return NULL;
    }
    if (self->inner == NULL) {
        finish(self);
        return raise_thrown(args);
    }
    Core *core = self->publisher->core;
    PyObject *inner = Py_NewRef(self->inner), *result = NULL;
    PyObject *throw = PyObject_GetAttr(inner, core->n_throw);
    if (throw != NULL) {
        result = PyObject_CallObject(throw, args);
        Py_DECREF(throw);
    }
    Py_DECREF(inner);
    if (result == NULL) {
        finish(self);
    }
    return result;
}

static PyObject *publish_close(Publish *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *inner = self->inner;
    self->inner = NULL;
    finish(self);
    if (inner == NULL) {
        Py_RETURN_NONE;
    }
    PyObject *result = PyObject_CallMethodNoArgs(inner, self->publisher->core->n_close);
    Py_DECREF(inner);
    return result;
}

/* Publish: the type. */

static int publish_clear(Publish *self)
{
    Py_CLEAR(self->publisher);
    Py_CLEAR(self->subject);
    Py_CLEAR(self->message);
    Py_CLEAR(self->inner);
    return 0;
}

static int publish_traverse(Publish *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->publisher);
    Py_VISIT(self->subject);
    Py_VISIT(self->message);
    Py_VISIT(self->inner);
    return 0;
}

/* Warn as a coroutine does if nobody has awaited it. */
static void publish_finalize(Publish *self)
{
    if (self->state != NEW || self->publisher == NULL) {
        return;
    }
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *name = PyObject_GetAttrString(self->publisher->publish, "__qualname__");
    if (name == NULL
        || PyErr_WarnFormat(PyExc_RuntimeWarning, 1, "coroutine '%S' was never awaited", name) < 0) {
        PyErr_WriteUnraisable((PyObject *)self);
    }
    Py_XDECREF(name);
    PyErr_Restore(type, value, traceback);
}

static void publish_dealloc(Publish *self)
{
    if (self->state == NEW && PyObject_CallFinalizerFromDealloc((PyObject *)self) < 0) {
        return;
    }
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Core *core = self->publisher == NULL ? NULL : self->publisher->core;
    publish_clear(self);
    /* Keep the memory of one for the next: most are awaited at once. A finalized one would not be
     * finalized again. */
    if (core != NULL && core->publish == type && core->spare_publish == NULL
        && !PyObject_GC_IsFinalized((PyObject *)self)) {
        core->spare_publish = self;
    } else {
        PyObject_GC_Del(self);
    }
    Py_DECREF(type);
}

static PyObject *publish_name(Publish *self, void *name)
{
    return PyObject_GetAttrString(self->publisher->publish, name);
}

static PyObject *publish_repr(Publish *self)
{
    return PyUnicode_FromFormat("<publish at %p>", (void *)self);
}

static PyMethodDef publish_methods[] = {
    {"send", (PyCFunction)publish_send, METH_O, "As `send` of a coroutine."},
    {"throw", (PyCFunction)publish_throw, METH_VARARGS, "As `throw` of a coroutine."},
    {"close", (PyCFunction)publish_close, METH_NOARGS, "As `close` of a coroutine."},
    {NULL},
};

/* The names by which asyncio describes a task. */
static PyGetSetDef publish_getset[] = {
    {"__name__", (getter)publish_name, NULL, NULL, "__name__"},
    {"__qualname__", (getter)publish_name, NULL, NULL, "__qualname__"},
    {NULL},
};

static PyType_Slot publish_slots[] = {
    {Py_tp_doc, "A message that is sent when it is awaited."},
    {Py_tp_dealloc, SLOT(publish_dealloc)},
    {Py_tp_traverse, SLOT(publish_traverse)},
    {Py_tp_clear, SLOT(publish_clear)},
    {Py_tp_finalize, SLOT(publish_finalize)},
    {Py_tp_repr, SLOT(publish_repr)},
    {Py_tp_iternext, SLOT(publish_iternext)},
    {Py_am_await, SLOT(publish_await)},
    {Py_am_send, SLOT(publish_am_send)},
    {Py_tp_methods, publish_methods},
    {Py_tp_getset, publish_getset},
    {0, NULL},
};

static PyType_Spec publish_spec = {
    .name = "tidings._core.Publish",
    .basicsize = sizeof(Publish),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
        | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = publish_slots,
};

/* Publisher. */

static PyObject *new_publish(Publisher *self, PyObject *subject, PyObject *message)
{
    if (self->core->publish == NULL) { /* the interpreter is ending */
        PyErr_SetString(PyExc_RuntimeError, "the module tidings._core is gone");
        return NULL;
    }
    Publish *made = self->core->spare_publish;
    if (made != NULL) {
        self->core->spare_publish = NULL;
        PyObject_Init((PyObject *)made, self->core->publish);
    } else {
        made = PyObject_GC_New(Publish, self->core->publish);
    }
    if (made == NULL) {
        return NULL;
    }
    made->publisher = (Publisher *)Py_NewRef((PyObject *)self);
    made->subject = Py_NewRef(subject);
    made->message = Py_NewRef(message);
    made->inner = NULL;
    made->state = NEW;
    PyObject_GC_Track(made);
    return (PyObject *)made;
}

/* Find the arguments `subject` and `message` among positional ones and keywords. Returns 0 if there
 * are others, or one is missing that has to be there. */
static int find_arguments(Core *core, PyObject *const *args, Py_ssize_t count, PyObject *keywords,
                          PyObject **subject, PyObject **message)
{
    if (count > 2) {
        return 0;
    }
    *subject = count > 0 ? args[0] : NULL;
    *message = count > 1 ? args[1] : NULL;
    Py_ssize_t keyword_count = keywords == NULL ? 0 : PyTuple_GET_SIZE(keywords);
    for (Py_ssize_t i = 0; i < keyword_count; i++) {
        PyObject *keyword = PyTuple_GET_ITEM(keywords, i), **place;
        /* Names in a call are interned. Any other string goes the long way. */
        if (keyword == core->n_subject) {
            place = subject;
        } else if (keyword == core->n_message) {
            place = message;
        } else {
            return 0;
        }
        if (*place != NULL) {
            return 0;
        }
        *place = args[count + i];
    }
    if (*message == NULL) {
        *message = Py_None;
    }
    return *subject != NULL;
}

static PyObject *publisher_call(PyObject *callable, PyObject *const *args, size_t flags,
                                PyObject *keywords)
{
    Publisher *self = (Publisher *)callable;
    PyObject *subject, *message;
    if (find_arguments(self->core, args, PyVectorcall_NARGS(flags), keywords, &subject, &message)) {
        return new_publish(self, subject, message);
    }
    return PyObject_Vectorcall(self->publish, args, flags & ~PY_VECTORCALL_ARGUMENTS_OFFSET,
                               keywords);
}

/* Look like the method that it stands in for, to `inspect` and `help`. */
static PyObject *publisher_getattro(Publisher *self, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr((PyObject *)self, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttr(self->publish, name);
    }
    return value;
}

static PyObject *publisher_get(Publisher *self, void *name)
{
    return PyObject_GetAttrString(self->publish, name);
}

static PyObject *publisher_wrapped(Publisher *self, void *Py_UNUSED(ignored))
{
    return Py_NewRef(self->publish);
}

static PyObject *publisher_repr(Publisher *self)
{
    return PyObject_Repr(self->publish);
}

static int publisher_clear(Publisher *self)
{
    Py_CLEAR(self->current);
    Py_CLEAR(self->publish);
    Py_CLEAR(self->queue);
    return 0;
}

static int publisher_traverse(Publisher *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->current);
    Py_VISIT(self->publish);
    Py_VISIT(self->queue);
    return 0;
}

static void publisher_dealloc(Publisher *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    publisher_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef publisher_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Publisher, call), READONLY, NULL},
    {NULL},
};

static PyGetSetDef publisher_getset[] = {
    {"__doc__", (getter)publisher_get, NULL, NULL, "__doc__"},
    {"__name__", (getter)publisher_get, NULL, NULL, "__name__"},
    {"__qualname__", (getter)publisher_get, NULL, NULL, "__qualname__"},
    {"__module__", (getter)publisher_get, NULL, NULL, "__module__"},
    {"__wrapped__", (getter)publisher_wrapped, NULL, NULL, NULL},
    {NULL},
};

static PyType_Slot publisher_slots[] = {
    {Py_tp_dealloc, SLOT(publisher_dealloc)},
    {Py_tp_traverse, SLOT(publisher_traverse)},
    {Py_tp_clear, SLOT(publisher_clear)},
    {Py_tp_call, SLOT(PyVectorcall_Call)},
    {Py_tp_getattro, SLOT(publisher_getattro)},
    {Py_tp_repr, SLOT(publisher_repr)},
    {Py_tp_members, publisher_members},
    {Py_tp_getset, publisher_getset},
    {0, NULL},
};

static PyType_Spec publisher_spec = {
    .name = "tidings._core.Publisher",
    .basicsize = sizeof(Publisher),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
        | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = publisher_slots,
};

PyObject *make_publish(PyObject *module, PyObject *args)
{
    PyObject *current, *publish;
    if (!PyArg_ParseTuple(args, "OO:make_publish", &current, &publish)) {
        return NULL;
    }
    Core *core = PyModule_GetState(module);
    Publisher *self = (Publisher *)core->publisher->tp_alloc(core->publisher, 0);
    if (self == NULL) {
        return NULL;
    }
    self->core = core;
    self->call = publisher_call;
    self->current = Py_NewRef(current);
    self->publish = Py_NewRef(publish);
    return (PyObject *)self;
}

PyTypeObject *make_publish_type(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &publish_spec, NULL);
}

PyTypeObject *make_publisher_type(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &publisher_spec, NULL);
}
