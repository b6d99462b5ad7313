/* SPDX-License-Identifier: MIT */
/*
 * Timers of a VM on CLOCK_MONOTONIC: one thread per VM, started by the first armed timer. Callbacks run on that thread with no queue lock held.
 */
#ifndef VITRINE_CORE_TIMER_H
#define VITRINE_CORE_TIMER_H

#include <pthread.h>

#include "base/types.h"

struct timer {
    uint64_t deadline_ns; /* absolute CLOCK_MONOTONIC, 0 if not armed */
    void (*expired)(struct timer *t);
    unsigned heap_index;
};

struct timer_queue {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    pthread_t thread;
    bool has_thread, is_stopping;
    struct timer **heap;
    unsigned n, capacity;
    struct timer *running; /* whose callback runs now */
};

void timer_queue_init(struct timer_queue *q);
void timer_queue_fini(struct timer_queue *q);
/* (Re)arms; 0 or -ENOMEM/-EAGAIN. Any thread, callbacks included. */
int timer_arm(struct timer_queue *q, struct timer *t, uint64_t deadline_ns);
void timer_cancel(struct timer_queue *q, struct timer *t);      /* a running callback may still finish after */
void timer_cancel_sync(struct timer_queue *q, struct timer *t); /* returns when no callback runs; not from a callback */
uint64_t timer_now_ns(void);

#endif
