/* SPDX-License-Identifier: MIT */
/*
 * libslirp's callbacks: time, timers, and the poll set. See net_user.h.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "vmm/net_user.h"

#define NET_POLL_MAX 1024

struct net_timer {
    struct net_timer *next;
    SlirpTimerCb callback;
    void *opaque;
    int64_t due_ms; /* -1: not armed */
};

struct net_user {
    Slirp *slirp;
    void (*receive)(void *sink, const void *frame, size_t bytes);
    void *sink;
    struct net_timer *timers;
    struct pollfd poll[NET_POLL_MAX];
    unsigned n_poll;
};

static int64_t net_clock_ns(void *opaque)
{
    struct timespec ts;

    (void)opaque;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static ssize_t net_send_packet(const void *buf, size_t bytes, void *opaque)
{
    struct net_user *net = opaque;

    net->receive(net->sink, buf, bytes);
    return (ssize_t)bytes;
}

static void net_guest_error(const char *text, void *opaque)
{
    (void)text, (void)opaque; /* a malformed frame is the guest's own affair */
}

static void *net_timer_new(SlirpTimerCb callback, void *callback_opaque, void *opaque)
{
    struct net_user *net = opaque;
    struct net_timer *timer = calloc(1, sizeof(*timer));

    if (!timer)
        return NULL;
    *timer = (struct net_timer){ .next = net->timers, .callback = callback, .opaque = callback_opaque, .due_ms = -1 };
    net->timers = timer;
    return timer;
}

static void net_timer_free(void *timer, void *opaque)
{
    struct net_user *net = opaque;

    for (struct net_timer **p = &net->timers; *p; p = &(*p)->next) {
        if (*p != timer)
            continue;
        *p = (*p)->next;
        free(timer);
        return;
    }
}

static void net_timer_mod(void *timer, int64_t due_ms, void *opaque)
{
    struct net_timer *t = timer;

    (void)opaque;
    if (t)
        t->due_ms = due_ms;
}

static void net_poll_fd(int fd, void *opaque)
{
    (void)fd, (void)opaque; /* the poll set is built anew each time */
}

static void net_notify(void *opaque)
{
    (void)opaque; /* only our own thread calls libslirp, so it is awake */
}

static const SlirpCb net_callbacks = {
    .send_packet = net_send_packet,
    .guest_error = net_guest_error,
    .clock_get_ns = net_clock_ns,
    .timer_new = net_timer_new,
    .timer_free = net_timer_free,
    .timer_mod = net_timer_mod,
    .register_poll_fd = net_poll_fd,
    .unregister_poll_fd = net_poll_fd,
    .notify = net_notify,
};

int net_user_create(struct net_user **out, void (*receive)(void *sink, const void *frame, size_t bytes), void *sink)
{
    struct net_user *net = calloc(1, sizeof(*net));
    SlirpConfig config = { .version = 1, .in_enabled = true };

    if (!net)
        return -ENOMEM;
    net->receive = receive;
    net->sink = sink;
    inet_pton(AF_INET, "10.0.2.0", &config.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &config.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &config.vhost);
    inet_pton(AF_INET, "10.0.2.15", &config.vdhcp_start);
    inet_pton(AF_INET, "10.0.2.3", &config.vnameserver);
    config.vhostname = "vitrine";
    net->slirp = slirp_new(&config, &net_callbacks, net);
    if (!net->slirp) {
        free(net);
        return -ENOMEM;
    }
    *out = net;
    return 0;
}

void net_user_destroy(struct net_user *net)
{
    if (!net)
        return;
    slirp_cleanup(net->slirp);
    while (net->timers)
        net_timer_free(net->timers, net);
    free(net);
}

void net_user_send(struct net_user *net, const void *frame, size_t bytes)
{
    slirp_input(net->slirp, frame, (int)bytes);
}

static int net_add_poll(int fd, int events, void *opaque)
{
    struct net_user *net = opaque;
    short want = 0;

    if (net->n_poll == NET_POLL_MAX)
        return -1;
    want |= events & SLIRP_POLL_IN ? POLLIN : 0;
    want |= events & SLIRP_POLL_OUT ? POLLOUT : 0;
    want |= events & SLIRP_POLL_PRI ? POLLPRI : 0;
    net->poll[net->n_poll] = (struct pollfd){ .fd = fd, .events = want };
    return (int)net->n_poll++;
}

static int net_get_revents(int index, void *opaque)
{
    struct net_user *net = opaque;
    short got;
    int events = 0;

    if (index < 0 || (unsigned)index >= net->n_poll)
        return 0;
    got = net->poll[index].revents;
    events |= got & POLLIN ? SLIRP_POLL_IN : 0;
    events |= got & POLLOUT ? SLIRP_POLL_OUT : 0;
    events |= got & POLLPRI ? SLIRP_POLL_PRI : 0;
    events |= got & POLLERR ? SLIRP_POLL_ERR : 0;
    events |= got & POLLHUP ? SLIRP_POLL_HUP : 0;
    return events;
}

static void net_run_timers(struct net_user *net)
{
    int64_t now = net_clock_ns(NULL) / 1000000;
    struct net_timer *t = net->timers;

    while (t) {
        struct net_timer *next = t->next; /* a timer may free itself */

        if (t->due_ms >= 0 && t->due_ms <= now) {
            t->due_ms = -1;
            t->callback(t->opaque);
        }
        t = next;
    }
}

static int net_timeout_ms(const struct net_user *net, uint32_t timeout_ms)
{
    int64_t now = net_clock_ns(NULL) / 1000000;

    for (const struct net_timer *t = net->timers; t; t = t->next)
        if (t->due_ms >= 0 && t->due_ms - now < (int64_t)timeout_ms)
            timeout_ms = t->due_ms > now ? (uint32_t)(t->due_ms - now) : 0;
    return timeout_ms > 3600000 ? -1 : (int)timeout_ms;
}

void net_user_poll(struct net_user *net, int kick_fd)
{
    uint32_t timeout_ms = UINT32_MAX;
    int rc;

    net->n_poll = 1; /* entry 0 is the kick */
    net->poll[0] = (struct pollfd){ .fd = kick_fd, .events = POLLIN };
    slirp_pollfds_fill(net->slirp, &timeout_ms, net_add_poll, net);
    rc = poll(net->poll, net->n_poll, net_timeout_ms(net, timeout_ms));
    slirp_pollfds_poll(net->slirp, rc < 0, net_get_revents, net);
    net_run_timers(net);
}
