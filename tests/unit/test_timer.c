/* SPDX-License-Identifier: MIT */
/*
 * The timer queue: order, re-arming and cancelling from callbacks and outside. Times are generous: a loaded machine must not fail it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/timer.h"

#define MS 1000000ull

struct probe {
    struct timer timer;
    struct timer_queue *q;
    _Atomic unsigned fired;
    _Atomic bool is_slow, has_begun;
    unsigned again, order;
    uint64_t late_ns;
};
static _Atomic unsigned sequence;

static void fire(struct timer *t)
{
    struct probe *p = (struct probe *)t;
    p->order = atomic_fetch_add(&sequence, 1);
    p->has_begun = true;
    if (p->is_slow)
        usleep(50000);
    if (p->again) {
        p->again--;
        timer_arm(p->q, t, timer_now_ns() + MS);
    }
    atomic_fetch_add(&p->fired, 1);
}

static void wait_for(struct probe *p, unsigned n)
{
    for (int i = 0; i < 5000 && atomic_load(&p->fired) < n; i++)
        usleep(1000);
    assert_true(atomic_load(&p->fired) >= n);
}

static void test_order(void **state)
{
    (void)state;
    struct timer_queue q;
    timer_queue_init(&q);
    struct probe p[40] = { 0 };
    uint64_t base = timer_now_ns() + 30 * MS;
    sequence = 0;
    for (unsigned i = 0; i < 40; i++) {
        p[i].timer.expired = fire;
        p[i].q = &q;
        assert_int_equal(timer_arm(&q, &p[i].timer, base + ((i * 17) % 40) * 10000), 0);
    }
    for (unsigned i = 0; i < 40; i += 5)
        timer_cancel(&q, &p[i].timer);
    wait_for(&p[7], 1);
    usleep(50000);
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(p[i].fired, i % 5 != 0);
        for (unsigned j = 0; j < 40; j++) {
            if (i % 5 && j % 5 && (i * 17) % 40 < (j * 17) % 40)
                assert_true(p[i].order < p[j].order);
        }
    }
    timer_queue_fini(&q);
}

static void test_rearm(void **state)
{
    (void)state;
    struct timer_queue q;
    timer_queue_init(&q);
    struct probe p = { .timer.expired = fire, .q = &q, .again = 3 };
    assert_int_equal(timer_arm(&q, &p.timer, timer_now_ns() + 3600000 * MS), 0);
    usleep(5000);
    assert_int_equal(timer_arm(&q, &p.timer, 0), 0); /* earlier than the thread waits for; 0 is "now" */
    wait_for(&p, 4);
    assert_true(p.timer.deadline_ns == 0);
    timer_queue_fini(&q);
}

static void test_cancel_sync(void **state)
{
    (void)state;
    struct timer_queue q;
    timer_queue_init(&q);
    struct probe p = { .timer.expired = fire, .q = &q, .again = 1000000 };
    p.is_slow = true;
    assert_int_equal(timer_arm(&q, &p.timer, 0), 0);
    for (int i = 0; i < 50000 && !p.has_begun; i++)
        usleep(100);
    timer_cancel_sync(&q, &p.timer); /* the callback runs and re-arms itself: it must be over and stay over */
    unsigned fired = p.fired;
    assert_true(fired >= 1); /* more if this thread was kept waiting */
    usleep(20000);
    assert_int_equal(p.fired, fired);
    timer_queue_fini(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_order), cmocka_unit_test(test_rearm), cmocka_unit_test(test_cancel_sync) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
