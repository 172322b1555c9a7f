/* The C client (libnats) with the same command line and the same one line of output as the others.
 *
 * It has no JSON: it finds the number after "id": and writes its text with snprintf.
 */

#include <nats/nats.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define FIRST_ID 1000000000LL
#define REPORT "report.count"
#define ECHO "echo.request"
#define STREAM "BENCH"
#define DURABLE "bench"
#define PACE 2000

typedef struct {
    double clock, cpu;
    long rss;
} Reading;

static struct {
    const char *action, *url;
    long n, warmup, size, block, subscriptions, in_flight, concurrency;
} opts = {.n = 1000, .size = 128, .block = 100, .subscriptions = 1, .in_flight = 1};

static natsConnection *nc;
static Reading started, stopped;
static long errors;

/* One lock for whatever the threads share; `finished` wakes main. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER;
static bool done;

static void check(natsStatus status, const char *what)
{
    if (status == NATS_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, natsStatus_GetText(status));
    exit(1);
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static long resident(void)
{
    long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL)
        return 0;
    if (fscanf(statm, "%*d %ld", &pages) != 1)
        pages = 0;
    fclose(statm);
    return pages * sysconf(_SC_PAGESIZE);
}

static Reading reading(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double user = usage.ru_utime.tv_sec + usage.ru_utime.tv_usec / 1e6;
    double system = usage.ru_stime.tv_sec + usage.ru_stime.tv_usec / 1e6;
    return (Reading){.clock = seconds(), .cpu = user + system, .rss = resident()};
}

static void emit(const char *more)
{
    printf("{\"version\": \"%s\", \"loop\": \"C\", \"n\": %ld, \"seconds\": %.9f, \"cpu\": %.6f, "
           "\"rss_before\": %ld, \"rss_after\": %ld%s",
           nats_GetVersion(), opts.n, stopped.clock - started.clock, stopped.cpu - started.cpu,
           started.rss, stopped.rss, more);
    if (errors)
        printf(", \"error\": \"%ld messages out of order or wrong\"", errors);
    printf("}\n");
}

static void finish(void)
{
    pthread_mutex_lock(&lock);
    done = true;
    pthread_cond_signal(&finished);
    pthread_mutex_unlock(&lock);
}

static void wait_until_finished(void)
{
    pthread_mutex_lock(&lock);
    while (!done)
        pthread_cond_wait(&finished, &lock);
    pthread_mutex_unlock(&lock);
}

static void report(long count)
{
    char text[32];
    snprintf(text, sizeof text, "count=%ld", count);
    check(natsConnection_PublishString(nc, REPORT, text), "report");
}

static long long id_in(const natsMsg *msg)
{
    const char *at = strstr(natsMsg_GetData(msg), "\"id\":");
    return at == NULL ? -1 : strtoll(at + strlen("\"id\":"), NULL, 10) - FIRST_ID;
}

/* publish */

static void publish_all(long n)
{
    char *body = malloc(opts.size);
    memset(body, 'x', opts.size);
    for (long i = 0; i < n; i++)
        check(natsConnection_Publish(nc, "load.0", body, opts.size), "publish");
    check(natsConnection_FlushTimeout(nc, 60000), "flush");
    free(body);
}

static void publish(void)
{
    char more[64];
    publish_all(opts.warmup);
    started = reading();
    publish_all(opts.n);
    stopped = reading();
    snprintf(more, sizeof more, ", \"sent\": %ld", opts.n + opts.warmup);
    emit(more);
}

/* receive: the library runs the handler of each subscription in a thread of its own, or in one of
 * its pool if there are many. They share the count. */

static long received;

static bool ends_its_block(const natsMsg *msg)
{
    const char *data = natsMsg_GetData(msg);
    if (natsMsg_GetDataLength(msg) < 10)
        return data[0] == '!';
    return strtoll(data, NULL, 10) - FIRST_ID == received;
}

static void end_block(long count)
{
    if (count == opts.warmup)
        started = reading();
    if (count == opts.warmup + opts.n)
        stopped = reading();
    report(count);
    if (count == opts.warmup + opts.n)
        finish();
}

static void on_raw(natsConnection *c, natsSubscription *sub, natsMsg *msg, void *closure)
{
    (void)c, (void)sub, (void)closure;
    if (++received % opts.block == 0) {
        if (!ends_its_block(msg))
            errors++;
        end_block(received);
    }
    natsMsg_Destroy(msg);
}

static void on_header(natsConnection *c, natsSubscription *sub, natsMsg *msg, void *closure)
{
    const char *value = NULL;
    natsStatus status = natsMsgHeader_Get(msg, "Header-0", &value);
    if (status != NATS_OK && status != NATS_NOT_FOUND)
        check(status, "header");
    on_raw(c, sub, msg, closure);
}

static void on_any(natsConnection *c, natsSubscription *sub, natsMsg *msg, void *closure)
{
    (void)c, (void)sub, (void)closure;
    long count = __atomic_add_fetch(&received, 1, __ATOMIC_RELAXED);
    if (count % opts.block == 0)
        end_block(count);
    natsMsg_Destroy(msg);
}

static void receive(natsMsgHandler handler)
{
    natsSubscription **subs = calloc(opts.subscriptions, sizeof *subs);
    char subject[32];
    for (long i = 0; i < opts.subscriptions; i++) {
        snprintf(subject, sizeof subject, "load.%ld", i);
        check(natsConnection_Subscribe(&subs[i], nc, subject, handler, NULL), "subscribe");
    }
    report(0);
    wait_until_finished();
    check(natsConnection_FlushTimeout(nc, 10000), "flush");
    emit("");
    for (long i = 0; i < opts.subscriptions; i++)
        natsSubscription_Destroy(subs[i]);
    free(subs);
}

static void receive_raw(void)
{
    receive(opts.subscriptions == 1 ? on_raw : on_any);
}

static void receive_headers(void)
{
    receive(on_header);
}

/* respond */

static void on_request(natsConnection *c, natsSubscription *sub, natsMsg *msg, void *closure)
{
    (void)sub, (void)closure;
    char text[64];
    snprintf(text, sizeof text, "{\"id\":%lld,\"ok\":true}", FIRST_ID + id_in(msg));
    check(natsConnection_PublishString(c, natsMsg_GetReply(msg), text), "respond");
    natsMsg_Destroy(msg);
}

static void respond(void)
{
    natsSubscription *sub;
    check(natsConnection_Subscribe(&sub, nc, ECHO, on_request, NULL), "subscribe");
    report(0);
    wait_until_finished();
}

/* request: one at a time by the library's own call, which blocks; many by PublishRequest and a
 * subscription on one inbox, whose handler sends the next request for every reply that came */

static void request(long id)
{
    char text[64], expected[64];
    natsMsg *reply = NULL;
    snprintf(text, sizeof text, "{\"id\":%lld,\"name\":\"Ada\"}", FIRST_ID + id);
    snprintf(expected, sizeof expected, "{\"id\":%lld,\"ok\":true}", FIRST_ID + id);
    check(natsConnection_RequestString(&reply, nc, ECHO, text, 10000), "request");
    if (strcmp(natsMsg_GetData(reply), expected) != 0)
        errors++;
    natsMsg_Destroy(reply);
}

static struct {
    char inbox[64];
    long sent, answered, total; /* sent: by main for the first ones, then by the handler */
} many;

static void send_next(void)
{
    char reply[96], text[64];
    long id = __atomic_fetch_add(&many.sent, 1, __ATOMIC_RELAXED);
    snprintf(reply, sizeof reply, "%s.%ld", many.inbox, id);
    snprintf(text, sizeof text, "{\"id\":%lld,\"name\":\"Ada\"}", FIRST_ID + id);
    check(natsConnection_PublishRequestString(nc, ECHO, reply, text), "request");
}

static bool answers_its_request(const natsMsg *msg)
{
    const char *token = strrchr(natsMsg_GetSubject(msg), '.') + 1;
    return strtoll(token, NULL, 10) == id_in(msg);
}

static void on_reply(natsConnection *c, natsSubscription *sub, natsMsg *msg, void *closure)
{
    (void)c, (void)sub, (void)closure;
    if (!answers_its_request(msg))
        errors++;
    natsMsg_Destroy(msg);
    if (++many.answered == opts.warmup)
        started = reading();
    if (many.answered == many.total) {
        stopped = reading();
        finish();
    } else if (many.sent < many.total)
        send_next();
}

static natsSubscription *subscribe_inbox(natsMsgHandler handler)
{
    natsInbox *inbox;
    natsSubscription *sub;
    char wildcard[80];
    check(natsInbox_Create(&inbox), "inbox");
    snprintf(many.inbox, sizeof many.inbox, "%s", inbox);
    snprintf(wildcard, sizeof wildcard, "%s.*", inbox);
    natsInbox_Destroy(inbox);
    check(natsConnection_Subscribe(&sub, nc, wildcard, handler, NULL), "subscribe");
    check(natsConnection_FlushTimeout(nc, 10000), "flush");
    return sub;
}

static void request_many(void)
{
    natsSubscription *sub = subscribe_inbox(on_reply);
    many.total = opts.warmup + opts.n;
    long first = many.total < opts.in_flight ? many.total : opts.in_flight;
    for (long i = 0; i < first; i++)
        send_next();
    wait_until_finished();
    emit("");
    natsSubscription_Destroy(sub);
}

/* paced: at a fixed rate, whether the earlier ones are answered or not */

static double *sent_at, *latencies;

static void sleep_until(double when)
{
    double early = when - seconds();
    if (early <= 0)
        return;
    struct timespec wait = {.tv_sec = (time_t)early, .tv_nsec = (early - (time_t)early) * 1e9};
    nanosleep(&wait, NULL);
}

static void on_paced_reply(natsConnection *c, natsSubscription *sub, natsMsg *msg, void *closure)
{
    (void)c, (void)sub, (void)closure;
    latencies[many.answered] = seconds() - sent_at[id_in(msg)];
    if (!answers_its_request(msg))
        errors++;
    natsMsg_Destroy(msg);
    if (++many.answered == opts.n)
        finish();
}

static int ascending(const void *a, const void *b)
{
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void emit_latencies(void)
{
    char more[96];
    qsort(latencies, opts.n, sizeof *latencies, ascending);
    snprintf(more, sizeof more, ", \"p50\": %.9f, \"p99\": %.9f", latencies[opts.n / 2],
             latencies[opts.n * 99 / 100]);
    emit(more);
    free(latencies);
}

static void request_paced(void)
{
    natsSubscription *sub = subscribe_inbox(on_paced_reply);
    sent_at = calloc(opts.n, sizeof *sent_at);
    latencies = calloc(opts.n, sizeof *latencies);
    started = reading();
    for (long i = 0; i < opts.n; i++) {
        sleep_until(started.clock + (double)i / PACE);
        sent_at[i] = seconds();
        send_next();
    }
    wait_until_finished();
    stopped = reading();
    emit_latencies();
    free(sent_at);
    natsSubscription_Destroy(sub);
}

static void request_one(void)
{
    latencies = calloc(opts.n, sizeof *latencies);
    for (long i = 0; i < opts.warmup; i++)
        request(i);
    started = reading();
    for (long i = 0; i < opts.n; i++) {
        double before = seconds();
        request(i);
        latencies[i] = seconds() - before;
    }
    stopped = reading();
    emit_latencies();
}

/* streams: messages are fetched from a pull consumer, and published without waiting for each */

static jsCtx *jetstream(void)
{
    jsOptions options;
    jsCtx *js;
    check(jsOptions_Init(&options), "options");
    options.PublishAsync.MaxPending = opts.in_flight;
    check(natsConnection_JetStream(&js, nc, &options), "jetstream");
    return js;
}

static void on_stream(natsMsg *msg)
{
    if (++received == opts.warmup)
        started = reading();
    check(natsMsg_Ack(msg, NULL), "ack");
    natsMsg_Destroy(msg);
}

static void js_consume(void)
{
    jsCtx *js = jetstream();
    jsSubOptions options;
    natsSubscription *sub;
    long held = opts.in_flight > opts.concurrency ? opts.in_flight : opts.concurrency;
    check(jsSubOptions_Init(&options), "options");
    options.Stream = STREAM;
    check(js_PullSubscribe(&sub, js, "load.>", DURABLE, NULL, &options, NULL), "subscribe");
    while (received < opts.warmup + opts.n) {
        natsMsgList list;
        check(natsSubscription_Fetch(&list, sub, held, 30000, NULL), "fetch");
        for (int i = 0; i < list.Count; i++) {
            on_stream(list.Msgs[i]);
            list.Msgs[i] = NULL;
        }
        natsMsgList_Destroy(&list);
    }
    stopped = reading();
    check(natsConnection_FlushTimeout(nc, 10000), "flush");
    emit("");
    natsSubscription_Destroy(sub);
    jsCtx_Destroy(js);
}

static void store_all(jsCtx *js, long n)
{
    char *body = malloc(opts.size);
    memset(body, 'x', opts.size);
    for (long i = 0; i < n; i++)
        check(js_PublishAsync(js, "load.0", body, opts.size, NULL), "publish");
    check(js_PublishAsyncComplete(js, NULL), "publish");
    free(body);
}

static void js_publish_window(void)
{
    char more[64];
    jsCtx *js = jetstream();
    store_all(js, opts.warmup);
    started = reading();
    store_all(js, opts.n);
    stopped = reading();
    snprintf(more, sizeof more, ", \"sent\": %ld", opts.n + opts.warmup);
    emit(more);
    jsCtx_Destroy(js);
}

/* start: ready once a subscription exists */

static void start(void)
{
    natsSubscription *sub;
    opts.n = 1;
    check(natsConnection_Subscribe(&sub, nc, ECHO, on_request, NULL), "subscribe");
    report(0);
    check(natsConnection_FlushTimeout(nc, 10000), "flush");
    started = stopped = reading();
    started.cpu = 0;
    emit("");
    natsSubscription_Destroy(sub);
}

static const struct {
    const char *name;
    void (*run)(void);
} actions[] = {
    {"publish", publish},
    {"receive_raw", receive_raw},
    {"receive_headers", receive_headers},
    {"respond", respond},
    {"request_many", request_many},
    {"request_one", request_one},
    {"request_paced", request_paced},
    {"js_consume", js_consume},
    {"js_publish_window", js_publish_window},
    {"start", start},
};

static void take_option(const char *name, const char *value)
{
    const struct {
        const char *name;
        long *where;
    } known[] = {
        {"--n", &opts.n},         {"--warmup", &opts.warmup},
        {"--size", &opts.size},   {"--block", &opts.block},
        {"--in-flight", &opts.in_flight}, {"--subscriptions", &opts.subscriptions},
        {"--concurrency", &opts.concurrency},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0)
            *known[i].where = atol(value);
}

/* By default libnats collects what is published for about a millisecond, which is right for
 * throughput and wrong for a single request or its reply. */
static void connect_to_server(void)
{
    natsOptions *options;
    bool at_once = strcmp(opts.action, "request_paced") == 0 ||
                   (strcmp(opts.action, "respond") == 0 && opts.in_flight == 1);
    check(natsOptions_Create(&options), "options");
    check(natsOptions_SetURL(options, opts.url), "url");
    check(natsOptions_SetSendAsap(options, at_once), "send asap");
    check(natsConnection_Connect(&nc, options), "connect");
    natsOptions_Destroy(options);
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    opts.action = argv[1], opts.url = argv[2];
    for (int i = 3; i + 1 < argc; i += 2)
        take_option(argv[i], argv[i + 1]);
    connect_to_server();
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++)
        if (strcmp(opts.action, actions[i].name) == 0) {
            actions[i].run();
            natsConnection_Destroy(nc);
            return 0;
        }
    return 2;
}
