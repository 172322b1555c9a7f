/* Parser: turns the bytes of the server into frames. Reference: src/tidings/protocol/parser.py.
 *
 * Plain lines, as every server writes them, are parsed here. Any other line goes to `parse_line` of
 * the reference, so that odd input is understood in one place only. All input is hostile: every
 * read is bounded by the end of its buffer, and sizes are bounded before they are added.
 */
#include "core.h"

/* As in the reference. */
#define MAX_PAYLOAD (64 * 1024 * 1024)
#define MAX_LINE (1024 * 1024)
#define MAX_KNOWN_HEADS 4096
/* A longer line is parsed, but not remembered: 4,096 of them would fill the memory. */
#define MAX_REMEMBERED 4096
/* A buffer for an incomplete line that has grown larger than this is freed after the line. */
#define MAX_IDLE_BUFFER (1024 * 1024)
/* Memory for a larger body is allocated as its bytes arrive: a claimed size costs nothing. */
#define MAX_ADVANCE (1024 * 1024)

/* A growing piece of memory. */
typedef struct {
    char *bytes;
    Py_ssize_t length, capacity;
} Buffer;

/* A parsed line of a message. */
typedef struct {
    long long sid; /* negative if `admit` refused the subject */
    PyObject *sid_object, *subject, *reply;
    Py_ssize_t header_size, size; /* `size` includes the headers */
} Line;

/* A message whose end has not arrived. Its bytes are copied once, to where they stay. */
typedef struct {
    PyObject *block, *body; /* both NULL if its sizes are malformed and it is only skipped */
    Py_ssize_t filled;      /* bytes of both and of the line end that have arrived */
    char is_open;
} Partial;

/* A subscription whose messages each have a new subject. */
typedef struct {
    long long sid;
    PyObject *sid_object, *prefix;
} Transient;

typedef struct {
    PyObject_HEAD
    Core *core;
    PyObject *admit;      /* NULL to admit everything */
    PyObject *parse_line; /* of the reference */
    PyObject *heads;      /* b"subject sid" -> (sid, subject) */
    Transient *transients;
    Py_ssize_t transient_count;
    Py_ssize_t malformed;
    Buffer kept;     /* an incomplete line */
    Partial partial; /* an incomplete message, whose line is `line` */
    Buffer previous; /* the previous line with its line end, parsed in `line` */
    Line line;
    Buffer head; /* the previous `b"subject sid"`, and its pair */
    PyObject *pair;
    char is_busy;
} Parser;

/* The frames of one call of `feed`. */
typedef struct {
    PyObject *batches;
    PyObject *frames; /* of the current batch, or NULL */
    PyObject *sid_object;
    long long sid;
    Py_ssize_t size;
} Output;

/* Memory. */

static int buffer_append(Buffer *buffer, const char *bytes, Py_ssize_t length)
{
    if (length > PY_SSIZE_T_MAX - buffer->length) {
        PyErr_NoMemory();
        return -1;
    }
    Py_ssize_t wanted = buffer->length + length;
    if (wanted > buffer->capacity) {
        /* Doubled: a claimed size costs no memory before its bytes have arrived. */
        Py_ssize_t capacity = wanted < PY_SSIZE_T_MAX / 2 ? 2 * wanted : wanted;
        char *grown = PyMem_Realloc(buffer->bytes, (size_t)capacity);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        buffer->bytes = grown;
        buffer->capacity = capacity;
    }
    if (length > 0) {
        memcpy(buffer->bytes + buffer->length, bytes, (size_t)length);
    }
    buffer->length = wanted;
    return 0;
}

static int buffer_set(Buffer *buffer, const char *bytes, Py_ssize_t length)
{
    buffer->length = 0;
    return buffer_append(buffer, bytes, length);
}

static void buffer_free(Buffer *buffer)
{
    PyMem_Free(buffer->bytes);
    *buffer = (Buffer){NULL, 0, 0};
}

static void buffer_empty(Buffer *buffer)
{
    buffer->length = 0;
    if (buffer->capacity > MAX_IDLE_BUFFER) {
        buffer_free(buffer);
    }
}

/* Text. */

/* The start of the next CRLF, or NULL. */
static const char *find_crlf(const char *at, const char *end)
{
    while (end - at >= 2) {
        const char *found = memchr(at, '\r', (size_t)(end - at - 1));
        if (found == NULL) {
            return NULL;
        }
        if (found[1] == '\n') {
            return found;
        }
        at = found + 1;
    }
    return NULL;
}

/* The number that the digits are; -1 if they are not 1 to 18 digits. */
static long long read_number(const char *at, const char *end)
{
    if (at == end || end - at > 18) {
        return -1;
    }
    long long number = 0;
    for (; at < end; at++) {
        if (*at < '0' || *at > '9') {
            return -1;
        }
        number = number * 10 + (*at - '0');
    }
    return number;
}

/* `_is_header_block` of the reference. */
static int is_header_block(const char *block, Py_ssize_t length)
{
    if (length < 12 || memcmp(block, "NATS/1.0", 8) != 0
        || memcmp(block + length - 4, "\r\n\r\n", 4) != 0) {
        return 0;
    }
    const char *at = block + 8;
    if (*at == '\r') {
        return 1;
    }
    if (*at != ' ') {
        return 0;
    }
    const char *end = find_crlf(at, block + length);
    while (at < end && Py_ISSPACE(Py_CHARMASK(*at))) {
        at++;
    }
    const char *code = at;
    while (at < end && !Py_ISSPACE(Py_CHARMASK(*at))) {
        at++;
    }
    return at - code == 3 && read_number(code, at) >= 0;
}

/* Lines. */

/* Replace the parsed line. Steals the references of `line`. */
static void set_line(Parser *self, Line line)
{
    Line old = self->line;
    self->line = line;
    Py_XDECREF(old.sid_object);
    Py_XDECREF(old.subject);
    Py_XDECREF(old.reply);
}

/* Whether `admit` accepts the subject; -1 with an exception. */
static int is_admitted(Parser *self, PyObject *sid, PyObject *subject)
{
    if (self->admit == NULL) {
        return 1;
    }
    PyObject *answer = PyObject_CallFunctionObjArgs(self->admit, sid, subject, NULL);
    if (answer == NULL) {
        return -1;
    }
    int admitted = PyObject_IsTrue(answer);
    Py_DECREF(answer);
    return admitted;
}

/* Set sid and subject of a line from the subject's bytes. Returns 1; 0 if they are not UTF-8; -1
 * with an exception. */
static int take_new_subject(Parser *self, Line *line, const char *subject, const char *subject_end)
{
    line->subject = PyUnicode_DecodeUTF8(subject, subject_end - subject, NULL);
    if (line->subject == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    line->sid_object = PyLong_FromLongLong(line->sid);
    if (line->sid_object == NULL) {
        return -1;
    }
    int admitted = is_admitted(self, line->sid_object, line->subject);
    if (admitted == 0) {
        line->sid = -line->sid;
        PyObject *negative = PyLong_FromLongLong(line->sid);
        if (negative == NULL) {
            return -1;
        }
        Py_SETREF(line->sid_object, negative);
    }
    return admitted < 0 ? -1 : 1;
}

/* Set sid and subject of a line from the pair that is remembered for `b"subject sid"`. */
static int take_pair(Line *line, PyObject *pair)
{
    line->sid_object = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
    line->subject = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    line->sid = PyLong_AsLongLong(line->sid_object);
    return line->sid == -1 && PyErr_Occurred() ? -1 : 1;
}

static int remember_head(Parser *self, Line *line, PyObject *key)
{
    if (PyDict_GET_SIZE(self->heads) >= MAX_KNOWN_HEADS) {
        PyDict_Clear(self->heads);
    }
    PyObject *pair = PyTuple_Pack(2, line->sid_object, line->subject);
    if (pair == NULL) {
        return -1;
    }
    int result = PyDict_SetItem(self->heads, key, pair);
    Py_XSETREF(self->pair, pair);
    return result;
}

/* Set sid and subject of a line, remembering them. `head` is b"subject sid". Returns as
 * `take_new_subject`. */
static int take_head(Parser *self, Line *line, const char *head, const char *subject_end,
                     const char *head_end)
{
    Py_ssize_t length = head_end - head;
    if (self->pair != NULL && length == self->head.length
        && memcmp(head, self->head.bytes, (size_t)length) == 0) {
        return take_pair(line, self->pair);
    }
    if (length > MAX_REMEMBERED) {
        return take_new_subject(self, line, head, subject_end);
    }
    PyObject *key = PyBytes_FromStringAndSize(head, length);
    if (key == NULL) {
        return -1;
    }
    PyObject *pair = PyDict_GetItemWithError(self->heads, key);
    int result;
    if (pair != NULL) {
        Py_INCREF(pair);
        Py_XSETREF(self->pair, pair);
        result = take_pair(line, pair);
    } else if (PyErr_Occurred()) {
        result = -1;
    } else {
        result = take_new_subject(self, line, head, subject_end);
        if (result == 1 && remember_head(self, line, key) < 0) {
            result = -1;
        }
    }
    Py_DECREF(key);
    if (result == 1 && buffer_set(&self->head, head, length) < 0) {
        result = -1;
    }
    if (result != 1) {
        Py_CLEAR(self->pair); /* it no longer belongs to `self->head` */
    }
    return result;
}

static Transient *transient_of(Parser *self, long long sid)
{
    for (Py_ssize_t i = 0; i < self->transient_count; i++) {
        if (self->transients[i].sid == sid) {
            return &self->transients[i];
        }
    }
    return NULL;
}

/* Set sid and subject of an answer to a request. Its subject is new, so it is not remembered, and
 * its prefix proves that it belongs to the inbox. Returns as `take_new_subject`. */
static int take_transient(Parser *self, Line *line, const char *subject, const char *subject_end)
{
    Transient *transient = transient_of(self, line->sid);
    Py_ssize_t length = PyBytes_GET_SIZE(transient->prefix);
    if (line->reply != self->core->empty_text || subject_end - subject < length
        || memcmp(subject, PyBytes_AS_STRING(transient->prefix), (size_t)length) != 0) {
        return take_new_subject(self, line, subject, subject_end);
    }
    line->subject = PyUnicode_DecodeUTF8(subject, subject_end - subject, NULL);
    if (line->subject == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    line->sid_object = Py_NewRef(transient->sid_object);
    return 1;
}

/* Parse a plain line: MSG or HMSG and words that are each separated by one space. Returns 1 if it
 * is one and `self->line` holds it, 0 if it is not, -1 with an exception. */
static int read_plain_line(Parser *self, const char *at, const char *end)
{
    int has_headers;
    if (end - at > 4 && memcmp(at, "MSG ", 4) == 0) {
        has_headers = 0;
        at += 4;
    } else if (end - at > 5 && memcmp(at, "HMSG ", 5) == 0) {
        has_headers = 1;
        at += 5;
    } else {
        return 0;
    }
    if (memchr(at, '\t', (size_t)(end - at)) != NULL) {
        return 0; /* to a server, a tab separates words too */
    }
    /* subject sid [reply] [header size] size */
    const char *words[5], *ends[5];
    int count = 0, sizes = has_headers ? 2 : 1;
    for (const char *word = at;; word = ends[count - 1] + 1) {
        if (count == 5) {
            return 0;
        }
        const char *space = memchr(word, ' ', (size_t)(end - word));
        words[count] = word;
        ends[count] = space == NULL ? end : space;
        if (words[count] == ends[count]) {
            return 0;
        }
        count++;
        if (space == NULL) {
            break;
        }
    }
    if (count != 2 + sizes && count != 3 + sizes) {
        return 0;
    }
    Line line = {0};
    line.sid = read_number(words[1], ends[1]);
    long long size = read_number(words[count - 1], ends[count - 1]);
    long long header_size = has_headers ? read_number(words[count - 2], ends[count - 2]) : 0;
    if (line.sid <= 0 || size < 0 || size > MAX_PAYLOAD || header_size < 0
        || (has_headers && header_size == 0)) {
        return 0;
    }
    line.size = (Py_ssize_t)size;
    /* More headers than message are malformed: `read_message` checks it. */
    line.header_size = header_size > size ? line.size + 1 : (Py_ssize_t)header_size;

    int result = 1;
    if (count == 3 + sizes) {
        line.reply = PyUnicode_DecodeUTF8(words[2], ends[2] - words[2], NULL);
        if (line.reply == NULL) {
            result = PyErr_ExceptionMatches(PyExc_UnicodeDecodeError) ? 0 : -1;
            if (result == 0) {
                PyErr_Clear();
            }
        }
    } else {
        line.reply = Py_NewRef(self->core->empty_text);
    }
    if (result == 1) {
        if (self->transient_count && transient_of(self, line.sid) != NULL) {
            result = take_transient(self, &line, words[0], ends[0]);
        } else {
            result = take_head(self, &line, words[0], ends[0], ends[1]);
        }
    }
    if (result == 1) {
        set_line(self, line);
    } else {
        Py_XDECREF(line.sid_object);
        Py_XDECREF(line.subject);
        Py_XDECREF(line.reply);
    }
    return result;
}

/* Batches. */

static int close_batch(Output *output)
{
    if (output->frames == NULL) {
        return 0;
    }
    PyObject *batch = Py_BuildValue("(OnN)", output->sid_object, output->size, output->frames);
    output->frames = NULL; /* "N" takes it, even on failure */
    output->size = 0;
    if (batch == NULL) {
        return -1;
    }
    int result = PyList_Append(output->batches, batch);
    Py_DECREF(batch);
    return result;
}

/* Begin a batch, unless the current one is of the same subscription. */
static int open_batch(Output *output, long long sid, PyObject *sid_object)
{
    if (output->frames != NULL) {
        if (output->sid == sid) {
            return 0;
        }
        if (close_batch(output) < 0) {
            return -1;
        }
    }
    output->frames = PyList_New(0);
    output->sid = sid;
    Py_INCREF(sid_object);
    Py_XSETREF(output->sid_object, sid_object);
    return output->frames == NULL ? -1 : 0;
}

/* Add a control line: a batch of its own. */
static int add_control(Output *output, PyObject *sid_object, PyObject *frame)
{
    if (close_batch(output) < 0 || open_batch(output, 0, sid_object) < 0
        || PyList_Append(output->frames, frame) < 0) {
        return -1;
    }
    return close_batch(output);
}

/* Parse a line that is not plain. Returns 1 if it is the line of a message, 0 if it is complete
 * with its line end, -1 with an exception. */
static int read_odd_line(Parser *self, Output *output, const char *at, const char *end)
{
    PyObject *parsed = PyObject_CallFunction(self->parse_line, "y#", at, (Py_ssize_t)(end - at));
    if (parsed == NULL) {
        return -1;
    }
    if (parsed == Py_None) {
        self->malformed++;
        Py_DECREF(parsed);
        return 0;
    }
    int result = -1;
    if (!PyTuple_Check(parsed) || PyTuple_GET_SIZE(parsed) != 5) {
        PyErr_SetString(PyExc_TypeError, "parse_line must return a tuple of five");
        goto done;
    }
    Line line = {0};
    line.sid = PyLong_AsLongLong(PyTuple_GET_ITEM(parsed, 0));
    if (line.sid == -1 && PyErr_Occurred()) {
        goto done;
    }
    if (line.sid == 0) {
        result = add_control(output, PyTuple_GET_ITEM(parsed, 0), parsed);
        goto done;
    }
    long long sid, size, header_size;
    if (!PyArg_ParseTuple(parsed, "LUULL", &sid, &line.subject, &line.reply, &header_size, &size)) {
        goto done;
    }
    if (size < 0 || size > MAX_PAYLOAD || header_size < 0) {
        PyErr_SetString(PyExc_ValueError, "parse_line returned a size that is out of range");
        goto done;
    }
    int admitted = is_admitted(self, PyTuple_GET_ITEM(parsed, 0), line.subject);
    if (admitted < 0) {
        goto done;
    }
    line.sid = admitted ? sid : -sid;
    line.sid_object = PyLong_FromLongLong(line.sid);
    if (line.sid_object == NULL) {
        goto done;
    }
    Py_INCREF(line.subject);
    Py_INCREF(line.reply);
    line.size = (Py_ssize_t)size;
    line.header_size = header_size > size ? line.size + 1 : (Py_ssize_t)header_size;
    set_line(self, line);
    result = 1;
done:
    Py_DECREF(parsed);
    return result;
}

/* Messages. */

/* MARK of src/tidings/protocol/deadlines.py. */
static const char deadline_mark[] = "\r\nTidings-Deadline-Ms:";

static int has_deadline(const char *block, Py_ssize_t length)
{
    const Py_ssize_t size = sizeof(deadline_mark) - 1;
    const char *end = block + length;
    while ((block = find_crlf(block, end)) != NULL && end - block >= size) {
        if (memcmp(block, deadline_mark, (size_t)size) == 0) {
            return 1;
        }
        block += 2;
    }
    return 0;
}

/* The header block of a message, whose time begins to run if it has a deadline. Takes the reference
 * of the argument. */
static PyObject *timed_block(Parser *self, PyObject *block)
{
    if (!has_deadline(PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block))) {
        return block;
    }
    Core *core = self->core;
    if (core->read_deadline == NULL) {
        PyObject *module = PyImport_ImportModule("tidings.protocol.deadlines");
        core->read_deadline = module == NULL ? NULL : PyObject_GetAttrString(module, "read_deadline");
        Py_XDECREF(module);
    }
    PyObject *timed
        = core->read_deadline == NULL ? NULL : PyObject_CallOneArg(core->read_deadline, block);
    Py_DECREF(block);
    return timed;
}

/* Add the message of `self->line`. Takes the references of block and body, and fails if one of
 * them is NULL. */
static int add_message(Parser *self, Output *output, PyObject *block, PyObject *body)
{
    const Line *line = &self->line;
    PyObject *frame = PyTuple_New(5);
    if (block == NULL || body == NULL || frame == NULL
        || open_batch(output, line->sid, line->sid_object) < 0) {
        Py_XDECREF(block);
        Py_XDECREF(body);
        Py_XDECREF(frame);
        return -1;
    }
    PyTuple_SET_ITEM(frame, 0, Py_NewRef(line->sid_object));
    PyTuple_SET_ITEM(frame, 1, Py_NewRef(line->subject));
    PyTuple_SET_ITEM(frame, 2, Py_NewRef(line->reply));
    PyTuple_SET_ITEM(frame, 3, block);
    PyTuple_SET_ITEM(frame, 4, body);
    /* It holds numbers and text only, so it is in no cycle. The collector finds that out too, but
     * only after it has looked at each frame that waits in a queue. */
    PyObject_GC_UnTrack(frame);
    output->size += line->size;
    int result = PyList_Append(output->frames, frame);
    Py_DECREF(frame);
    return result;
}

/* Add the message of `self->line`, whose headers and body start at `at`. */
static int read_message(Parser *self, Output *output, const char *at)
{
    const Line *line = &self->line;
    PyObject *block;
    if (line->header_size == 0) {
        block = Py_NewRef(self->core->empty_bytes);
    } else if (line->header_size <= line->size && is_header_block(at, line->header_size)) {
        block = PyBytes_FromStringAndSize(at, line->header_size);
        block = block == NULL ? NULL : timed_block(self, block);
    } else {
        self->malformed++;
        return 0;
    }
    PyObject *body = PyBytes_FromStringAndSize(at + line->header_size, line->size - line->header_size);
    return add_message(self, output, block, body);
}

/* Incomplete messages. */

static void drop_partial(Parser *self)
{
    Py_CLEAR(self->partial.block);
    Py_CLEAR(self->partial.body);
    self->partial.filled = 0;
    self->partial.is_open = 0;
}

/* Begin the message of `self->line`, whose first bytes are in this chunk. */
static int open_partial(Parser *self)
{
    const Line *line = &self->line;
    self->partial.is_open = 1;
    if (line->header_size > line->size) {
        return 0;
    }
    Py_ssize_t size = line->size - line->header_size;
    self->partial.block = line->header_size ? PyBytes_FromStringAndSize(NULL, line->header_size)
                                            : Py_NewRef(self->core->empty_bytes);
    self->partial.body = PyBytes_FromStringAndSize(NULL, size < MAX_ADVANCE ? size : MAX_ADVANCE);
    if (self->partial.block == NULL || self->partial.body == NULL) {
        drop_partial(self);
        return -1;
    }
    return 0;
}

/* Make room in the body for so many bytes in all: doubled, up to its size. */
static int grow_body(Parser *self, Py_ssize_t wanted)
{
    Py_ssize_t room = PyBytes_GET_SIZE(self->partial.body);
    if (wanted <= room) {
        return 0;
    }
    Py_ssize_t size = self->line.size - self->line.header_size;
    Py_ssize_t doubled = 2 * (wanted > room ? wanted : room); /* both are at most MAX_PAYLOAD */
    return _PyBytes_Resize(&self->partial.body, doubled < size ? doubled : size);
}

/* Copy the next bytes of the incomplete message to where they belong. */
static int fill_partial(Parser *self, const char *at, Py_ssize_t given)
{
    Partial *partial = &self->partial;
    const Line *line = &self->line;
    Py_ssize_t filled = partial->filled;
    partial->filled += given;
    if (partial->body == NULL) {
        return 0;
    }
    if (filled < line->header_size) {
        Py_ssize_t left = line->header_size - filled, taken = given < left ? given : left;
        memcpy(PyBytes_AS_STRING(partial->block) + filled, at, (size_t)taken);
        at += taken;
        given -= taken;
        filled += taken;
    }
    Py_ssize_t left = line->size - filled, taken = given < left ? given : left;
    if (taken <= 0) {
        return 0; /* the line end */
    }
    Py_ssize_t start = filled - line->header_size;
    if (grow_body(self, start + taken) < 0) {
        return -1;
    }
    memcpy(PyBytes_AS_STRING(partial->body) + start, at, (size_t)taken);
    return 0;
}

/* Add the message that is now complete. */
static int close_partial(Parser *self, Output *output)
{
    PyObject *block = self->partial.block, *body = self->partial.body;
    Py_ssize_t header_size = self->line.header_size;
    self->partial.block = self->partial.body = NULL;
    drop_partial(self);
    if (body == NULL
        || (header_size && !is_header_block(PyBytes_AS_STRING(block), header_size))) {
        self->malformed++;
        Py_XDECREF(block);
        Py_XDECREF(body);
        return 0;
    }
    return add_message(self, output, header_size ? timed_block(self, block) : block, body);
}

/* Take the bytes of the incomplete message, and move `*at` behind them. */
static int finish_partial(Parser *self, Output *output, const char **at, const char *end)
{
    Py_ssize_t wanted = self->line.size + 2 - self->partial.filled, given = end - *at;
    Py_ssize_t taken = wanted < given ? wanted : given;
    int result = fill_partial(self, *at, taken);
    if (result == 0 && taken == wanted) {
        result = close_partial(self, output);
    }
    if (result < 0) {
        drop_partial(self);
    }
    *at += taken;
    return result;
}

/* Frames. */

/* Parse the frame at `*at`, or begin it if its end is missing. Returns 1 and moves `*at` behind its
 * bytes; 0 if its line is incomplete; -1 with an exception. */
static int read_frame(Parser *self, Output *output, const char **at, const char *end)
{
    const char *start = *at, *body;
    Py_ssize_t known = self->previous.length;
    if (known && end - start >= known
        && memcmp(start, self->previous.bytes, (size_t)known) == 0) {
        body = start + known;
    } else {
        const char *stop = find_crlf(start, end);
        if (stop == NULL) {
            return 0;
        }
        body = stop + 2;
        self->previous.length = 0;
        int result = read_plain_line(self, start, stop);
        if (result == 0) {
            result = read_odd_line(self, output, start, stop);
            if (result == 0) {
                *at = body;
                return 1;
            }
        }
        if (result < 0) {
            return -1;
        }
        if (body - start <= MAX_REMEMBERED && buffer_set(&self->previous, start, body - start) < 0) {
            return -1;
        }
    }
    Py_ssize_t size = self->line.size;
    *at = body;
    if (end - body < size + 2) {
        return open_partial(self) < 0 || finish_partial(self, output, at, end) < 0 ? -1 : 1;
    }
    *at = body + size + 2;
    return read_message(self, output, body) < 0 ? -1 : 1;
}

/* How many bytes of a chunk the incomplete line needs. More than there are, if the chunk does not
 * complete it. */
static Py_ssize_t missing(Parser *self, const char *at, const char *end)
{
    if (self->kept.bytes[self->kept.length - 1] == '\r' && at < end && *at == '\n') {
        return 1;
    }
    const char *stop = find_crlf(at, end);
    return stop == NULL ? PY_SSIZE_T_MAX : stop + 2 - at;
}

/* Complete what an earlier chunk began, and move `*at` behind it. If it is still incomplete, the
 * whole chunk is kept. */
static int finish_kept(Parser *self, Output *output, const char **at, const char *end)
{
    if (self->kept.length) {
        Py_ssize_t wanted = missing(self, *at, end), given = end - *at;
        Py_ssize_t taken = wanted < given ? wanted : given;
        if (buffer_append(&self->kept, *at, taken) < 0) {
            return -1;
        }
        *at += taken;
        if (taken < wanted) {
            return 0;
        }
        const char *start = self->kept.bytes;
        if (read_frame(self, output, &start, start + self->kept.length) < 0) {
            return -1;
        }
        buffer_empty(&self->kept);
    }
    return self->partial.is_open ? finish_partial(self, output, at, end) : 0;
}

static int feed_bytes(Parser *self, Output *output, const char *at, const char *end)
{
    if (finish_kept(self, output, &at, end) < 0) {
        return -1;
    }
    while (at < end) {
        int result = read_frame(self, output, &at, end);
        if (result < 0) {
            return -1;
        }
        if (result == 0) {
            if (buffer_append(&self->kept, at, end - at) < 0) {
                return -1;
            }
            break;
        }
    }
    if (self->kept.length > MAX_LINE) {
        self->malformed++; /* an endless line */
        buffer_empty(&self->kept);
    }
    return close_batch(output);
}

static PyObject *parser_feed(Parser *self, PyObject *data)
{
    if (!PyBytes_Check(data)) {
        return PyErr_Format(PyExc_TypeError, "feed() takes bytes, got %.100s",
                            Py_TYPE(data)->tp_name);
    }
    if (self->is_busy || self->heads == NULL) { /* the collector clears a dead parser */
        PyErr_SetString(PyExc_RuntimeError, "feed() was called while the parser is at work");
        return NULL;
    }
    Output output = {PyList_New(0), NULL, NULL, 0, 0};
    if (output.batches == NULL) {
        return NULL;
    }
    self->is_busy = 1;
    const char *at = PyBytes_AS_STRING(data);
    int result = feed_bytes(self, &output, at, at + PyBytes_GET_SIZE(data));
    self->is_busy = 0;
    Py_XDECREF(output.sid_object);
    Py_XDECREF(output.frames);
    if (result < 0) {
        buffer_empty(&self->kept);
        drop_partial(self);
        Py_DECREF(output.batches);
        return NULL;
    }
    return output.batches;
}

static PyObject *parser_reset(Parser *self, PyObject *Py_UNUSED(ignored))
{
    if (self->is_busy) {
        PyErr_SetString(PyExc_RuntimeError, "reset() was called by the function `admit`");
        return NULL;
    }
    buffer_empty(&self->kept);
    drop_partial(self);
    Py_RETURN_NONE;
}

static PyObject *parser_expect_new_subjects(Parser *self, PyObject *args)
{
    PyObject *sid_object, *prefix;
    if (!PyArg_ParseTuple(args, "O!S:expect_new_subjects", &PyLong_Type, &sid_object, &prefix)) {
        return NULL;
    }
    long long sid = PyLong_AsLongLong(sid_object);
    if (sid == -1 && PyErr_Occurred()) {
        return NULL;
    }
    if (self->is_busy) {
        PyErr_SetString(PyExc_RuntimeError, "expect_new_subjects() was called by `admit`");
        return NULL;
    }
    Transient *transient = transient_of(self, sid);
    if (transient != NULL) {
        Py_INCREF(prefix);
        Py_SETREF(transient->prefix, prefix);
        Py_RETURN_NONE;
    }
    size_t size = (size_t)(self->transient_count + 1) * sizeof(Transient);
    Transient *grown = PyMem_Realloc(self->transients, size);
    if (grown == NULL) {
        return PyErr_NoMemory();
    }
    grown[self->transient_count] = (Transient){sid, Py_NewRef(sid_object), Py_NewRef(prefix)};
    self->transients = grown;
    self->transient_count++;
    Py_RETURN_NONE;
}

/* The type. */

static int parser_clear(Parser *self)
{
    Py_CLEAR(self->admit);
    Py_CLEAR(self->parse_line);
    Py_CLEAR(self->heads);
    Py_CLEAR(self->pair);
    set_line(self, (Line){0});
    self->previous.length = 0;
    return 0;
}

static int parser_traverse(Parser *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->admit);
    Py_VISIT(self->parse_line);
    Py_VISIT(self->heads);
    Py_VISIT(self->pair);
    return 0;
}

static void parser_dealloc(Parser *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    parser_clear(self);
    drop_partial(self);
    for (Py_ssize_t i = 0; i < self->transient_count; i++) {
        Py_DECREF(self->transients[i].sid_object);
        Py_DECREF(self->transients[i].prefix);
    }
    PyMem_Free(self->transients);
    buffer_free(&self->kept);
    buffer_free(&self->previous);
    buffer_free(&self->head);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *parser_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    static char *names[] = {"admit", NULL};
    PyObject *admit = Py_None;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "|O:Parser", names, &admit)) {
        return NULL;
    }
    PyObject *reference = PyImport_ImportModule("tidings.protocol.parser");
    if (reference == NULL) {
        return NULL;
    }
    Parser *self = (Parser *)type->tp_alloc(type, 0);
    if (self != NULL) {
        self->core = core_of(type);
        self->admit = admit == Py_None ? NULL : Py_NewRef(admit);
        self->parse_line = PyObject_GetAttrString(reference, "parse_line");
        self->heads = PyDict_New();
        if (self->core == NULL || self->parse_line == NULL || self->heads == NULL) {
            Py_CLEAR(self);
        }
    }
    Py_DECREF(reference);
    return (PyObject *)self;
}

static PyMethodDef parser_methods[] = {
    {"feed", (PyCFunction)parser_feed, METH_O,
     "Parse a chunk and return the frames that it completes, in order."},
    {"reset", (PyCFunction)parser_reset, METH_NOARGS,
     "Forget an incomplete frame, for a new connection."},
    {"expect_new_subjects", (PyCFunction)parser_expect_new_subjects, METH_VARARGS,
     "Do not remember the lines of this subscription."},
    {NULL},
};

static PyMemberDef parser_members[] = {
    {"malformed", T_PYSSIZET, offsetof(Parser, malformed), 0, NULL},
    {NULL},
};

static PyType_Slot parser_slots[] = {
    {Py_tp_doc, "Turns bytes into frames. See tidings.protocol.parser."},
    {Py_tp_new, SLOT(parser_new)},
    {Py_tp_dealloc, SLOT(parser_dealloc)},
    {Py_tp_traverse, SLOT(parser_traverse)},
    {Py_tp_clear, SLOT(parser_clear)},
    {Py_tp_methods, parser_methods},
    {Py_tp_members, parser_members},
    {0, NULL},
};

static PyType_Spec parser_spec = {
    .name = "tidings._core.Parser",
    .basicsize = sizeof(Parser),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = parser_slots,
};

PyTypeObject *make_parser_type(PyObject *module)
{
    return (PyTypeObject *)PyType_FromModuleAndSpec(module, &parser_spec, NULL);
}
