/* SPDX-License-Identifier: MIT */
/*
 * The list of endpoints, and the thread of each: while there is its VM it tries to connect, at least every second, serves the tool, and begins again. One from
 * the environment serves the oldest VM there is, and waits for the next when that has gone; one that was attached belongs to its VM and ends with it. `lock`
 * guards the list and everything in it; only an endpoint's own thread frees it, or whoever finds it without one.
 */
#include "transport/kvmi_endpoint.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "transport/kvmi_client.h"
#include "vitrine/inspect.h"

#define RETRY_NS 500000000l
#define ENDPOINTS_MAX 32u

struct endpoint {
    struct endpoint *next;
    struct kvmi_where where;
    uint32_t vm_number; /* 0: the oldest */
    bool has_thread, is_connected;
    int fd; /* from connect on, -1: none */
    struct kvmi_client client;
    uint32_t n_connections;
    uint64_t since_ns, error_ns;
    char error[VITRINE_ERROR_BYTES];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER; /* an endpoint is to leave, or has left */
static struct endpoint *endpoints;
static bool is_environment_read;

static uint64_t realtime_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* ---- with the lock ---- */

static struct endpoint *endpoint_add(const struct kvmi_where *where, uint32_t vm_number)
{
    struct endpoint *e = calloc(1, sizeof *e), **end = &endpoints;
    if (!e)
        return NULL;
    e->where = *where;
    e->vm_number = vm_number;
    e->fd = -1;
    e->since_ns = realtime_ns();
    while (*end)
        end = &(*end)->next;
    return *end = e;
}

static void endpoint_remove(struct endpoint *e)
{
    struct endpoint **at = &endpoints;
    while (*at != e)
        at = &(*at)->next;
    *at = e->next;
    free(e);
    pthread_cond_broadcast(&changed);
}

static void note_state(struct endpoint *e, bool is_connected)
{
    e->is_connected = is_connected;
    e->n_connections += is_connected;
    e->since_ns = realtime_ns();
    atomic_store(&e->client.dialect, 0);
    atomic_store(&e->client.wants_unhook, false);
    atomic_store(&e->client.refusal, NULL);
}

/* Said once in the log, however often it happens. */
static void note_error(struct endpoint *e, const char *why, bool was_connected)
{
    if (was_connected)
        log_write(LOG_INFO, "kvmi: %s: %s", e->where.name, why);
    else if (strcmp(e->error, why))
        log_write(LOG_WARN, "kvmi: %s: %s; trying on", e->where.name, why);
    snprintf(e->error, sizeof e->error, "%s", why);
    e->error_ns = realtime_ns();
}

static void wait_before_retry(struct endpoint *e)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += RETRY_NS;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (!atomic_load(&e->client.is_leaving) && pthread_cond_clockwait(&changed, &lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
        ;
}

/* ---- the thread ---- */

/* An fd that others may shut down, or -1 if there is none or it is too late for one. */
static int connect_to(struct endpoint *e)
{
    int fd = kvmi_client_connect(&e->where);
    pthread_mutex_lock(&lock);
    if (fd < 0)
        note_error(e, fd == -ENOENT || fd == -ECONNREFUSED ? "nobody listens there yet" : strerror(-fd), false);
    else if (!atomic_load(&e->client.is_leaving))
        e->fd = fd;
    bool is_there = e->fd >= 0;
    pthread_mutex_unlock(&lock);
    if (fd >= 0 && !is_there)
        close(fd);
    return is_there ? fd : -1;
}

static const char *converse(struct endpoint *e, int fd, const struct kvmi_vm *vm)
{
    pthread_mutex_lock(&lock);
    note_state(e, true);
    pthread_mutex_unlock(&lock);
    log_write(LOG_INFO, "kvmi: %s: a tool is connected", e->where.name);
    return kvmi_client_serve(fd, &e->where, vm->number, &e->client);
}

static void meet(struct endpoint *e, const struct kvmi_vm *vm)
{
    int fd = connect_to(e);
    if (fd < 0)
        return;
    const char *why = kvmi_client_greet(fd, &e->where, &vm->hello);
    if (!why)
        why = converse(e, fd, vm);
    pthread_mutex_lock(&lock);
    note_error(e, why, e->is_connected);
    if (e->is_connected)
        note_state(e, false);
    e->fd = -1;
    close(fd);
    pthread_mutex_unlock(&lock);
}

static void *attend(void *arg)
{
    struct endpoint *e = arg;
    struct kvmi_vm vm;
    pthread_mutex_lock(&lock);
    while (!atomic_load(&e->client.is_leaving) && kvmi_find_vm(e->vm_number, &vm)) {
        if (vm.is_ready) {
            pthread_mutex_unlock(&lock);
            meet(e, &vm);
            pthread_mutex_lock(&lock);
        }
        wait_before_retry(e);
    }
    e->has_thread = false;
    if (e->vm_number || atomic_load(&e->client.is_leaving))
        endpoint_remove(e);
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* With the lock. */
static int start(struct endpoint *e)
{
    pthread_t thread;
    int r = thread_create(&thread, "vitrine-kvmi", attend, e);
    e->has_thread = !r;
    if (!r)
        pthread_detach(thread);
    return r;
}

/* ---- from the environment ---- */

/* Threads and connections stayed with the parent. The child's first VM begins anew. */
static void forked(void)
{
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&changed, NULL);
    while (endpoints) {
        struct endpoint *e = endpoints;
        endpoints = e->next;
        if (e->fd >= 0)
            close(e->fd);
        free(e);
    }
    is_environment_read = false;
}

/* With the lock. A line that cannot be parsed never can. */
static void read_line(const char *line)
{
    struct kvmi_where where;
    const char *why = kvmi_where_parse(line, &where);
    if (!why && getenv("VITRINE_NO_INTROSPECTION"))
        why = "not connected, since tools may not look into this machine";
    if (!why && !endpoint_add(&where, 0))
        why = strerror(ENOMEM);
    if (why)
        log_write(LOG_WARN, "kvmi: %s: %s", *where.name ? where.name : line, why);
}

static void read_environment(void)
{
    static bool has_handler;
    const char *value = getenv(KVMI_ENVIRONMENT);
    is_environment_read = true;
    if (!has_handler)
        pthread_atfork(NULL, NULL, forked);
    has_handler = true;
    char *lines = value ? strdup(value) : NULL, *rest = NULL;
    for (char *line = lines ? strtok_r(lines, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest))
        read_line(line);
    free(lines);
}

void kvmi_endpoint_start(void)
{
    pthread_mutex_lock(&lock);
    if (!is_environment_read)
        read_environment();
    for (struct endpoint *e = endpoints; e; e = e->next) {
        int r = e->has_thread ? 0 : start(e);
        if (r)
            log_write(LOG_WARN, "kvmi: %s: %s", e->where.name, strerror(-r));
    }
    pthread_mutex_unlock(&lock);
}

/* ---- from the control socket ---- */

/* With the lock. Does it serve this VM? */
static bool is_about(const struct endpoint *e, uint32_t vm_number)
{
    struct kvmi_vm vm;
    if (e->vm_number)
        return e->vm_number == vm_number;
    return kvmi_find_vm(0, &vm) && vm.number == vm_number;
}

/* NULL for name: any. */
static struct endpoint *find(uint32_t vm_number, const char *name, bool is_staying)
{
    struct endpoint *e = endpoints;
    while (e && (!is_about(e, vm_number) || (name && strcmp(e->where.name, name)) || (is_staying && atomic_load(&e->client.is_leaving))))
        e = e->next;
    return e;
}

static int kvmi_attach(uint32_t vm_number, const char *text)
{
    struct kvmi_where where;
    unsigned n = 0;
    if (kvmi_where_parse(text, &where))
        return -EINVAL;
    pthread_mutex_lock(&lock);
    for (const struct endpoint *e = endpoints; e; e = e->next)
        n++;
    int r = find(vm_number, where.name, false) ? -EEXIST : n >= ENDPOINTS_MAX ? -ENOSPC : 0;
    struct endpoint *e = r ? NULL : endpoint_add(&where, vm_number);
    if (!r)
        r = e ? start(e) : -ENOMEM;
    if (r && e)
        endpoint_remove(e);
    pthread_mutex_unlock(&lock);
    return r;
}

/* With the lock. A tool that wants to be told of its end gets the time for it; its thread does that. */
static void let_leave(struct endpoint *e)
{
    if (!e->has_thread) {
        endpoint_remove(e);
        return;
    }
    atomic_store(&e->client.is_leaving, true);
    if (e->fd >= 0 && !atomic_load(&e->client.wants_unhook))
        shutdown(e->fd, SHUT_RDWR);
    pthread_cond_broadcast(&changed);
}

static int kvmi_detach(uint32_t vm_number, const char *text)
{
    struct kvmi_where where;
    if (*text && kvmi_where_name(text, &where))
        return -EINVAL;
    const char *name = *text ? where.name : NULL;
    pthread_mutex_lock(&lock);
    int r = name && !find(vm_number, name, false) ? -ENOENT : 0;
    for (struct endpoint *e; (e = find(vm_number, name, true));)
        let_leave(e);
    while (find(vm_number, name, false))
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return r;
}

static void describe(const struct endpoint *e, struct vitrine_endpoint *out)
{
    const char *refusal = atomic_load(&e->client.refusal);
    bool is_leaving = atomic_load(&e->client.is_leaving);
    *out = (struct vitrine_endpoint){ .state = is_leaving        ? VITRINE_ENDPOINT_LEAVING
                                               : e->is_connected ? VITRINE_ENDPOINT_CONNECTED
                                                                 : VITRINE_ENDPOINT_CONNECTING,
                                      .dialect = (uint8_t)atomic_load(&e->client.dialect),
                                      .n_connections = e->n_connections,
                                      .has_key = e->where.has_key,
                                      .since_ns = e->since_ns,
                                      .error_ns = e->error_ns };
    _Static_assert(sizeof out->where >= sizeof e->where.name && sizeof out->error == sizeof e->error, "texts fit");
    memcpy(out->where, e->where.name, sizeof e->where.name);
    memcpy(out->error, e->error, sizeof e->error);
    if (refusal) {
        snprintf(out->error, sizeof out->error, "a command was refused: %s", refusal);
        out->error_ns = atomic_load(&e->client.refusal_ns);
    }
}

static unsigned kvmi_list(uint32_t vm_number, struct vitrine_endpoint *out, unsigned max)
{
    unsigned n = 0;
    pthread_mutex_lock(&lock);
    for (const struct endpoint *e = endpoints; e && n < max; e = e->next)
        if (is_about(e, vm_number))
            describe(e, &out[n++]);
    pthread_mutex_unlock(&lock);
    return n;
}

const struct control_endpoints kvmi_endpoints = { .attach = kvmi_attach, .detach = kvmi_detach, .list = kvmi_list };
