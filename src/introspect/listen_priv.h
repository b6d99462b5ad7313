/* SPDX-License-Identifier: MIT */
/*
 * What listen.c, which keeps who wants what, and raise.c, ask.c and await.c, where vCPUs look it up, share. Listeners and subscriptions are lists that a vCPU
 * may walk without a lock: what is taken out is freed after wait_told (listen.c).
 */
#ifndef VITRINE_INTROSPECT_LISTEN_PRIV_H
#define VITRINE_INTROSPECT_LISTEN_PRIV_H

#include <pthread.h>

#include "core/vm.h"
#include "introspect/listen.h"
#include "introspect/ring.h"
#include "introspect/view_priv.h"

struct subscription {
    struct subscription *next;
    unsigned number;
    bool is_plain; /* nothing but conditions of raise.c, and nobody to wait for */
    bool is_over;  /* its count is used up */
    uint64_t n_seen, n_told;
    struct look_filter filter;
    struct watch_table ranges; /* by the byte */
};

/* The vCPU's side of a ring. Its thread's. */
struct look_ring {
    struct look_ring *next;
    struct vcpu *v;
    struct ring_cpu *shared;
    uint64_t head, tail; /* as in shared; tail as it was when it was last looked at */
    uint64_t n_lost;
};

struct look_listener {
    struct look_listener *next;
    struct vm *vm; /* NULL when it has gone; end_lock */
    uint32_t vm_number;
    struct subscription *first;
    unsigned n_subscriptions, n_plain, last_number;
    uint64_t bit;         /* among the VM's listeners */
    bool answers_by_ring; /* somebody who takes what is told on another CPU may answer at once (await.c) */
    int fd, waker;        /* a pair of sockets: what the tool waits at, and where it is woken */
    struct look_views views;
    struct ring_head *head;
    struct ring_reader reader;           /* for look_listener_next */
    unsigned n_rings;                    /* under watch.lock, as the next */
    struct look_ring *rings;             /* all */
    struct look_ring *ring[VM_VCPU_IDS]; /* by the vCPU's id, whose thread makes it when it has something to tell */
};

extern pthread_mutex_t look_end_lock;
struct vm *look_vm_of(const struct look_listener *l);

/* ask.c: watch_ops.raise */
enum watch_raised look_raise(struct vcpu *v, const struct watch_event *e, bool may_ask);
/* await.c: watch_ops.await */
void look_await(struct vcpu *v);
/* A vCPU can look for the answer while the tool thinks. */
bool look_has_cpus(void);
/* watch.lock is held: vCPUs that wait for room of this listener's look again. */
void look_make_room(struct look_listener *l);

/* watch.change is held: pages are denied, or no more. */
void look_kinds_changed(struct vm *vm);

/* ---- raise.c: general registers only, on the vCPU's thread ---- */

/* The event as this listener knows it: another listener's view is view 0. */
struct watch_event look_seen_by(const struct look_listener *l, const struct vcpu *v, const struct watch_event *e);
/* All conditions but filter.is_wanted and those that count. */
bool look_matches(const struct subscription *s, const struct vcpu *v, const struct watch_event *e);
void look_fill(struct ring_record *r, const struct vcpu *v, const struct watch_event *e);
bool look_has_room(struct look_ring *r);
/* False: there is no room, and it is counted. */
bool look_put(struct look_ring *r, const struct vcpu *v, const struct watch_event *e);
void look_wake(const struct look_listener *l);
void look_wake_if_asleep(const struct look_listener *l);
/* watch_ops.tell */
bool look_tell(struct vcpu *v, const struct watch_event *e);

#endif
