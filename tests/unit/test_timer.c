/* SPDX-License-Identifier: MIT */
/*
 * The timer queue: order, re-arming and cancelling from callbacks and outside. Callbacks wait at a gate where it matters what happened before them, so nothing
 * here depends on time going by.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <unistd.h>

#include "core/timer.h"
#include "tests/thread_state.h"

#define HOUR_NS 3600000000000ull

struct probe {
    struct timer timer;
    struct timer_queue *q;
    _Atomic unsigned n_begun, n_fired;
    unsigned again;               /* times that the callback arms the timer again, for now */
    bool arms_before, arms_after; /* the gate, for an hour later */
    atomic_bool *gate;            /* NULL, or the callback goes on when it is open */
    unsigned order;
};
static unsigned sequence;

static void wait_for(_Atomic unsigned *value, unsigned n)
{
    while (*value < n)
        usleep(100);
    assert_int_equal(*value, n);
}

static void fire(struct timer *t)
{
    struct probe *p = (struct probe *)t;
    p->order = sequence++;
    if (p->again) {
        p->again--;
        timer_arm(p->q, t, timer_now_ns());
    }
    if (p->arms_before)
        timer_arm(p->q, t, timer_now_ns() + HOUR_NS);
    p->n_begun++;
    while (p->gate && !*p->gate)
        usleep(100);
    if (p->arms_after)
        timer_arm(p->q, t, timer_now_ns() + HOUR_NS);
    p->n_fired++;
}

static bool is_armed(struct probe *p)
{
    pthread_mutex_lock(&p->q->lock);
    bool is = p->timer.deadline_ns != 0;
    pthread_mutex_unlock(&p->q->lock);
    return is;
}

static bool is_idle(struct timer_queue *q)
{
    pthread_mutex_lock(&q->lock);
    bool is = q->n == 0 && !q->running;
    pthread_mutex_unlock(&q->lock);
    return is;
}

/* All are due, and have been armed or cancelled, before the first may run. */
static void test_order(void **state)
{
    (void)state;
    enum { N = 40 };
    struct timer_queue q;
    timer_queue_init(&q);
    atomic_bool gate = false;
    struct probe first = { .timer.expired = fire, .q = &q, .gate = &gate }, last = { .timer.expired = fire, .q = &q }, p[N] = { 0 };
    sequence = 0;
    assert_int_equal(timer_arm(&q, &first.timer, 0), 0);
    wait_for(&first.n_begun, 1);
    assert_int_equal(timer_arm(&q, &last.timer, 1000 + N), 0);
    for (unsigned i = 0; i < N; i++) {
        p[i].timer.expired = fire;
        assert_int_equal(timer_arm(&q, &p[i].timer, 1000 + i * 17 % N), 0);
    }
    for (unsigned i = 0; i < N; i++)
        if (i * 17 % N % 5 == 0)
            timer_cancel(&q, &p[i].timer);
    gate = true;
    wait_for(&last.n_fired, 1);
    for (unsigned i = 0; i < N; i++) {
        unsigned place = i * 17 % N;
        assert_int_equal(p[i].n_fired, place % 5 != 0);
        if (place % 5)
            assert_int_equal(p[i].order, place - place / 5); /* `first` was number 0 */
    }
    assert_int_equal(last.order, 1 + N - N / 5);
    timer_queue_fini(&q);
}

static _Atomic pid_t timer_thread_id;

static void tell_thread(struct timer *t)
{
    (void)t;
    timer_thread_id = gettid();
}

/* Earlier than the thread waits for; and 0 is "now". */
static void test_rearm(void **state)
{
    (void)state;
    struct timer_queue q;
    timer_queue_init(&q);
    struct timer teller = { .expired = tell_thread };
    struct probe p = { .timer.expired = fire, .q = &q, .again = 3 };
    assert_int_equal(timer_arm(&q, &teller, 0), 0);
    while (!timer_thread_id || !is_idle(&q))
        usleep(100);
    assert_int_equal(timer_arm(&q, &p.timer, timer_now_ns() + HOUR_NS), 0);
    thread_wait_state(timer_thread_id, "S");
    assert_int_equal(p.n_fired, 0);
    assert_int_equal(timer_arm(&q, &p.timer, 0), 0);
    wait_for(&p.n_fired, 4);
    assert_false(is_armed(&p));
    timer_queue_fini(&q);
    assert_int_equal(p.n_fired, 4);
}

struct canceller {
    struct probe *p;
    atomic_bool is_done;
};

static void *cancel(void *arg)
{
    struct canceller *c = arg;
    timer_cancel_sync(c->p->q, &c->p->timer);
    c->is_done = true;
    return NULL;
}

/* The callback runs and arms its timer, before the cancelling thread comes and after: that waits for it, and it stays the last. */
static void test_cancel_sync(void **state)
{
    (void)state;
    struct timer_queue q;
    timer_queue_init(&q);
    atomic_bool gate = false;
    struct probe p = { .timer.expired = fire, .q = &q, .arms_before = true, .arms_after = true, .gate = &gate };
    struct canceller c = { .p = &p };
    pthread_t thread;
    assert_int_equal(timer_arm(&q, &p.timer, 0), 0);
    wait_for(&p.n_begun, 1);
    assert_true(is_armed(&p));
    assert_int_equal(pthread_create(&thread, NULL, cancel, &c), 0);
    while (is_armed(&p)) /* until the other thread has taken it out */
        usleep(100);
    assert_false(c.is_done);
    gate = true;
    pthread_join(thread, NULL);
    assert_int_equal(p.n_fired, 1);
    assert_true(is_idle(&q));
    timer_queue_fini(&q);
    assert_int_equal(p.n_begun, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_order), cmocka_unit_test(test_rearm), cmocka_unit_test(test_cancel_sync) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
