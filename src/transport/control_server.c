/* SPDX-License-Identifier: MIT */
/*
 * An abstract unix socket named after the pid (src/abi/control.h), so that even SIGKILL leaves no file behind. The kernel says who connects: this process's
 * user or root. One thread accepts, one more serves each connection; both block all signals. VITRINE_NO_INTROSPECTION in the environment keeps the socket
 * closed.
 *
 * The fd is one of many in a client that may close what it does not know. So the socket is known by its cookie: if it is no longer ours, the thread ends.
 */
#include "transport/control_server.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/signals.h"
#include "base/thread.h"
#include "front/control/control.h"
#include "transport/kvmi_endpoint.h"
#include "transport/stream.h"

#define CONNECTIONS_MAX 64

static _Atomic bool is_started;
static _Atomic unsigned n_connections;

struct server {
    int fd;
    uint64_t cookie;
};

static bool socket_cookie(int fd, uint64_t *cookie)
{
    socklen_t bytes = sizeof *cookie;
    return getsockopt(fd, SOL_SOCKET, SO_COOKIE, cookie, &bytes) == 0;
}

/* ---- one connection ---- */

/* The reply's head, with fds at its first byte. */
static bool send_head(int socket, const struct control_head *head, struct control_session *session)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(CONTROL_FDS_MAX * sizeof(int))];
    } control;
    int fd[CONTROL_FDS_MAX];
    unsigned n_fds = control_take_fds(session, fd);
    struct iovec part = { (void *)(uintptr_t)head, sizeof *head };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE(n_fds * sizeof(int)) };
    ssize_t n;
    if (!n_fds)
        return stream_send(socket, head, sizeof *head);
    control.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(n_fds * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
    memcpy(CMSG_DATA(&control.head), fd, n_fds * sizeof(int));
    do
        n = sendmsg(socket, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    for (unsigned i = 0; i < n_fds; i++)
        close(fd[i]);
    return n > 0 && stream_send(socket, (const char *)head + n, sizeof *head - (size_t)n);
}

/* A request's head, with up to one fd at its first byte, which is the session's then. */
static bool receive_head(int socket, struct control_head *head, struct control_session *session)
{
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(sizeof(int))]; /* its padding is room for another: the kernel may fill it */
    } control;
    struct iovec part = { head, sizeof *head };
    struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    ssize_t n;
    do
        n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    unsigned n_fds = 0;
    const struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    for (int fd; c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && CMSG_LEN((n_fds + 1) * sizeof fd) <= c->cmsg_len; n_fds++) {
        memcpy(&fd, CMSG_DATA(c) + n_fds * sizeof fd, sizeof fd);
        control_give_fd(session, fd_move_up(fd));
    }
    return n_fds <= 1 && !(message.msg_flags & MSG_CTRUNC) && stream_receive(socket, (char *)head + n, sizeof *head - (size_t)n);
}

/* Until the peer goes, or says what cannot be read: then where the next request begins is unknown too. */
static void serve(int fd, struct control_session *session, uint8_t *in, uint8_t *out)
{
    struct control_head head, reply;
    while (receive_head(fd, &head, session)) {
        if (head.bytes > CONTROL_PAYLOAD_MAX || !stream_receive(fd, in, head.bytes))
            return;
        control_handle(session, &head, in, &reply, out);
        if (!send_head(fd, &reply, session) || !stream_send(fd, out, reply.bytes))
            return;
    }
}

static void *connection(void *arg)
{
    int fd = (int)(intptr_t)arg;
    struct control_session *session = control_session_create();
    signals_hold(); /* files of ours that go to a tool are nobody's but its: the preload transport is not to count them as the client's */
    uint8_t *buffers = malloc(2 * (size_t)CONTROL_PAYLOAD_MAX);
    if (session && buffers)
        serve(fd, session, buffers, buffers + CONTROL_PAYLOAD_MAX);
    if (session)
        control_session_destroy(session);
    free(buffers);
    close(fd);
    atomic_fetch_sub(&n_connections, 1);
    return NULL;
}

/* ---- the socket ---- */

static bool may_come_in(int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes))
        return false;
    if (peer.uid == geteuid() || peer.uid == 0)
        return true;
    log_write(LOG_WARN, "a process of user %u (pid %d) was not let in", (unsigned)peer.uid, (int)peer.pid);
    return false;
}

static void come_in(int fd)
{
    pthread_t thread;
    bool has_room = atomic_fetch_add(&n_connections, 1) < CONNECTIONS_MAX;
    if (may_come_in(fd) && has_room && thread_create(&thread, "vitrine-tool", connection, (void *)(intptr_t)fd) == 0) {
        pthread_detach(thread);
        return;
    }
    atomic_fetch_sub(&n_connections, 1);
    close(fd);
}

static void *accept_all(void *arg)
{
    struct server *s = arg;
    sigset_t all;
    sigfillset(&all); /* it touches nothing of the client's that may go away */
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    for (;;) {
        uint64_t cookie;
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);
        if (!socket_cookie(s->fd, &cookie) || cookie != s->cookie) {
            log_write(LOG_INFO, "the program closed the socket for tools");
            if (fd >= 0)
                close(fd);
            break;
        }
        if (fd >= 0)
            come_in(fd);
        else if (errno != EINTR && errno != ECONNABORTED)
            usleep(100000); /* no fds or memory just now */
    }
    free(s);
    return NULL;
}

static int bind_name(int fd)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    uint64_t number;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        return -errno;
    int n = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, CONTROL_NAME_PREFIX "%d-%016llx", (int)getpid(), (unsigned long long)number);
    return bind(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n)) ? -errno : 0;
}

static int open_socket(void)
{
    int low = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (low < 0)
        return -errno;
    int fd = fd_move_up(low);
    int r = bind_name(fd);
    if (!r && listen(fd, 16))
        r = -errno;
    if (r)
        close(fd);
    return r ? r : fd;
}

/* The parent's thread and socket are not the child's: its first VM opens one of its own. */
static int parents_fd = -1;

static void forked(void)
{
    if (parents_fd >= 0)
        close(parents_fd);
    parents_fd = -1;
    atomic_store(&n_connections, 0);
    atomic_store(&is_started, false);
}

static int start(void)
{
    static _Atomic bool has_handler;
    pthread_t thread;
    control_set_endpoints(&kvmi_endpoints);
    int fd = open_socket();
    if (fd < 0)
        return fd;
    struct server *s = malloc(sizeof *s);
    int r = s ? 0 : -ENOMEM;
    if (s)
        s->fd = fd;
    if (!r && !socket_cookie(fd, &s->cookie))
        r = -errno;
    if (!r)
        r = thread_create(&thread, "vitrine-tools", accept_all, s);
    if (r) {
        free(s);
        close(fd);
        return r;
    }
    pthread_detach(thread);
    parents_fd = fd;
    if (!atomic_exchange(&has_handler, true))
        pthread_atfork(NULL, NULL, forked);
    return 0;
}

void control_server_start(void)
{
    if (atomic_exchange(&is_started, true) || getenv("VITRINE_NO_INTROSPECTION"))
        return;
    int r = start();
    if (r < 0)
        log_write(LOG_WARN, "no socket for tools: %s", strerror(-r));
}
