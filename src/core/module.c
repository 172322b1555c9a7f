/* The module tidings._core: its state, its types and its functions. */
#include "core.h"

Core *core_of(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &core_module);
    return module == NULL ? NULL : PyModule_GetState(module);
}

/* Add a type to the module under its name, and keep it. */
static int add_type(PyObject *module, PyTypeObject **place, PyTypeObject *type)
{
    *place = type;
    return type == NULL ? -1 : PyModule_AddType(module, type);
}

static int add_name(PyObject **place, const char *name)
{
    *place = PyUnicode_InternFromString(name);
    return *place == NULL ? -1 : 0;
}

static int core_exec(PyObject *module)
{
    Core *core = PyModule_GetState(module);
    core->empty_text = PyUnicode_FromString("");
    core->empty_bytes = PyBytes_FromStringAndSize("", 0);
    if (core->empty_text == NULL || core->empty_bytes == NULL
        || add_name(&core->n_popleft, "popleft") < 0
        || PyModule_AddIntConstant(module, "API", CORE_API) < 0
        || add_type(module, &core->parser, make_parser_type(module)) < 0
        || add_type(module, &core->counts, make_counts_type(module)) < 0) {
        return -1;
    }
    return 0;
}

static int core_traverse(PyObject *module, visitproc visit, void *arg)
{
    Core *core = PyModule_GetState(module);
    Py_VISIT(core->parser);
    Py_VISIT(core->counts);
    return 0;
}

static int core_clear(PyObject *module)
{
    Core *core = PyModule_GetState(module);
    Py_CLEAR(core->parser);
    Py_CLEAR(core->counts);
    Py_CLEAR(core->empty_text);
    Py_CLEAR(core->empty_bytes);
    Py_CLEAR(core->n_popleft);
    return 0;
}

static void core_free(void *module)
{
    (void)core_clear(module);
}

static PyMethodDef core_functions[] = {
    {"burst", (PyCFunction)(void (*)(void))burst, METH_FASTCALL,
     "Handle queued messages whose handlers do not suspend. See tidings.handlers.bursts."},
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
