/* SPDX-License-Identifier: MIT */
/*
 * Events of the real engine, whatever they are of (test_watch.c): filters, full queues, clients that are interrupted between question and answer, listeners
 * that go while a vCPU waits for them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "introspect/ring.h"
#include "tests/unit/watched.h"
#include "transport/inproc.h"

GUEST_CODE(loop, ".code16\n1: incw 0x8000\n jmp 1b");
GUEST_CODE(count, ".code16\n1: incw 0x600\n jmp 1b");

static void test_filters(void **state)
{
    (void)state;
    static const struct look_filter wrong[] = {
        { .kinds = 0, .last_index = 1 },
        { .kinds = 1u << WATCH_KINDS },
        { .kinds = WATCH_ACCESS },
        { .kinds = WATCH_CR, .first_index = 2, .last_index = 1 },
        { .kinds = WATCH_CR, .value = 2, .value_mask = 1 },
    };
    const struct look_filter right[] = {
        { .kinds = WATCH_CR, .last_index = 2 },
        { .kinds = WATCH_CR, .first_index = 4, .last_index = 4, .has_vcpu = true, .vcpu = 1 },
        { .kinds = WATCH_CR, .first_index = 4, .last_index = 4, .has_cr3 = true, .cr3 = 0x5007 },
        { .kinds = WATCH_CR, .first_index = 4, .last_index = 4, .cpls = 8 },
        { .kinds = WATCH_CR, .last_index = 9, .value_mask = 8, .value = 8 },
        { .kinds = WATCH_CR, .last_index = 9, .count = 1 },
    };
    static const unsigned n_expected[] = { 2, 0, 1, 0, 1, 1 };
    struct watched g;
    struct watch_record r[8];
    uint64_t dropped;
    WATCHED_CREATE(&g, cr);
    for (unsigned i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(look_subscribe(g.l, &wrong[i], NULL, 0), -EINVAL);
    for (unsigned i = 0; i < sizeof right / sizeof *right; i++) {
        struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
        struct kvm_sregs s;
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_GET_SREGS, &s), 0);
        s.cr0 = 0x60000010;
        s.cr4 = s.cr3 = 0;
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_SREGS, &s), 0);
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_SET_REGS, &regs), 0);
        int number = look_subscribe(g.l, &right[i], NULL, 0);
        assert_true(number > 0);
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_RUN, NULL), 0);
        assert_int_equal(look_listener_next(g.l, r, 8, &dropped), n_expected[i]);
        assert_int_equal(look_unsubscribe(g.l, (unsigned)number), 0);
        assert_int_equal(look_unsubscribe(g.l, (unsigned)number), -ENOENT);
    }
    watched_destroy(&g);
}

/* Nobody takes the events: they are counted, and the guest is not slowed to a stop. */
static void test_dropped(void **state)
{
    (void)state;
    struct watched g;
    static struct watch_record r[RING_SLOTS];
    struct look_filter f = { .kinds = WATCH_ACCESS, .last_index = UINT32_MAX };
    uint64_t dropped;
    WATCHED_CREATE(&g, loop);
    assert_true(look_subscribe(g.l, &f, &(struct look_range){ DATA_AT, DATA_AT + 1, WATCH_WRITE }, 1) > 0);
    watched_start(&g);
    while (*(volatile uint16_t *)(g.real.ram + DATA_AT) < RING_SLOTS + 1000)
        usleep(100);
    watched_stop(&g);
    uint16_t n = *(uint16_t *)(g.real.ram + DATA_AT);
    assert_int_equal(look_listener_next(g.l, r, RING_SLOTS, &dropped), RING_SLOTS);
    assert_int_equal((uint16_t)(dropped + RING_SLOTS), n);
    for (unsigned i = 0; i < RING_SLOTS; i++) {
        assert_int_equal(r[i].sequence, i + 1);
        assert_int_equal(r[i].event.gpa, DATA_AT);
        assert_true(!i || r[i].time_ns >= r[i - 1].time_ns);
    }
    watched_destroy(&g);
}

/* The client is interrupted many times while the vCPU waits: one event, answered once. */
static void test_signals(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, cr0);
    watched_ask(&g, WATCH_CR);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000030);
    while (atomic_load(&g.n_interrupted) < 20) {
        pthread_kill(g.client, SIGUSR1);
        usleep(500);
    }
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 0x60000030);
    watched_destroy(&g);
}

/* Between the question and the answer the client takes the vCPU out, and it is run again later. */
static void test_client_leaves(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    WATCHED_CREATE(&g, access);
    watched_ask_range(&g, DATA_AT, DATA_AT, WATCH_READ);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_ACCESS, 0, 0, 0);
    watched_stop(&g);
    assert_int_equal(real_guest_regs(&g.real).rip, CODE_AT);
    watched_answer(&g, &r, WATCH_CONTINUE, 0);
    watched_start(&g);
    watched_expect_end(&g);
    watched_destroy(&g);
}

/* The listener goes while its vCPU waits; of two the other's answer still counts. */
static void test_listener_goes(void **state)
{
    (void)state;
    struct watched g;
    struct watch_record r;
    struct look_listener *other;
    WATCHED_CREATE(&g, cr0);
    assert_int_equal(look_listener_create(g.real.vm, &other), 0);
    watched_ask(&g, WATCH_CR);
    struct look_filter f = { .kinds = WATCH_CR, .is_asking = true, .last_index = UINT32_MAX };
    assert_true(look_subscribe(other, &f, NULL, 0) > 0);
    watched_start(&g);
    watched_expect(&g, &r, WATCH_CR, 0, 0x60000010, 0x60000030);
    watched_answer(&g, &r, WATCH_DENY, 0);
    look_listener_destroy(other);
    watched_expect_end(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 0x60000010);
    watched_destroy(&g);
}

struct hearing {
    struct look_listener *l;
    _Atomic bool is_done;
    unsigned n_told;
};

/* What a tool does all the time, until there is nothing left to hear. */
static void *hear(void *arg)
{
    struct hearing *h = arg;
    struct watch_record r;
    uint64_t dropped;
    struct look_filter f = { .kinds = WATCH_MSR_READ, .last_index = UINT32_MAX };
    for (bool has_vm = true; has_vm;) {
        has_vm = look_listener_has_vm(h->l);
        int number = look_subscribe(h->l, &f, NULL, 0);
        assert_true(number > 0 || number == -ESRCH);
        h->n_told += look_listener_next(h->l, &r, 1, &dropped);
        int answered = look_answer(h->l, 0, 1, WATCH_CONTINUE, 0), ended = look_unsubscribe(h->l, number > 0 ? (unsigned)number : 1);
        assert_true(answered == -ESTALE || answered == -ESRCH || answered == -ENOENT);
        assert_true(ended == 0 || ended == -ESRCH);
    }
    atomic_store(&h->is_done, true);
    return NULL;
}

/* Listeners keep no VM; one is in the middle of its calls, one has its queue full of the past, one goes at the same time. */
static void test_vm_goes(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        struct watched g;
        struct watch_record r;
        struct hearing busy = { 0 };
        struct look_listener *idle;
        struct look_filter f = { .kinds = WATCH_CR | WATCH_ACCESS | WATCH_END, .last_index = UINT32_MAX };
        pthread_t tool;
        uint64_t dropped;
        WATCHED_CREATE(&g, cr0);
        assert_int_equal(look_listener_create(g.real.vm, &busy.l), 0);
        assert_int_equal(look_listener_create(g.real.vm, &idle), 0);
        assert_true(look_subscribe(idle, &f, &(struct look_range){ DATA_AT, DATA_AT, WATCH_READ }, 1) > 0);
        assert_int_equal(pthread_create(&tool, NULL, hear, &busy), 0);
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_RUN, NULL), 0);
        look_listener_destroy(g.l);
        real_guest_destroy(&g.real);
        pthread_join(tool, NULL);
        assert_true(busy.is_done);
        look_listener_destroy(busy.l);

        struct pollfd p = { .fd = look_listener_fd(idle), .events = POLLIN };
        assert_int_equal(poll(&p, 1, 60000), 1);
        while (look_listener_has_vm(idle))
            usleep(100);
        assert_int_equal(look_listener_next(idle, &r, 1, &dropped), 1);
        assert_int_equal(r.event.kind, WATCH_CR);
        assert_int_equal(look_listener_next(idle, &r, 1, &dropped), 1);
        assert_int_equal(r.event.kind, WATCH_END);
        assert_int_equal(look_listener_next(idle, &r, 1, &dropped), 0);
        assert_int_equal(poll(&p, 1, 0), 1);
        assert_int_equal(look_subscribe(idle, &(struct look_filter){ .kinds = WATCH_CR }, NULL, 0), -ESRCH);
        assert_int_equal(look_unsubscribe(idle, 1), -ESRCH);
        assert_int_equal(look_answer(idle, 0, 1, WATCH_CONTINUE, 0), -ESRCH);
        look_listener_destroy(idle);
    }
}

/* Under load: subscriptions come and go, the guest computes on and nothing stays behind. */
static void test_attach_detach(void **state)
{
    (void)state;
    struct watched g;
    WATCHED_CREATE(&g, count);
    watched_start(&g);
    for (unsigned i = 0; i < 300; i++) {
        struct watch_record r;
        if (i % 3 == 0)
            watched_ask_range(&g, COUNT_AT, COUNT_AT, WATCH_WRITE);
        else if (i % 3 == 1)
            watched_ask_range(&g, CODE_AT, CODE_AT, WATCH_EXECUTE);
        else
            watched_ask(&g, WATCH_STEP);
        assert_true(watched_next(&g, &r));
        if (i % 2)
            watched_answer(&g, &r, WATCH_CONTINUE, 0);
        look_listener_destroy(g.l);
        assert_int_equal(look_listener_create(g.real.vm, &g.l), 0);
    }
    uint16_t before = *(volatile uint16_t *)(g.real.ram + COUNT_AT);
    while (*(volatile uint16_t *)(g.real.ram + COUNT_AT) == before)
        usleep(100);
    watched_stop(&g);
    watched_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_filters),       cmocka_unit_test(test_dropped), cmocka_unit_test(test_signals),       cmocka_unit_test(test_client_leaves),
        cmocka_unit_test(test_listener_goes), cmocka_unit_test(test_vm_goes), cmocka_unit_test(test_attach_detach),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
