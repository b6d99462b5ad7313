/* SPDX-License-Identifier: MIT */
/*
 * core/timer.h with a clock that the test moves by hand; see hand_clock.h. Armed timers are looked through one by one: a test has few.
 */
#include "hand_clock.h"

#include <assert.h>
#include <stddef.h>

#define ARMED_MAX 64u

static struct timer *armed[ARMED_MAX];
static unsigned n_armed;
static uint64_t now_ns = 1000000000000;

uint64_t timer_now_ns(void)
{
    return now_ns;
}

void timer_queue_init(struct timer_queue *q)
{
    *q = (struct timer_queue){ 0 };
}

void timer_queue_fini(struct timer_queue *q)
{
    (void)q;
    n_armed = 0;
}

void timer_cancel(struct timer_queue *q, struct timer *t)
{
    (void)q;
    if (!t->deadline_ns)
        return;
    t->deadline_ns = 0;
    armed[t->heap_index] = armed[--n_armed];
    armed[t->heap_index]->heap_index = t->heap_index;
}

void timer_cancel_sync(struct timer_queue *q, struct timer *t)
{
    timer_cancel(q, t);
}

int timer_arm(struct timer_queue *q, struct timer *t, uint64_t deadline_ns)
{
    timer_cancel(q, t);
    assert(n_armed < ARMED_MAX);
    t->deadline_ns = deadline_ns ? deadline_ns : 1;
    t->heap_index = n_armed;
    armed[n_armed++] = t;
    return 0;
}

static struct timer *first_due(uint64_t until_ns)
{
    struct timer *first = NULL;
    for (unsigned i = 0; i < n_armed; i++)
        if (armed[i]->deadline_ns <= until_ns && (!first || armed[i]->deadline_ns < first->deadline_ns))
            first = armed[i];
    return first;
}

void hand_clock_step_ns(uint64_t ns)
{
    uint64_t until_ns = now_ns + ns;
    for (struct timer *t; (t = first_due(until_ns)) != NULL;) {
        if (now_ns < t->deadline_ns)
            now_ns = t->deadline_ns;
        timer_cancel(NULL, t);
        t->expired(t);
    }
    now_ns = until_ns;
}
