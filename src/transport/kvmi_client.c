/* SPDX-License-Identifier: MIT */
/*
 * One thread, while there is a VM: it connects to the tool's socket, at least every second until somebody listens, shows itself, looks at the cookie and
 * brings messages to the front until one side goes; then from the beginning. The tool is let in by who it is, this process's user or root, and by the key
 * if there is one. `lock` guards has_thread; the rest is the thread's.
 */
#include "transport/kvmi_client.h"

#include <errno.h>
#include <nettle/sha1.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "base/thread.h"
#include "front/kvmi/kvmi.h"
#include "transport/stream.h"

#define RETRY_US 500000u
#define LOOK_MS 1000 /* whether the VM is still there */
#define HANDSHAKE_SECONDS 10
#define ANSWER_MAX 65536u

struct endpoint {
    struct sockaddr_un address;
    bool has_key;
    uint8_t key_hash[SHA1_DIGEST_SIZE];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool has_thread;
static int connected_fd = -1; /* for a child of fork */

/* ---- where to ---- */

static const char *parse(const char *where, struct endpoint *out)
{
    static const char scheme[] = "unix:", option[] = ",key=";
    if (strncmp(where, scheme, sizeof scheme - 1))
        return "only unix:PATH is known";
    const char *path = where + sizeof scheme - 1, *comma = strstr(path, option);
    size_t bytes = comma ? (size_t)(comma - path) : strlen(path);
    if (!bytes)
        return "the path is missing";
    if (bytes >= sizeof out->address.sun_path)
        return "the path is too long for a socket";
    memset(out, 0, sizeof *out);
    out->address.sun_family = AF_UNIX;
    memcpy(out->address.sun_path, path, bytes);
    out->has_key = comma;
    if (comma) {
        struct sha1_ctx sha;
        const char *key = comma + sizeof option - 1;
        if (!*key)
            return "the key is empty";
        sha1_init(&sha);
        sha1_update(&sha, strlen(key), (const uint8_t *)key);
        sha1_digest(&sha, sizeof out->key_hash, out->key_hash);
    }
    return NULL;
}

const char *kvmi_client_check(const char *where)
{
    struct endpoint e;
    return parse(where, &e);
}

/* ---- one connection ---- */

static void set_time_limit(int fd, int option, unsigned seconds)
{
    struct timeval limit = { .tv_sec = seconds };
    setsockopt(fd, SOL_SOCKET, option, &limit, sizeof limit);
}

/* NULL, or why not. */
static const char *greet(int fd, const struct endpoint *to, const struct kvmi_hello *hello)
{
    struct kvmi_answer answer;
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) || (peer.uid != geteuid() && peer.uid != 0))
        return "the tool is another user's";
    if (!stream_send(fd, hello, sizeof *hello) || !stream_receive(fd, &answer.struct_bytes, sizeof answer.struct_bytes))
        return "the tool did not answer";
    if (answer.struct_bytes < sizeof answer || answer.struct_bytes > ANSWER_MAX)
        return "the tool's answer has a wrong size";
    if (!stream_receive(fd, answer.cookie_hash, sizeof answer.cookie_hash))
        return "the tool did not answer";
    for (uint32_t left = answer.struct_bytes - (uint32_t)sizeof answer; left; left--)
        if (!stream_receive(fd, &(uint8_t){ 0 }, 1))
            return "the tool did not answer";
    if (to->has_key && memcmp(answer.cookie_hash, to->key_hash, sizeof to->key_hash))
        return "the tool does not have the key";
    return NULL;
}

/* A message. Waits until one is there, or events_fd (or -1) has something, or that long. */
static bool has_input(int fd, int events_fd, int wait_ms)
{
    struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = events_fd, .events = POLLIN } };
    return poll(p, 2, wait_ms) > 0 && p[0].revents;
}

/* False: the connection ends. Events come when the tool has no command under way. */
static bool send_events(int fd, struct kvmi_session *session, void *out)
{
    ssize_t n;
    while ((n = kvmi_next_event(session, out)) > 0)
        if (!stream_send(fd, out, (size_t)n))
            return false;
    return n == 0;
}

static void serve(int fd, struct kvmi_session *session, void *in, void *out)
{
    struct kvmi_head head;
    for (;;) {
        if (!has_input(fd, -1, 0)) {
            if (!send_events(fd, session, out))
                return;
            if (!has_input(fd, kvmi_session_fd(session), LOOK_MS))
                continue;
        }
        if (!stream_receive(fd, &head, sizeof head) || !stream_receive(fd, in, head.bytes))
            return;
        ssize_t n = kvmi_handle(session, &head, in, out);
        if (n < 0 || !stream_send(fd, out, (size_t)n))
            return;
    }
}

static void attend(int fd, uint32_t vm_number)
{
    struct kvmi_session *session = kvmi_session_create(vm_number, &kvmi_dialect_libkvmi);
    uint8_t *buffers = malloc(UINT16_MAX + 1 + KVMI_OUT_BYTES);
    if (session && buffers)
        serve(fd, session, buffers, buffers + UINT16_MAX + 1);
    if (session)
        kvmi_session_destroy(session);
    free(buffers);
}

static int open_connection(const struct endpoint *to)
{
    int low = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (low < 0)
        return -errno;
    int fd = stream_move_up(low);
    set_time_limit(fd, SO_SNDTIMEO, HANDSHAKE_SECONDS);
    set_time_limit(fd, SO_RCVTIMEO, HANDSHAKE_SECONDS);
    if (connect(fd, (const struct sockaddr *)&to->address, sizeof to->address)) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

/* What went wrong, or NULL after a connection that served. */
static const char *meet(const struct endpoint *to, const struct kvmi_vm *vm)
{
    int fd = open_connection(to);
    if (fd < 0)
        return strerror(-fd);
    connected_fd = fd;
    const char *why = greet(fd, to, &vm->hello);
    if (!why) {
        set_time_limit(fd, SO_SNDTIMEO, 0);
        set_time_limit(fd, SO_RCVTIMEO, 0);
        log_write(LOG_INFO, "kvmi: a tool came at %s", to->address.sun_path);
        attend(fd, vm->number);
        log_write(LOG_INFO, "kvmi: the tool has gone");
    }
    connected_fd = -1;
    close(fd);
    return why;
}

/* ---- the thread ---- */

/* A VM that is made from here on starts a thread of its own. */
static bool may_end(struct kvmi_vm *vm)
{
    pthread_mutex_lock(&lock);
    has_thread = kvmi_find_vm(vm);
    bool ends = !has_thread;
    pthread_mutex_unlock(&lock);
    return ends;
}

static void *client(void *arg)
{
    struct endpoint *to = arg;
    struct kvmi_vm vm;
    const char *last = NULL;
    while (!may_end(&vm)) {
        const char *why = vm.is_ready ? meet(to, &vm) : last;
        if (why && (!last || strcmp(why, last)))
            log_write(LOG_WARN, "kvmi: %s: %s; trying on", to->address.sun_path, why);
        last = why;
        usleep(RETRY_US);
    }
    free(to);
    return NULL;
}

static void forked(void)
{
    pthread_mutex_init(&lock, NULL);
    has_thread = false;
    if (connected_fd >= 0)
        close(connected_fd);
    connected_fd = -1;
}

static int start(struct endpoint *to)
{
    static bool has_handler;
    pthread_t thread;
    if (!has_handler)
        pthread_atfork(NULL, NULL, forked);
    has_handler = true;
    int r = thread_create(&thread, "vitrine-kvmi", client, to);
    if (!r)
        pthread_detach(thread);
    return r;
}

void kvmi_client_start(void)
{
    const char *where = getenv("VITRINE_KVMI");
    if (!where)
        return;
    if (getenv("VITRINE_NO_INTROSPECTION")) {
        log_write(LOG_WARN, "kvmi: not connected to %s, since tools may not look into this machine", where);
        return;
    }
    pthread_mutex_lock(&lock);
    if (!has_thread) {
        struct endpoint *to = malloc(sizeof *to);
        const char *why = to ? parse(where, to) : strerror(ENOMEM);
        int r = why ? 0 : start(to);
        has_thread = !why && !r;
        if (!has_thread) {
            log_write(LOG_WARN, "kvmi: %s: %s", where, why ? why : strerror(-r));
            free(to);
        }
    }
    pthread_mutex_unlock(&lock);
}
