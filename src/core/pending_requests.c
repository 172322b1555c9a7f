/* PendingRequests: the requests that wait for a reply.
 * Reference: src/tidings/transport/pending_requests.py.
 */
#include "core.h"

typedef struct {
    PyObject_HEAD
    Core *core;
    PyObject *loop;
    PyObject *tokens;  /* a list of str, which the subclass makes */
    PyObject *waiting; /* token -> (waiter, deadline, subject, timeout) */
    double due;        /* when the timer fires */
    Py_ssize_t late;
} Requests;

static int check_set_up(Requests *self)
{
    if (self->loop != NULL && self->waiting != NULL && PyDict_Check(self->waiting)) {
        return 0;
    }
    PyErr_SetString(PyExc_RuntimeError, "this table of requests is not set up");
    return -1;
}

/* Take a token from the stock. */
static PyObject *take_token(Requests *self)
{
    if (self->tokens == NULL || PyList_GET_SIZE(self->tokens) == 0) {
        PyObject *tokens = PyObject_CallMethodNoArgs((PyObject *)self, self->core->n_new_tokens);
        if (tokens == NULL) {
            return NULL;
        }
        if (!PyList_Check(tokens) || PyList_GET_SIZE(tokens) == 0) {
            Py_DECREF(tokens);
            PyErr_SetString(PyExc_TypeError, "_new_tokens() must return a list of tokens");
            return NULL;
        }
        Py_XSETREF(self->tokens, tokens);
    }
    Py_ssize_t last = PyList_GET_SIZE(self->tokens) - 1;
    PyObject *token = Py_NewRef(PyList_GET_ITEM(self->tokens, last));
    if (PyList_SetSlice(self->tokens, last, last + 1, NULL) < 0) {
        Py_CLEAR(token);
    }
    return token;
}

/* The time of the loop. Returns -1 with an exception. */
static double loop_time(Requests *self)
{
    PyObject *answer = PyObject_CallMethodNoArgs(self->loop, self->core->n_time);
    if (answer == NULL) {
        return -1;
    }
    double time = PyFloat_AsDouble(answer);
    Py_DECREF(answer);
    return time;
}

/* Let the timer fire at the deadline, unless it fires before. */
static int set_timer(Requests *self, PyObject *deadline)
{
    if (PyFloat_AS_DOUBLE(deadline) >= self->due) {
        return 0;
    }
    PyObject *answer = PyObject_CallMethodOneArg((PyObject *)self, self->core->n_set_timer, deadline);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* Keep a request until its reply comes. */
static int keep(Requests *self, PyObject *token, PyObject *waiter, PyObject *subject,
                PyObject *timeout)
{
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1 && PyErr_Occurred()) {
        return -1;
    }
    double time = loop_time(self);
    if (time == -1 && PyErr_Occurred()) {
        return -1;
    }
    PyObject *deadline = PyFloat_FromDouble(time + seconds), *entry = NULL;
    int result = -1;
    if (deadline != NULL && (entry = PyTuple_Pack(4, waiter, deadline, subject, timeout)) != NULL
        && PyDict_SetItem(self->waiting, token, entry) == 0) {
        result = set_timer(self, deadline);
    }
    Py_XDECREF(deadline);
    Py_XDECREF(entry);
    return result;
}

/* Keep a request, and return its token. */
static PyObject *add_waiter(Requests *self, PyObject *waiter, PyObject *subject, PyObject *timeout)
{
    PyObject *token = take_token(self);
    if (token != NULL && keep(self, token, waiter, subject, timeout) < 0) {
        Py_CLEAR(token);
    }
    return token;
}

static PyObject *requests_add_waiter(Requests *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        return PyErr_Format(PyExc_TypeError, "add_waiter() takes 3 arguments, got %zd", nargs);
    }
    return check_set_up(self) < 0 ? NULL : add_waiter(self, args[0], args[1], args[2]);
}

static PyObject *requests_add(Requests *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        return PyErr_Format(PyExc_TypeError, "add() takes 2 arguments, got %zd", nargs);
    }
    if (check_set_up(self) < 0) {
        return NULL;
    }
    PyObject *future = PyObject_CallMethodNoArgs(self->loop, self->core->n_create_future);
    if (future == NULL) {
        return NULL;
    }
    PyObject *token = add_waiter(self, future, args[0], args[1]);
    PyObject *pair = token == NULL ? NULL : PyTuple_Pack(2, token, future);
    Py_XDECREF(token);
    Py_DECREF(future);
    return pair;
}

/* Take an entry out of the table. Returns 1; 0 if there is none; -1 with an exception. */
static int pop(Requests *self, PyObject *token, PyObject **entry)
{
    *entry = PyDict_GetItemWithError(self->waiting, token);
    if (*entry == NULL) {
        return PyErr_Occurred() ? -1 : 0;
    }
    Py_INCREF(*entry);
    if (PyDict_DelItem(self->waiting, token) < 0) {
        Py_CLEAR(*entry);
        return -1;
    }
    return 1;
}

static PyObject *requests_discard(Requests *self, PyObject *token)
{
    PyObject *entry;
    if (check_set_up(self) < 0 || pop(self, token, &entry) < 0) {
        return NULL;
    }
    Py_XDECREF(entry);
    Py_RETURN_NONE;
}

/* Set the result of a waiter, unless it is done: its requester was cancelled. */
static int set_result(Requests *self, PyObject *waiter, PyObject *frame)
{
    PyObject *answer = PyObject_CallMethodNoArgs(waiter, self->core->n_done);
    if (answer == NULL) {
        return -1;
    }
    int is_done = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    if (is_done) {
        return is_done < 0 ? -1 : 0;
    }
    answer = PyObject_CallMethodOneArg(waiter, self->core->n_set_result, frame);
    Py_XDECREF(answer);
    return answer == NULL ? -1 : 0;
}

/* Pass one reply to its requester. */
static int deliver_one(Requests *self, PyObject *frame, Py_ssize_t begin)
{
    if (!PyTuple_Check(frame) || PyTuple_GET_SIZE(frame) != 5
        || !PyUnicode_Check(PyTuple_GET_ITEM(frame, 1))) {
        PyErr_SetString(PyExc_TypeError, "deliver() takes frames");
        return -1;
    }
    PyObject *token = PyUnicode_Substring(PyTuple_GET_ITEM(frame, 1), begin, PY_SSIZE_T_MAX);
    if (token == NULL) {
        return -1;
    }
    PyObject *entry;
    int found = pop(self, token, &entry);
    Py_DECREF(token);
    if (found <= 0) {
        self->late += found == 0;
        return found;
    }
    int result = -1;
    if (PyTuple_Check(entry) && PyTuple_GET_SIZE(entry) == 4) {
        result = set_result(self, PyTuple_GET_ITEM(entry, 0), frame);
    } else {
        PyErr_SetString(PyExc_TypeError, "the table of requests holds something else");
    }
    Py_DECREF(entry);
    return result;
}

static PyObject *requests_deliver(Requests *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyList_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "deliver() takes a list of frames and an index");
        return NULL;
    }
    Py_ssize_t begin = PyLong_AsSsize_t(args[1]);
    if (begin == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (check_set_up(self) < 0) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[0]); i++) {
        PyObject *frame = Py_NewRef(PyList_GET_ITEM(args[0], i));
        int result = deliver_one(self, frame, begin);
        Py_DECREF(frame);
        if (result < 0) {
            return NULL;
        }
    }
    Py_RETURN_NONE;
}

/* The type. */

static int requests_clear(Requests *self)
{
    Py_CLEAR(self->loop);
    Py_CLEAR(self->tokens);
    Py_CLEAR(self->waiting);
    return 0;
}

static int requests_traverse(Requests *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->tokens);
    Py_VISIT(self->waiting);
    return 0;
}

static void requests_dealloc(Requests *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    requests_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *requests_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                              PyObject *Py_UNUSED(keywords))
{
    Requests *self = (Requests *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->core = core_of(type);
    self->waiting = PyDict_New();
    self->due = Py_HUGE_VAL;
    if (self->core == NULL || self->waiting == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int requests_init(Requests *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loop", NULL};
    PyObject *loop;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O:PendingRequests", names, &loop)) {
        return -1;
    }
    Py_INCREF(loop);
    Py_XSETREF(self->loop, loop);
    return 0;
}

static PyMethodDef requests_methods[] = {
    {"add", (PyCFunction)(void (*)(void))requests_add, METH_FASTCALL, "Add a request."},
    {"add_waiter", (PyCFunction)(void (*)(void))requests_add_waiter, METH_FASTCALL,
     "Add a request with a waiter of the caller's own."},
    {"discard", (PyCFunction)requests_discard, METH_O,
     "Remove a request whose requester has the reply or was cancelled."},
    {"deliver", (PyCFunction)(void (*)(void))requests_deliver, METH_FASTCALL,
     "Pass replies to their requesters."},
    {NULL},
};

static PyMemberDef requests_members[] = {
    {"_loop", T_OBJECT_EX, offsetof(Requests, loop), READONLY, NULL},
    {"_waiting", T_OBJECT_EX, offsetof(Requests, waiting), 0, NULL},
    {"_due", T_DOUBLE, offsetof(Requests, due), 0, NULL},
    {"late", T_PYSSIZET, offsetof(Requests, late), 0, NULL},
    {NULL},
};

static PyType_Slot requests_slots[] = {
    {Py_tp_doc, "The requests that wait for a reply. See tidings.transport.pending_requests."},
    {Py_tp_new, SLOT(requests_new)},
    {Py_tp_init, SLOT(requests_init)},
    {Py_tp_dealloc, SLOT(requests_dealloc)},
    {Py_tp_traverse, SLOT(requests_traverse)},
    {Py_tp_clear, SLOT(requests_clear)},
    {Py_tp_methods, requests_methods},
    {Py_tp_members, requests_members},
    {0, NULL},
};

static PyType_Spec requests_spec = {
    .name = "tidings._core.PendingRequests",
    .basicsize = sizeof(Requests),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE
        | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = requests_slots,
};

PyTypeObject *make_pending_requests_type(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &requests_spec, NULL);
}
