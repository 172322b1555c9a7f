/* encode and json_decoder: the usual bodies. Reference: src/tidings/codec/json.py.
 *
 * msgspec does the work. These functions save the Python frames around it, and call the reference
 * for all other values and for every error.
 */
#include "core.h"

/* Encode. */

/* Find what the reference has, once. */
static int find_reference(Core *core)
{
    if (core->write_json != NULL) {
        return 0;
    }
    PyObject *module = PyImport_ImportModule("tidings.codec.json");
    if (module == NULL) {
        return -1;
    }
    PyObject *encode = pure_form("tidings.codec.json", "encode");
    PyObject *holds = PyObject_GetAttrString(module, "_holds_not_finite");
    PyObject *dataclasses = PyObject_GetAttrString(module, "PYDANTIC_DATACLASSES");
    PyObject *write_json = PyObject_GetAttrString(module, "_write_json");
    Py_DECREF(module);
    if (encode == NULL || holds == NULL || dataclasses == NULL || write_json == NULL) {
        Py_XDECREF(encode);
        Py_XDECREF(holds);
        Py_XDECREF(dataclasses);
        Py_XDECREF(write_json);
        return -1;
    }
    Py_XSETREF(core->reference_encode, encode);
    Py_XSETREF(core->holds_not_finite, holds);
    Py_XSETREF(core->pydantic_dataclasses, dataclasses);
    Py_XSETREF(core->write_json, write_json);
    return 0;
}

static int contains_null(PyObject *body)
{
    const char *at = PyBytes_AS_STRING(body), *end = at + PyBytes_GET_SIZE(body);
    while (end - at >= 4 && (at = memchr(at, 'n', (size_t)(end - at - 3))) != NULL) {
        if (memcmp(at, "null", 4) == 0) {
            return 1;
        }
        at++;
    }
    return 0;
}

/* The body of a dict or a list if there is nothing special about it. NULL without an exception if
 * the reference has to encode it, or to raise the error. */
static PyObject *write_plain_json(Core *core, PyObject *value)
{
    int has_dataclasses = PyDict_Contains(PyImport_GetModuleDict(), core->pydantic_dataclasses);
    PyObject *body = has_dataclasses == 0 ? PyObject_CallOneArg(core->write_json, value) : NULL;
    if (body != NULL && PyBytes_CheckExact(body)) {
        if (!contains_null(body)) {
            return body;
        }
        /* msgspec writes NaN and infinity as null. */
        PyObject *answer = PyObject_CallOneArg(core->holds_not_finite, value);
        if (answer == Py_False) {
            Py_DECREF(answer);
            return body;
        }
        Py_XDECREF(answer);
    }
    Py_XDECREF(body);
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception)) {
        PyErr_Clear();
    }
    return NULL;
}

PyObject *encode_value(Core *core, PyObject *value)
{
    if (PyBytes_CheckExact(value)) {
        return Py_NewRef(value);
    }
    if (find_reference(core) < 0) {
        return NULL;
    }
    if (PyDict_CheckExact(value) || PyList_CheckExact(value)) {
        PyObject *body = write_plain_json(core, value);
        if (body != NULL || PyErr_Occurred()) {
            return body;
        }
    }
    return PyObject_CallOneArg(core->reference_encode, value);
}

PyObject *encode(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords)
{
    Core *core = PyModule_GetState(module);
    if (nargs == 1 && keywords == NULL) {
        return encode_value(core, args[0]);
    }
    if (nargs == 2 && keywords == NULL && args[1] == Py_None) {
        return encode_value(core, args[0]);
    }
    if (find_reference(core) < 0) {
        return NULL;
    }
    return PyObject_Vectorcall(core->reference_encode, args, (size_t)nargs, keywords);
}

/* Decode. */

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *decode;     /* of msgspec */
    PyObject *empty;      /* what an empty body stands for */
    PyObject *fault_of; /* describes the error of a body, without any value of it */
    PyObject *error_of;   /* makes the DecodeError with this text */
} Decoder;

/* Raise the DecodeError for the current exception, which it does not carry as its context. */
static PyObject *refuse(Decoder *self, PyObject *body)
{
    if (!PyErr_ExceptionMatches(PyExc_Exception)) {
        return NULL;
    }
    PyObject *error = take_exception();
    if (error == NULL) {
        return NULL;
    }
    PyObject *args[] = {body, error};
    PyObject *reason = PyObject_Vectorcall(self->fault_of, args, 2, NULL);
    Py_DECREF(error);
    if (reason == NULL) {
        return NULL;
    }
    PyObject *refusal = PyObject_CallOneArg(self->error_of, reason);
    Py_DECREF(reason);
    if (refusal != NULL) {
        PyErr_SetObject((PyObject *)Py_TYPE(refusal), refusal);
        Py_DECREF(refusal);
    }
    return NULL;
}

static PyObject *decoder_call(PyObject *callable, PyObject *const *args, size_t flags,
                              PyObject *keywords)
{
    Decoder *self = (Decoder *)callable;
    if (PyVectorcall_NARGS(flags) != 1 || (keywords != NULL && PyTuple_GET_SIZE(keywords) > 0)) {
        PyErr_SetString(PyExc_TypeError, "a decoder takes one argument, the body");
        return NULL;
    }
    int is_empty = PyBytes_Check(args[0]) && PyBytes_GET_SIZE(args[0]) == 0;
    PyObject *value = PyObject_CallOneArg(self->decode, is_empty ? self->empty : args[0]);
    return value == NULL ? refuse(self, args[0]) : value;
}

static int decoder_clear(Decoder *self)
{
    Py_CLEAR(self->decode);
    Py_CLEAR(self->empty);
    Py_CLEAR(self->fault_of);
    Py_CLEAR(self->error_of);
    return 0;
}

static int decoder_traverse(Decoder *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->decode);
    Py_VISIT(self->empty);
    Py_VISIT(self->fault_of);
    Py_VISIT(self->error_of);
    return 0;
}

static void decoder_dealloc(Decoder *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    decoder_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef decoder_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Decoder, call), READONLY, NULL},
    {NULL},
};

static PyType_Slot decoder_slots[] = {
    {Py_tp_doc, "Decodes a body."},
    {Py_tp_dealloc, SLOT(decoder_dealloc)},
    {Py_tp_traverse, SLOT(decoder_traverse)},
    {Py_tp_clear, SLOT(decoder_clear)},
    {Py_tp_call, SLOT(PyVectorcall_Call)},
    {Py_tp_members, decoder_members},
    {0, NULL},
};

static PyType_Spec decoder_spec = {
    .name = "tidings._core.Decoder",
    .basicsize = sizeof(Decoder),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE
        | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = decoder_slots,
};

PyTypeObject *make_decoder_type(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &decoder_spec, NULL);
}

PyObject *json_decoder(PyObject *module, PyObject *args)
{
    PyObject *decode, *empty, *fault_of, *error_of;
    if (!PyArg_ParseTuple(args, "OOOO:json_decoder", &decode, &empty, &fault_of, &error_of)) {
        return NULL;
    }
    Core *core = PyModule_GetState(module);
    Decoder *self = (Decoder *)core->decoder->tp_alloc(core->decoder, 0);
    if (self != NULL) {
        self->call = decoder_call;
        self->decode = Py_NewRef(decode);
        self->empty = Py_NewRef(empty);
        self->fault_of = Py_NewRef(fault_of);
        self->error_of = Py_NewRef(error_of);
    }
    return (PyObject *)self;
}
