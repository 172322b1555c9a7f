/* FrameQueue: the frames that wait to be sent. Reference: src/tidings/transport/frame_queue.py.
 *
 * The usual message is added here. For everything else (a new subject, an answer with headers, a
 * body that is too large) the method of the reference is called on the same object, so that all
 * checks and errors are written once.
 */
#include "core.h"

#include "frame_queue.h"

/* As MAX_SUBJECT_BYTES in src/tidings/subject.py. */
#define MAX_SUBJECT 2000
#define FIRST_MAX_PAYLOAD (1024 * 1024)

/* Frames. */

/* Sizes are never negative. As `size_t` they are divided by a multiplication. */
static Py_ssize_t count_digits(size_t size)
{
    Py_ssize_t count = 1;
    while (size >= 10) {
        size /= 10;
        count++;
    }
    return count;
}

/* Write a size in so many digits. Returns where they end. */
static char *put_size(char *to, size_t size, Py_ssize_t digit_count)
{
    char *at = to + digit_count;
    do {
        *--at = (char)('0' + size % 10);
        size /= 10;
    } while (at > to);
    return to + digit_count;
}

static char *put(char *to, const char *bytes, Py_ssize_t length)
{
    if (length > 0) {
        memcpy(to, bytes, (size_t)length);
    }
    return to + length;
}

PyObject *make_frame(const char *begin, Py_ssize_t begin_length, const char *subject,
                     Py_ssize_t subject_length, PyObject *body)
{
    Py_ssize_t size = PyBytes_GET_SIZE(body);
    Py_ssize_t digit_count = count_digits((size_t)size);
    Py_ssize_t words = begin_length + (subject != NULL ? subject_length + 1 : 0);
    Py_ssize_t around = words + digit_count + 4;
    if (size > PY_SSIZE_T_MAX - around) {
        return PyErr_NoMemory();
    }
    PyObject *frame = PyBytes_FromStringAndSize(NULL, around + size);
    if (frame == NULL) {
        return NULL;
    }
    char *at = PyBytes_AS_STRING(frame);
    at = put(at, begin, begin_length);
    if (subject != NULL) {
        at = put(at, subject, subject_length);
        *at++ = ' ';
    }
    at = put_size(at, (size_t)size, digit_count);
    at = put(at, "\r\n", 2);
    at = put(at, PyBytes_AS_STRING(body), size);
    put(at, "\r\n", 2);
    return frame;
}

/* The frame of a request with headers. `begin` is that of a frame without: b"PUB subject ". */
static PyObject *make_headers_frame(PyObject *begin, const char *reply, Py_ssize_t reply_length,
                                    PyObject *block, PyObject *body)
{
    Py_ssize_t begin_length = PyBytes_GET_SIZE(begin), block_size = PyBytes_GET_SIZE(block);
    Py_ssize_t size = block_size + PyBytes_GET_SIZE(body); /* at most `max_payload` */
    Py_ssize_t block_digits = count_digits((size_t)block_size), digits = count_digits((size_t)size);
    Py_ssize_t around = begin_length + reply_length + block_digits + digits + 7;
    if (size > PY_SSIZE_T_MAX - around) {
        return PyErr_NoMemory();
    }
    PyObject *frame = PyBytes_FromStringAndSize(NULL, around + size);
    if (frame == NULL) {
        return NULL;
    }
    char *at = PyBytes_AS_STRING(frame);
    *at++ = 'H';
    at = put(at, PyBytes_AS_STRING(begin), begin_length);
    at = put(at, reply, reply_length);
    *at++ = ' ';
    at = put_size(at, (size_t)block_size, block_digits);
    *at++ = ' ';
    at = put_size(at, (size_t)size, digits);
    at = put(at, "\r\n", 2);
    at = put(at, PyBytes_AS_STRING(block), block_size);
    at = put(at, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body));
    put(at, "\r\n", 2);
    return frame;
}

/* The queue. */

static int schedule_write(FrameQueue *self)
{
    PyObject *write = PyObject_GetAttr((PyObject *)self, self->core->n_write);
    if (write == NULL) {
        return -1;
    }
    self->is_scheduled = 1;
    PyObject *handle = PyObject_CallMethodOneArg(self->loop, self->core->n_call_soon, write);
    Py_DECREF(write);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

int frame_queue_add(FrameQueue *self, PyObject *frame)
{
    if (self->loop == NULL || self->frames == NULL || !PyList_Check(self->frames)) {
        PyErr_SetString(PyExc_RuntimeError, "this queue of frames is not set up");
        return -1;
    }
    if (PyList_Append(self->frames, frame) < 0) {
        return -1;
    }
    self->size += PyBytes_GET_SIZE(frame);
    if (self->size >= self->threshold) {
        PyObject *answer = PyObject_CallMethodNoArgs((PyObject *)self, self->core->n_on_crowded);
        if (answer == NULL) {
            return -1;
        }
        int is_crowded = PyObject_IsTrue(answer);
        Py_DECREF(answer);
        return is_crowded;
    }
    return self->is_scheduled ? 0 : schedule_write(self);
}

/* Call the method of the reference. Returns as `frame_queue_add`. */
static int call_reference(FrameQueue *self, PyObject *method, PyObject *const *args, size_t count)
{
    PyObject *all[6] = {(PyObject *)self}; /* `request` has the most */
    for (size_t i = 0; i < count; i++) {
        all[i + 1] = args[i];
    }
    PyObject *answer = PyObject_Vectorcall(method, all, count + 1, NULL);
    if (answer == NULL) {
        return -1;
    }
    int is_crowded = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return is_crowded;
}

/* Add a frame and let go of it. Returns as `frame_queue_add`. */
static int add_new(FrameQueue *self, PyObject *frame)
{
    if (frame == NULL) {
        return -1;
    }
    int is_crowded = frame_queue_add(self, frame);
    Py_DECREF(frame);
    return is_crowded;
}

/* The beginning of a frame that is remembered for a subject, borrowed; NULL if there is none, or
 * with an exception. */
static PyObject *known_begin(FrameQueue *self, PyObject *subject)
{
    if (subject == self->last_subject) { /* most programs send many messages on few subjects */
        return self->last_begin;
    }
    if (!PyUnicode_CheckExact(subject) || self->begins == NULL) {
        return NULL;
    }
    PyObject *begin = PyDict_GetItemWithError(self->begins, subject);
    if (begin == NULL || !PyBytes_Check(begin)) {
        return NULL;
    }
    Py_XSETREF(self->last_subject, Py_NewRef(subject));
    Py_XSETREF(self->last_begin, Py_NewRef(begin));
    return begin;
}

int frame_queue_publish(FrameQueue *self, PyObject *subject, PyObject *body)
{
    PyObject *begin = known_begin(self, subject);
    if (begin == NULL && PyErr_Occurred()) {
        return -1;
    }
    if (begin == NULL || !PyBytes_Check(body) || PyBytes_GET_SIZE(body) > self->max_payload) {
        PyObject *args[] = {subject, body};
        return call_reference(self, self->reference_publish, args, 2);
    }
    return add_new(self, make_frame(PyBytes_AS_STRING(begin), PyBytes_GET_SIZE(begin), NULL, 0, body));
}

static PyObject *as_bool(int result)
{
    return result < 0 ? NULL : PyBool_FromLong(result);
}

static int check_count(const char *name, Py_ssize_t given, Py_ssize_t least, Py_ssize_t most)
{
    if (given < least || given > most) {
        PyErr_Format(PyExc_TypeError, "%s() got a wrong number of arguments: %zd", name, given);
        return -1;
    }
    return 0;
}

static PyObject *queue_publish(FrameQueue *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("publish", nargs, 2, 2) < 0) {
        return NULL;
    }
    return as_bool(frame_queue_publish(self, args[0], args[1]));
}

static PyObject *queue_post(FrameQueue *self, PyObject *frame)
{
    if (!PyBytes_Check(frame)) {
        return PyErr_Format(PyExc_TypeError, "post() takes bytes, got %.100s",
                            Py_TYPE(frame)->tp_name);
    }
    return as_bool(frame_queue_add(self, frame));
}

/* An answer, without any check of its subject. */
static int add_answer(FrameQueue *self, const char *subject, Py_ssize_t length, PyObject *body)
{
    return add_new(self, make_frame("PUB ", 4, subject, length, body));
}

/* Longer than any prefix of an inbox and token. */
#define MAX_REPLY 512

/* Add the frame of a request whose reply subject is this. Returns as `frame_queue_add`. */
static int add_request(FrameQueue *self, PyObject *begin, const char *reply, Py_ssize_t length,
                       PyObject *block, PyObject *body)
{
    if (PyBytes_GET_SIZE(block) > 0) {
        return add_new(self, make_headers_frame(begin, reply, length, block, body));
    }
    return add_new(self, make_frame(PyBytes_AS_STRING(begin), PyBytes_GET_SIZE(begin), reply, length,
                                    body));
}

static PyObject *queue_request(FrameQueue *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("request", nargs, 4, 5) < 0) {
        return NULL;
    }
    PyObject *begin = known_begin(self, args[0]), *body = args[1], *prefix = args[2], *token = args[3];
    PyObject *block = nargs == 5 ? args[4] : self->core->empty_bytes;
    if (begin == NULL && PyErr_Occurred()) {
        return NULL;
    }
    if (begin != NULL && PyBytes_Check(body) && PyBytes_Check(prefix) && PyBytes_Check(block)
        && PyBytes_GET_SIZE(prefix) < MAX_REPLY / 2 && PyUnicode_Check(token)
        && PyBytes_GET_SIZE(body) <= self->max_payload
        && PyBytes_GET_SIZE(block) <= self->max_payload - PyBytes_GET_SIZE(body)) {
        Py_ssize_t length;
        const char *text = PyUnicode_AsUTF8AndSize(token, &length);
        if (text == NULL) {
            return NULL;
        }
        if (length < MAX_REPLY / 2) {
            char reply[MAX_REPLY];
            char *end = put(reply, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix));
            end = put(end, text, length);
            return as_bool(add_request(self, begin, reply, end - reply, block, body));
        }
    }
    return as_bool(call_reference(self, self->reference_request, args, (size_t)nargs));
}

int frame_queue_reply(FrameQueue *self, PyObject *reply, PyObject *body)
{
    if (PyUnicode_Check(reply) && PyBytes_Check(body)
        && PyBytes_GET_SIZE(body) <= self->max_payload) {
        Py_ssize_t length;
        const char *subject = PyUnicode_AsUTF8AndSize(reply, &length);
        if (subject == NULL) {
            return -1;
        }
        if (length > 0 && length <= MAX_SUBJECT && subject[0] != '$') {
            return add_answer(self, subject, length, body);
        }
    }
    PyObject *args[] = {reply, body};
    return call_reference(self, self->reference_reply, args, 2);
}

static PyObject *queue_reply(FrameQueue *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("reply", nargs, 2, 3) < 0) {
        return NULL;
    }
    int has_block = nargs == 3 ? PyObject_IsTrue(args[2]) : 0;
    if (has_block < 0) {
        return NULL;
    }
    if (has_block) {
        return as_bool(call_reference(self, self->reference_reply, args, (size_t)nargs));
    }
    return as_bool(frame_queue_reply(self, args[0], args[1]));
}

static PyObject *queue_ack(FrameQueue *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (check_count("ack", nargs, 2, 2) < 0) {
        return NULL;
    }
    if (!PyUnicode_Check(args[0]) || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "ack() takes a str and bytes");
        return NULL;
    }
    Py_ssize_t length;
    const char *subject = PyUnicode_AsUTF8AndSize(args[0], &length);
    if (subject == NULL) {
        return NULL;
    }
    return as_bool(add_answer(self, subject, length, args[1]));
}

/* The type. */

static int queue_clear(FrameQueue *self)
{
    Py_CLEAR(self->loop);
    Py_CLEAR(self->frames);
    Py_CLEAR(self->begins);
    Py_CLEAR(self->last_subject);
    Py_CLEAR(self->last_begin);
    Py_CLEAR(self->reference_publish);
    Py_CLEAR(self->reference_reply);
    Py_CLEAR(self->reference_request);
    return 0;
}

static int queue_traverse(FrameQueue *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->loop);
    Py_VISIT(self->frames);
    Py_VISIT(self->begins);
    Py_VISIT(self->last_subject);
    Py_VISIT(self->last_begin);
    Py_VISIT(self->reference_publish);
    Py_VISIT(self->reference_reply);
    Py_VISIT(self->reference_request);
    return 0;
}

static void queue_dealloc(FrameQueue *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    queue_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

/* Set the methods of the reference. */
static int find_reference(FrameQueue *self)
{
    PyObject *form = pure_form("tidings.transport.frame_queue", "FrameQueue");
    if (form == NULL) {
        return -1;
    }
    self->reference_publish = PyObject_GetAttrString(form, "publish");
    self->reference_reply = PyObject_GetAttrString(form, "reply");
    self->reference_request = PyObject_GetAttrString(form, "request");
    Py_DECREF(form);
    return self->reference_publish == NULL || self->reference_reply == NULL
            || self->reference_request == NULL
        ? -1
        : 0;
}

static PyObject *queue_new(PyTypeObject *type, PyObject *Py_UNUSED(args),
                           PyObject *Py_UNUSED(keywords))
{
    FrameQueue *self = (FrameQueue *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->core = core_of(type);
    self->frames = PyList_New(0);
    self->begins = PyDict_New();
    self->max_payload = FIRST_MAX_PAYLOAD;
    self->is_scheduled = 1;
    if (self->core == NULL || self->frames == NULL || self->begins == NULL
        || find_reference(self) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int queue_init(FrameQueue *self, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"loop", "threshold", NULL};
    PyObject *loop;
    Py_ssize_t threshold;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "On:FrameQueue", names, &loop, &threshold)) {
        return -1;
    }
    Py_INCREF(loop);
    Py_XSETREF(self->loop, loop);
    self->threshold = threshold;
    return 0;
}

static PyMethodDef queue_methods[] = {
    {"publish", (PyCFunction)(void (*)(void))queue_publish, METH_FASTCALL,
     "Send a message without headers and reply subject."},
    {"request", (PyCFunction)(void (*)(void))queue_request, METH_FASTCALL,
     "Send a request."},
    {"post", (PyCFunction)queue_post, METH_O, "Queue the frame of a message."},
    {"reply", (PyCFunction)(void (*)(void))queue_reply, METH_FASTCALL,
     "Send an answer to the reply subject of a message."},
    {"ack", (PyCFunction)(void (*)(void))queue_ack, METH_FASTCALL,
     "Acknowledge a message of a stream."},
    {NULL},
};

static PyMemberDef queue_members[] = {
    {"_loop", T_OBJECT_EX, offsetof(FrameQueue, loop), READONLY, NULL},
    {"_frames", T_OBJECT_EX, offsetof(FrameQueue, frames), 0, NULL},
    {"_begins", T_OBJECT_EX, offsetof(FrameQueue, begins), READONLY, NULL},
    {"_threshold", T_PYSSIZET, offsetof(FrameQueue, threshold), 0, NULL},
    {"size", T_PYSSIZET, offsetof(FrameQueue, size), 0, NULL},
    {"max_payload", T_PYSSIZET, offsetof(FrameQueue, max_payload), 0, NULL},
    {"refused", T_PYSSIZET, offsetof(FrameQueue, refused), 0, NULL},
    {"direct_thread", T_ULONG, offsetof(FrameQueue, direct_thread), 0, NULL},
    {"is_scheduled", T_BOOL, offsetof(FrameQueue, is_scheduled), 0, NULL},
    {NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, "The frames that wait to be sent. See tidings.transport.frame_queue."},
    {Py_tp_new, SLOT(queue_new)},
    {Py_tp_init, SLOT(queue_init)},
    {Py_tp_dealloc, SLOT(queue_dealloc)},
    {Py_tp_traverse, SLOT(queue_traverse)},
    {Py_tp_clear, SLOT(queue_clear)},
    {Py_tp_methods, queue_methods},
    {Py_tp_members, queue_members},
    {0, NULL},
};

static PyType_Spec queue_spec = {
    .name = "tidings._core.FrameQueue",
    .basicsize = sizeof(FrameQueue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE
        | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = queue_slots,
};

PyTypeObject *make_frame_queue_type(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &queue_spec, NULL);
}
