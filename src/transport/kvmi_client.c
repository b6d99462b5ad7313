/* SPDX-License-Identifier: MIT */
/*
 * One connection to a tool, on its endpoint's thread. Over a unix socket the tool is let in by who it is, this process's user or root, and in any case by the
 * key if there is one. No lock.
 */
#include "transport/kvmi_client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "transport/stream.h"

#define LOOK_MS 1000 /* whether the VM is still there, and the endpoint */
#define CONNECT_SECONDS 1
#define HANDSHAKE_SECONDS 10
#define LEAVE_SECONDS 10 /* for a tool to tidy up */
#define ANSWER_MAX 65536u

static void set_time_limit(int fd, int option, unsigned seconds)
{
    struct timeval limit = { .tv_sec = seconds };
    setsockopt(fd, SOL_SOCKET, option, &limit, sizeof limit);
}

int kvmi_client_connect(const struct kvmi_where *to)
{
    const struct timeval limit = { .tv_sec = CONNECT_SECONDS };
    int low = socket(to->address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (low < 0)
        return -errno;
    int fd = fd_move_up(low);
    set_time_limit(fd, SO_SNDTIMEO, CONNECT_SECONDS);
    if (to->address.any.sa_family == AF_VSOCK)
        setsockopt(fd, AF_VSOCK, SO_VM_SOCKETS_CONNECT_TIMEOUT, &limit, sizeof limit);
    if (connect(fd, &to->address.any, to->address_bytes)) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

/* 0: nobody knows. */
static pid_t pid_of_peer(int fd, const struct kvmi_where *to)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    return to->address.any.sa_family == AF_UNIX && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) ? peer.pid : 0;
}

static bool is_ours(int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 && (peer.uid == geteuid() || peer.uid == 0);
}

static const char *read_answer(int fd, const struct kvmi_where *to)
{
    static const char silent[] = "the tool did not answer the greeting";
    struct kvmi_answer answer;
    if (!stream_receive(fd, &answer.struct_bytes, sizeof answer.struct_bytes))
        return silent;
    if (answer.struct_bytes < sizeof answer || answer.struct_bytes > ANSWER_MAX)
        return "the tool's answer to the greeting has a wrong size";
    if (!stream_receive(fd, answer.cookie_hash, sizeof answer.cookie_hash))
        return silent;
    for (uint32_t left = answer.struct_bytes - (uint32_t)sizeof answer; left; left--)
        if (!stream_receive(fd, &(uint8_t){ 0 }, 1))
            return silent;
    if (to->has_key && memcmp(answer.cookie_hash, to->key_hash, sizeof to->key_hash))
        return "the tool does not have the key";
    return NULL;
}

const char *kvmi_client_greet(int fd, const struct kvmi_where *to, const struct kvmi_hello *hello)
{
    set_time_limit(fd, SO_SNDTIMEO, HANDSHAKE_SECONDS);
    set_time_limit(fd, SO_RCVTIMEO, HANDSHAKE_SECONDS);
    if (to->address.any.sa_family == AF_UNIX && !is_ours(fd))
        return "the tool is another user's";
    const char *why = stream_send(fd, hello, sizeof *hello) ? read_answer(fd, to) : "the tool closed the connection before the greeting";
    set_time_limit(fd, SO_SNDTIMEO, 0);
    set_time_limit(fd, SO_RCVTIMEO, 0);
    return why;
}

/* A message. Waits until one is there, or events_fd (or -1) has something, or that long. */
static bool has_input(int fd, int events_fd, int wait_ms)
{
    struct pollfd p[2] = { { .fd = fd, .events = POLLIN }, { .fd = events_fd, .events = POLLIN } };
    return poll(p, 2, wait_ms) > 0 && p[0].revents;
}

static const char went[] = "the tool closed the connection", gone[] = "the virtual machine has gone", detached[] = "detached";

/* NULL, or why the connection ends. Events come when the tool has no command under way. */
static const char *send_events(int fd, struct kvmi_session *session, void *out)
{
    ssize_t n;
    while ((n = kvmi_next_event(session, out)) > 0)
        if (!stream_send(fd, out, (size_t)n))
            return went;
    return n == 0 ? NULL : gone;
}

/* One message and its reply. */
static const char *exchange(int fd, struct kvmi_session *session, void *in, void *out)
{
    struct kvmi_head head;
    if (!stream_receive(fd, &head, sizeof head) || !stream_receive(fd, in, head.bytes))
        return went;
    ssize_t n = kvmi_handle(session, &head, in, out);
    if (n < 0)
        return n == -ESRCH ? gone : kvmi_session_why(session);
    return stream_send(fd, out, (size_t)n) ? NULL : went;
}

static time_t now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* The tool is told once, and has its time to tidy up and close. */
static const char *leave(int fd, struct kvmi_session *session, void *out, time_t *until)
{
    if (*until)
        return now_seconds() < *until ? NULL : detached;
    *until = now_seconds() + LEAVE_SECONDS;
    ssize_t n = kvmi_unhook(session, out);
    return n > 0 && stream_send(fd, out, (size_t)n) ? NULL : detached;
}

/* Said once in the log, however often the tool tries. */
static void note_refusal(const char *why, const struct kvmi_where *to, struct kvmi_client *client)
{
    struct timespec now;
    if (!why || why == atomic_load(&client->refusal))
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    atomic_store(&client->refusal_ns, (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    atomic_store(&client->refusal, why);
    log_write(LOG_WARN, "kvmi: %s: a command was refused: %s", to->name, why);
}

static const char *converse(int fd, const struct kvmi_where *to, struct kvmi_session *session, struct kvmi_client *client, void *in, void *out)
{
    const char *why = NULL;
    time_t until = 0;
    while (!why) {
        if (!has_input(fd, -1, 0)) {
            why = atomic_load(&client->is_leaving) ? leave(fd, session, out, &until) : NULL;
            if (!why)
                why = send_events(fd, session, out);
            if (why || !has_input(fd, kvmi_session_fd(session), LOOK_MS))
                continue;
        }
        why = exchange(fd, session, in, out);
        note_refusal(kvmi_session_refusal(session), to, client);
        atomic_store(&client->dialect, kvmi_session_dialect(session));
        atomic_store(&client->wants_unhook, kvmi_session_wants_unhook(session));
    }
    return atomic_load(&client->is_leaving) ? detached : why;
}

const char *kvmi_client_serve(int fd, const struct kvmi_where *to, uint32_t vm_number, struct kvmi_client *client)
{
    struct kvmi_session *session = kvmi_session_create(vm_number, &to->options);
    uint8_t *buffers = malloc(UINT16_MAX + 1 + KVMI_OUT_BYTES);
    const char *why = strerror(ENOMEM);
    if (session)
        kvmi_session_set_peer(session, pid_of_peer(fd, to));
    if (session && buffers)
        why = converse(fd, to, session, client, buffers, buffers + UINT16_MAX + 1);
    if (session)
        kvmi_session_destroy(session);
    free(buffers);
    return why;
}
