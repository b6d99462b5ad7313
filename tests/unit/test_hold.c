/* SPDX-License-Identifier: MIT */
/*
 * core/hold.h on the real engine: a guest in real mode counts in its memory, another thread looks at it, keeps it still and lets it go, while its client runs
 * it, halts it, is interrupted by signals, or is not there at all.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

#include "core/hold.h"
#include "tests/unit/real_guest.h"
#include "transport/inproc.h"

#define RAM_BYTES 0x10000u
#define CODE_AT REAL_GUEST_CODE_AT
#define COUNT_AT 0x500u

static const uint8_t code_count[] = { 0xff, 0x06, 0x00, 0x05, 0xeb, 0xfa };          /* 1: inc word [500h]; jmp 1b */
static const uint8_t code_in[] = { 0xe4, 0x80, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xf8 }; /* 1: in al, 80h; inc word [500h]; jmp 1b */
static const uint8_t code_halt[] = { 0xf4, 0xeb, 0xfd };                             /* 1: hlt; jmp 1b */

struct guest {
    struct real_guest real;
    struct vm *vm;
    struct vcpu *v;
    pthread_t client;
    _Atomic bool stop;
    _Atomic unsigned n_exits, n_interrupted;
};

static void *client(void *arg)
{
    struct guest *g = arg;
    do {
        int r = vitrine_ioctl(g->real.cpu_fd, KVM_RUN, NULL);
        atomic_fetch_add(r ? &g->n_interrupted : &g->n_exits, 1);
    } while (!atomic_load(&g->stop));
    return NULL;
}

static void guest_create(struct guest *g, const uint8_t *code, size_t bytes, bool has_irqchip)
{
    *g = (struct guest){ .stop = false };
    real_guest_create(&g->real, RAM_BYTES, code, bytes, has_irqchip);
    g->vm = g->real.vm;
    g->v = g->real.v;
}

static void guest_start(struct guest *g)
{
    assert_int_equal(pthread_create(&g->client, NULL, client, g), 0);
}

static void guest_stop(struct guest *g)
{
    atomic_store(&g->stop, true);
    real_guest_kick_until_ended(&g->real, g->client);
}

static void guest_destroy(struct guest *g)
{
    real_guest_destroy(&g->real);
}

static uint16_t count(const struct guest *g)
{
    return *(volatile uint16_t *)(g->real.ram + COUNT_AT);
}

/* What is not moving for ever cannot be shown; 5 ms are some hundred thousand turns of the guest. */
static void assert_still(const struct guest *g)
{
    uint16_t before = count(g);
    usleep(5000);
    assert_int_equal(count(g), before);
}

static void note_rip(struct vcpu *v, void *arg)
{
    *(uint64_t *)arg = v->cpu.rip;
}

static void test_running(void **state)
{
    (void)state;
    struct guest g;
    guest_create(&g, code_count, sizeof code_count, false);
    guest_start(&g);
    real_guest_wait_moving(&g.real, COUNT_AT);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t rip = 0;
        hold_call(g.v, note_rip, &rip);
        assert_true(rip == CODE_AT || rip == CODE_AT + 4);
    }
    hold_vcpu(g.v);
    assert_still(&g);
    hold_vm(g.vm);
    hold_release_vcpu(g.v);
    assert_still(&g); /* holds nest */
    hold_release_vm(g.vm);
    real_guest_wait_moving(&g.real, COUNT_AT);
    assert_int_equal(g.n_interrupted + g.n_exits, 0); /* the client noticed nothing */
    guest_stop(&g);
    guest_destroy(&g);
}

/* The client is answered while its vCPU is held, and sees the same registers before and after. */
static void test_signals_while_held(void **state)
{
    (void)state;
    struct guest g;
    struct kvm_regs a, b;
    guest_create(&g, code_count, sizeof code_count, false);
    guest_start(&g);
    real_guest_wait_moving(&g.real, COUNT_AT);
    hold_vcpu(g.v);
    guest_stop(&g);
    a = real_guest_regs(&g.real);
    g.real.run->immediate_exit = 0;
    g.stop = false;
    guest_start(&g);
    usleep(2000);
    guest_stop(&g);
    b = real_guest_regs(&g.real);
    assert_memory_equal(&a, &b, sizeof a);
    hold_release_vcpu(g.v);
    guest_destroy(&g);
}

/* Between an exit for a port and its completion: the hold comes first, the client's data are not lost. */
static void test_suspended(void **state)
{
    (void)state;
    struct guest g;
    uint64_t rip;
    guest_create(&g, code_in, sizeof code_in, false);
    assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_RUN, NULL), 0);
    assert_int_equal(g.real.run->exit_reason, KVM_EXIT_IO);
    *((uint8_t *)g.real.run + g.real.run->io.data_offset) = 0x5a;
    hold_vcpu(g.v);
    g.stop = true; /* one run */
    guest_start(&g);
    for (unsigned i = 0; i < 50; i++) {
        hold_call(g.v, note_rip, &rip);
        assert_int_equal(rip, CODE_AT);
    }
    assert_int_equal(count(&g), 0);
    hold_release_vcpu(g.v);
    pthread_join(g.client, NULL);
    assert_int_equal(g.n_exits, 1);
    assert_int_equal(count(&g), 1);
    assert_int_equal((uint8_t)real_guest_regs(&g.real).rax, 0x5a);
    guest_destroy(&g);
}

static void set_mark(struct vcpu *v, void *arg)
{
    (void)arg;
    v->cpu.gpr[GPR_RBX] = 0x1234;
    v->vm->engine->state_changed(v);
}

/* Halted in the kernel's place: looking and holding do not wake the guest. */
static void test_halted(void **state)
{
    (void)state;
    struct guest g;
    uint64_t rip;
    guest_create(&g, code_halt, sizeof code_halt, true);
    guest_start(&g);
    while (atomic_load(&g.v->mp_state) != MP_HALTED)
        usleep(100);
    for (unsigned i = 0; i < 50; i++) {
        hold_vm(g.vm);
        hold_call(g.v, note_rip, &rip);
        hold_release_vm(g.vm);
        assert_int_equal(rip, CODE_AT + 1);
        assert_int_equal(atomic_load(&g.v->mp_state), MP_HALTED);
    }
    hold_call(g.v, set_mark, NULL);
    guest_stop(&g);
    assert_int_equal(real_guest_regs(&g.real).rbx, 0x1234);
    guest_destroy(&g);
}

static void *look_on(void *arg)
{
    struct guest *g = arg;
    uint64_t rip;
    for (unsigned i = 0; i < 300; i++)
        hold_call(g->v, note_rip, &rip);
    return NULL;
}

/* Several lookers, a client that makes short calls, and nobody waits for ever. */
static void test_crowd(void **state)
{
    (void)state;
    struct guest g;
    pthread_t looker[3];
    struct kvm_regs regs;
    guest_create(&g, code_count, sizeof code_count, false);
    for (unsigned i = 0; i < 3; i++)
        pthread_create(&looker[i], NULL, look_on, &g);
    for (unsigned i = 0; i < 3000; i++)
        assert_int_equal(vitrine_ioctl(g.real.cpu_fd, KVM_GET_REGS, &regs), 0);
    guest_start(&g);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(looker[i], NULL);
    guest_stop(&g);
    guest_destroy(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_running), cmocka_unit_test(test_signals_while_held), cmocka_unit_test(test_suspended),
                                        cmocka_unit_test(test_halted), cmocka_unit_test(test_crowd) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
