/* What the files of the compiled core share.
 *
 * Each type and function here stands in for one of the same name in src/tidings, which is the
 * reference: see "The compiled core" in CONTRIBUTING.md. Only the public C API of CPython is used.
 */
#ifndef TIDINGS_CORE_H
#define TIDINGS_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#ifdef Py_GIL_DISABLED
#error "the compiled core relies on the GIL; tidings runs on its Python modules without it"
#endif

/* The number of the contract with src/tidings/core.py. Raise both when a signature, an attribute or
 * a return value changes: core.py then refuses an extension that was built from older sources. */
#define CORE_API 3

/* The attributes and methods that are looked up by name. `n_link` of the state is "link". */
#define CORE_NAMES(X) \
    X(popleft, "popleft") \
    X(call_soon, "call_soon") \
    X(write, "write") \
    X(on_crowded, "_on_crowded") \
    X(make_room, "make_room") \
    X(link, "link") \
    X(outbox, "outbox") \
    X(subject, "subject") \
    X(message, "message") \
    X(throw, "throw") \
    X(close, "close") \
    X(new_tokens, "_new_tokens") \
    X(set_timer, "_set_timer") \
    X(create_future, "create_future") \
    X(time, "time") \
    X(done, "done") \
    X(set_result, "set_result")

/* The state of the module. There is no other global state. */
typedef struct {
    PyTypeObject *parser;
    PyTypeObject *counts;
    PyTypeObject *frame_queue;
    PyTypeObject *pending_requests;
    PyTypeObject *publish;
    PyTypeObject *publisher;
    PyTypeObject *decoder;
    /* Of tidings.codec.json, looked up at the first use. */
    PyObject *reference_encode;
    PyObject *write_json;
    PyObject *holds_not_finite;
    PyObject *pydantic_dataclasses;
    PyObject *read_deadline; /* of tidings.protocol.deadlines, looked up at the first use */
    void *spare_publish; /* the memory of a Publish, not an object */
    PyObject *empty_text;
    PyObject *empty_bytes;
#define CORE_NAME(name, text) PyObject *n_##name;
    CORE_NAMES(CORE_NAME)
#undef CORE_NAME
} Core;

extern struct PyModuleDef core_module;

/* The state for an instance of one of our types, or of a Python subclass of it. */
Core *core_of(PyTypeObject *type);

/* The Python form of a class or function, in the module that has it. */
PyObject *pure_form(const char *module, const char *name);

/* Each returns a new type, or NULL with an exception. */
PyTypeObject *make_parser_type(PyObject *module);
PyTypeObject *make_counts_type(PyObject *module);
PyTypeObject *make_frame_queue_type(PyObject *module);
PyTypeObject *make_pending_requests_type(PyObject *module);
PyTypeObject *make_publish_type(PyObject *module);
PyTypeObject *make_publisher_type(PyObject *module);
PyTypeObject *make_decoder_type(PyObject *module);

/* The body of a value, as `encode` of tidings.codec. */
PyObject *encode_value(Core *core, PyObject *value);

/* The current exception as an object, with its traceback; NULL if there is none. */
PyObject *take_exception(void);

/* Functions of the module. */
PyObject *burst(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *make_publish(PyObject *module, PyObject *args);
PyObject *encode(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *keywords);
PyObject *json_decoder(PyObject *module, PyObject *args);

/* The object in a slot of a type spec. Without this cast through a function, ISO C has no way from
 * a function pointer to the `void *` of PyType_Slot; every compiler that builds CPython has. */
#define SLOT(function) ((void *)(function))

#endif
