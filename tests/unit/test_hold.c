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

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/hold.h"
#include "transport/inproc.h"

#define RAM_BYTES 0x10000u
#define CODE_AT 0x1000u
#define COUNT_AT 0x500u

static const uint8_t code_count[] = { 0xff, 0x06, 0x00, 0x05, 0xeb, 0xfa };          /* 1: inc word [500h]; jmp 1b */
static const uint8_t code_in[] = { 0xe4, 0x80, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xf8 }; /* 1: in al, 80h; inc word [500h]; jmp 1b */
static const uint8_t code_halt[] = { 0xf4, 0xeb, 0xfd };                             /* 1: hlt; jmp 1b */

struct guest {
    int dev_fd, vm_fd, cpu_fd;
    struct kvm_run *run;
    uint8_t *ram;
    struct vm *vm;
    struct vcpu *v;
    pthread_t client;
    _Atomic bool stop;
    _Atomic unsigned n_exits, n_interrupted;
};

static void on_signal(int sig)
{
    (void)sig;
}

static void *client(void *arg)
{
    struct guest *g = arg;
    do {
        int r = vitrine_ioctl(g->cpu_fd, KVM_RUN, NULL);
        atomic_fetch_add(r ? &g->n_interrupted : &g->n_exits, 1);
    } while (!atomic_load(&g->stop));
    return NULL;
}

static void guest_create(struct guest *g, const uint8_t *code, size_t bytes, bool has_irqchip)
{
    struct sigaction action = { .sa_handler = on_signal };
    struct kvm_regs regs = { .rip = CODE_AT, .rflags = 2 };
    struct kvm_sregs sregs;
    memset(g, 0, sizeof *g);
    sigaction(SIGUSR1, &action, NULL);
    g->dev_fd = vitrine_open("/dev/kvm");
    g->vm_fd = vitrine_ioctl(g->dev_fd, KVM_CREATE_VM, NULL);
    if (has_irqchip)
        assert_int_equal(vitrine_ioctl(g->vm_fd, KVM_CREATE_IRQCHIP, NULL), 0);
    g->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = { .memory_size = RAM_BYTES, .userspace_addr = (uintptr_t)g->ram };
    assert_int_equal(vitrine_ioctl(g->vm_fd, KVM_SET_USER_MEMORY_REGION, &region), 0);
    memcpy(g->ram + CODE_AT, code, bytes);
    g->cpu_fd = vitrine_ioctl(g->vm_fd, KVM_CREATE_VCPU, NULL);
    g->run = vitrine_mmap((size_t)vitrine_ioctl(g->dev_fd, KVM_GET_VCPU_MMAP_SIZE, NULL), PROT_READ | PROT_WRITE, MAP_SHARED, g->cpu_fd, 0);
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = sregs.cs.selector = 0;
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_SET_SREGS, &sregs), 0);
    assert_int_equal(vitrine_ioctl(g->cpu_fd, KVM_SET_REGS, &regs), 0);
    g->vm = vm_find(1);
    assert_non_null(g->vm);
    g->v = g->vm->vcpu[0];
}

static void guest_start(struct guest *g)
{
    assert_int_equal(pthread_create(&g->client, NULL, client, g), 0);
}

static void guest_stop(struct guest *g)
{
    unsigned before = g->n_interrupted;
    atomic_store(&g->stop, true);
    while (g->n_interrupted == before && g->n_exits == 0) {
        g->run->immediate_exit = 1;
        pthread_kill(g->client, SIGUSR1);
        usleep(1000);
    }
    pthread_join(g->client, NULL);
}

static void guest_destroy(struct guest *g)
{
    vm_put(g->vm);
    vitrine_close(g->cpu_fd);
    vitrine_close(g->vm_fd);
    vitrine_close(g->dev_fd);
    assert_null(vm_find(1));
    munmap(g->ram, RAM_BYTES);
}

static uint16_t count(const struct guest *g)
{
    return *(volatile uint16_t *)(g->ram + COUNT_AT);
}

static void wait_moving(const struct guest *g)
{
    uint16_t before = count(g);
    while (count(g) == before)
        usleep(100);
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
    wait_moving(&g);
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
    wait_moving(&g);
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
    wait_moving(&g);
    hold_vcpu(g.v);
    guest_stop(&g);
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_GET_REGS, &a), 0);
    g.run->immediate_exit = 0;
    g.stop = false;
    guest_start(&g);
    usleep(2000);
    guest_stop(&g);
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_GET_REGS, &b), 0);
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
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_RUN, NULL), 0);
    assert_int_equal(g.run->exit_reason, KVM_EXIT_IO);
    *((uint8_t *)g.run + g.run->io.data_offset) = 0x5a;
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
    struct kvm_regs regs;
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_GET_REGS, &regs), 0);
    assert_int_equal((uint8_t)regs.rax, 0x5a);
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
    struct kvm_regs regs;
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
    assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_GET_REGS, &regs), 0);
    assert_int_equal(regs.rbx, 0x1234);
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
        assert_int_equal(vitrine_ioctl(g.cpu_fd, KVM_GET_REGS, &regs), 0);
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
