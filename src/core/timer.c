/* SPDX-License-Identifier: MIT */
/*
 * A binary heap of deadlines and the thread that waits for the first. Callers are chips and core; callbacks may arm and cancel, their own timer too.
 * q->lock guards heap, running and every timer's deadline_ns and heap_index.
 */
#include "core/timer.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "base/thread.h"

uint64_t timer_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void timer_queue_init(struct timer_queue *q)
{
    *q = (struct timer_queue){ 0 };
    pthread_mutex_init(&q->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&q->wake, &attr);
    pthread_condattr_destroy(&attr);
}

void timer_queue_fini(struct timer_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->is_stopping = true;
    bool has_thread = q->has_thread;
    pthread_cond_broadcast(&q->wake);
    pthread_mutex_unlock(&q->lock);
    if (has_thread)
        pthread_join(q->thread, NULL);
    free(q->heap);
    pthread_cond_destroy(&q->wake);
    pthread_mutex_destroy(&q->lock);
}

static void heap_put(struct timer_queue *q, unsigned i, struct timer *t)
{
    q->heap[i] = t;
    t->heap_index = i;
}

static void heap_up(struct timer_queue *q, unsigned i, struct timer *t)
{
    while (i > 0 && t->deadline_ns < q->heap[(i - 1) / 2]->deadline_ns) {
        heap_put(q, i, q->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
    heap_put(q, i, t);
}

static void heap_down(struct timer_queue *q, unsigned i, struct timer *t)
{
    for (;;) {
        unsigned child = 2 * i + 1;
        if (child >= q->n)
            break;
        if (child + 1 < q->n && q->heap[child + 1]->deadline_ns < q->heap[child]->deadline_ns)
            child++;
        if (t->deadline_ns <= q->heap[child]->deadline_ns)
            break;
        heap_put(q, i, q->heap[child]);
        i = child;
    }
    heap_put(q, i, t);
}

static void heap_remove(struct timer_queue *q, struct timer *t)
{
    unsigned i = t->heap_index;
    assert(i < q->n && q->heap[i] == t);
    t->deadline_ns = 0;
    struct timer *last = q->heap[--q->n];
    if (last == t)
        return;
    if (i > 0 && last->deadline_ns < q->heap[(i - 1) / 2]->deadline_ns)
        heap_up(q, i, last);
    else
        heap_down(q, i, last);
}

static void run_first(struct timer_queue *q)
{
    struct timer *t = q->heap[0];
    heap_remove(q, t);
    q->running = t;
    pthread_mutex_unlock(&q->lock);
    t->expired(t);
    /* t may be freed by now: its owner is allowed to from the callback on. */
    pthread_mutex_lock(&q->lock);
    q->running = NULL;
    pthread_cond_broadcast(&q->wake);
}

static void *timer_thread(void *arg)
{
    struct timer_queue *q = arg;
    prctl(PR_SET_TIMERSLACK, 1ul); /* the default of 50 us is a guest's whole short timer */
    pthread_mutex_lock(&q->lock);
    while (!q->is_stopping) {
        if (q->n == 0) {
            pthread_cond_wait(&q->wake, &q->lock);
            continue;
        }
        uint64_t deadline = q->heap[0]->deadline_ns;
        if (deadline <= timer_now_ns()) {
            run_first(q);
            continue;
        }
        /* Beyond what time_t can say: wait long, look again. */
        if (deadline > (uint64_t)INT64_MAX)
            deadline = INT64_MAX;
        struct timespec until = { (time_t)(deadline / 1000000000ull), (long)(deadline % 1000000000ull) };
        pthread_cond_timedwait(&q->wake, &q->lock, &until);
    }
    pthread_mutex_unlock(&q->lock);
    return NULL;
}

static int start_thread(struct timer_queue *q)
{
    if (q->has_thread)
        return 0;
    int error = thread_create(&q->thread, "vitrine-timer", timer_thread, q);
    q->has_thread = error == 0;
    return error;
}

static int reserve(struct timer_queue *q)
{
    if (q->n < q->capacity)
        return 0;
    unsigned capacity = q->capacity ? 2 * q->capacity : 16;
    struct timer **heap = realloc(q->heap, capacity * sizeof(struct timer *));
    if (!heap)
        return -ENOMEM;
    q->heap = heap;
    q->capacity = capacity;
    return 0;
}

int timer_arm(struct timer_queue *q, struct timer *t, uint64_t deadline_ns)
{
    if (deadline_ns == 0)
        deadline_ns = 1; /* 0 says "not armed" */
    pthread_mutex_lock(&q->lock);
    int error = start_thread(q);
    if (!error && !t->deadline_ns)
        error = reserve(q);
    if (!error) {
        if (t->deadline_ns)
            heap_remove(q, t);
        t->deadline_ns = deadline_ns;
        heap_up(q, q->n++, t);
        if (t->heap_index == 0)
            pthread_cond_broadcast(&q->wake);
    }
    pthread_mutex_unlock(&q->lock);
    return error;
}

void timer_cancel(struct timer_queue *q, struct timer *t)
{
    pthread_mutex_lock(&q->lock);
    if (t->deadline_ns)
        heap_remove(q, t);
    pthread_mutex_unlock(&q->lock);
}

void timer_cancel_sync(struct timer_queue *q, struct timer *t)
{
    pthread_mutex_lock(&q->lock);
    assert(!q->has_thread || !pthread_equal(pthread_self(), q->thread));
    /* Again after the wait: the callback may have armed it. */
    while (t->deadline_ns || q->running == t) {
        if (t->deadline_ns)
            heap_remove(q, t);
        while (q->running == t)
            pthread_cond_wait(&q->wake, &q->lock);
    }
    pthread_mutex_unlock(&q->lock);
}
