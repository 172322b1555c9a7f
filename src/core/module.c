/* The module tidings._core: its state, its types and its functions. */
#include "core.h"

Core *core_of(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &core_module);
    return module == NULL ? NULL : PyModule_GetState(module);
}

PyObject *pure_form(const char *module, const char *name)
{
    PyObject *home = PyImport_ImportModule(module);
    PyObject *core = home == NULL ? NULL : PyImport_ImportModule("tidings.core");
    PyObject *forms = core == NULL ? NULL : PyObject_GetAttrString(core, "PURE");
    PyObject *form = forms == NULL ? NULL : PyMapping_GetItemString(forms, name);
    Py_XDECREF(home);
    Py_XDECREF(core);
    Py_XDECREF(forms);
    return form;
}

PyObject *take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (value != NULL && traceback != NULL) {
        PyException_SetTraceback(value, traceback);
    }
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

static int add_names(Core *core)
{
#define CORE_NAME(name, text) \
    if ((core->n_##name = PyUnicode_InternFromString(text)) == NULL) { \
        return -1; \
    }
    CORE_NAMES(CORE_NAME)
#undef CORE_NAME
    return 0;
}

static int add_types(Core *core, PyObject *module)
{
    core->parser = make_parser_type(module);
    core->counts = make_counts_type(module);
    core->frame_queue = make_frame_queue_type(module);
    core->pending_requests = make_pending_requests_type(module);
    core->publish = make_publish_type(module);
    core->publisher = make_publisher_type(module);
    core->decoder = make_decoder_type(module);
    if (core->parser == NULL || core->counts == NULL || core->frame_queue == NULL
        || core->pending_requests == NULL || core->publish == NULL || core->publisher == NULL
        || core->decoder == NULL) {
        return -1;
    }
    /* Only what Python code names. */
    return PyModule_AddType(module, core->parser) < 0 || PyModule_AddType(module, core->counts) < 0
            || PyModule_AddType(module, core->frame_queue) < 0
            || PyModule_AddType(module, core->pending_requests) < 0
        ? -1
        : 0;
}

static int core_exec(PyObject *module)
{
    Core *core = PyModule_GetState(module);
    core->empty_text = PyUnicode_FromString("");
    core->empty_bytes = PyBytes_FromStringAndSize("", 0);
    if (core->empty_text == NULL || core->empty_bytes == NULL || add_names(core) < 0) {
        return -1;
    }
    if (PyModule_AddIntConstant(module, "API", CORE_API) < 0) {
        return -1;
    }
    return add_types(core, module);
}

static int core_traverse(PyObject *module, visitproc visit, void *arg)
{
    Core *core = PyModule_GetState(module);
    Py_VISIT(core->parser);
    Py_VISIT(core->counts);
    Py_VISIT(core->frame_queue);
    Py_VISIT(core->pending_requests);
    Py_VISIT(core->publish);
    Py_VISIT(core->publisher);
    Py_VISIT(core->decoder);
    Py_VISIT(core->reference_encode);
    Py_VISIT(core->write_json);
    Py_VISIT(core->holds_not_finite);
    Py_VISIT(core->pydantic_dataclasses);
    Py_VISIT(core->read_deadline);
    return 0;
}

/* The types go, since they are in cycles with the module. The names stay until `core_free`: objects
 * that are still alive use them. */
static int core_clear(PyObject *module)
{
    Core *core = PyModule_GetState(module);
    if (core->spare_publish != NULL) {
        PyObject_GC_Del(core->spare_publish); /* while its type is there */
        core->spare_publish = NULL;
    }
    Py_CLEAR(core->parser);
    Py_CLEAR(core->counts);
    Py_CLEAR(core->frame_queue);
    Py_CLEAR(core->pending_requests);
    Py_CLEAR(core->publish);
    Py_CLEAR(core->publisher);
    Py_CLEAR(core->decoder);
    Py_CLEAR(core->reference_encode);
    Py_CLEAR(core->write_json);
    Py_CLEAR(core->holds_not_finite);
    Py_CLEAR(core->pydantic_dataclasses);
    Py_CLEAR(core->read_deadline);
    return 0;
}

static void core_free(void *module)
{
    Core *core = PyModule_GetState(module);
    (void)core_clear(module);
    Py_CLEAR(core->empty_text);
    Py_CLEAR(core->empty_bytes);
#define CORE_NAME(name, text) Py_CLEAR(core->n_##name);
    CORE_NAMES(CORE_NAME)
#undef CORE_NAME
}

static PyMethodDef core_functions[] = {
    {"burst", (PyCFunction)(void (*)(void))burst, METH_FASTCALL,
     "Handle queued messages whose handlers do not suspend. See tidings.handlers.bursts."},
    {"make_publish", (PyCFunction)make_publish, METH_VARARGS,
     "Return what `app.publish` is. See tidings.bus."},
    {"encode", (PyCFunction)(void (*)(void))encode, METH_FASTCALL | METH_KEYWORDS,
     "Encode a value as a body. See tidings.codec."},
    {"json_decoder", (PyCFunction)json_decoder, METH_VARARGS,
     "Return a function that decodes a body. See tidings.codec."},
    {NULL},
};

static PyModuleDef_Slot core_slots[] = {
    {Py_mod_exec, core_exec},
#if PY_VERSION_HEX >= 0x030C0000
    /* A subinterpreter runs on the Python modules. */
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tidings._core",
    .m_doc = "The compiled core of tidings. Its reference are the modules of the package.",
    .m_size = sizeof(Core),
    .m_methods = core_functions,
    .m_slots = core_slots,
    .m_traverse = core_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
