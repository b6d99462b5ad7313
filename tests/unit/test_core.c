/* SPDX-License-Identifier: MIT */
/*
 * Core with a fake engine and fake chips: slots and dirty logs, vCPU life, blocking and signals, CPUID, MSRs, buses, eventfds, time. It is one thing
 * because all of it needs the same fakes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/host.h"
#include "base/log.h"
#include "base/memfd.h"
#include "core/coalesced.h"
#include "core/cpuid.h"
#include "core/dump.h"
#include "core/ioeventfd.h"
#include "core/irqfd.h"
#include "core/msr_priv.h"
#include "core/time.h"
#include "core/vcpu.h"
#include "core/vm.h"
#include "tests/thread_state.h"

/* ---- fakes ---- */

static unsigned n_changes, n_destroyed;
static gpa_t last_gpa;
static void memory_changed(struct vm *vm, gpa_t gpa, uint64_t bytes)
{
    (void)vm, (void)bytes;
    n_changes++;
    last_gpa = gpa;
}
static void vcpu_fini(struct vcpu *v)
{
    (void)v;
    n_destroyed++;
}
static int run_nothing(struct vcpu *v)
{
    return v->is_running ? 0 : -EIO;
}
static const struct engine_ops engine = {
    .name = "fake", .vcpu_bytes = sizeof(struct vcpu) + 100, .run = run_nothing, .memory_changed = memory_changed, .vcpu_fini = vcpu_fini
};

static _Atomic unsigned pic_edges, ioapic_level, ioapic_sets, msis;
static int pic_set(struct vm *vm, unsigned pin, unsigned source, bool level)
{
    (void)vm, (void)source;
    pic_edges += level;
    return pin < 16 ? 1 : -1;
}
static int ioapic_set(struct vm *vm, unsigned pin, unsigned source, bool level)
{
    (void)vm, (void)source;
    ioapic_level = level ? pin + 1 : 0;
    ioapic_sets++;
    return 1;
}
static int msi_send(struct vm *vm, uint64_t address, uint32_t data)
{
    (void)vm, (void)address;
    msis += data;
    return 1;
}
static const struct chip_ops chip = { .pic_set = pic_set, .ioapic_set = ioapic_set, .msi_send = msi_send };

static struct vm *make_vm(void)
{
    struct vm *vm;
    assert_int_equal(vm_create(&engine, NULL, &vm), 0);
    return vm;
}

static hva_t make_ram(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(p != MAP_FAILED);
    return p;
}

static void wait_until(_Atomic unsigned *value, unsigned wanted)
{
    while (atomic_load(value) != wanted)
        usleep(100);
}

/* ---- tests ---- */

static void test_slots(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    hva_t ram = make_ram(1 << 20);
    assert_int_equal(vm_set_memslot(vm, 0, 0, 0x100000, 0x80000, ram), 0);
    assert_int_equal(vm_set_memslot(vm, 1, 0, 0x17f000, 0x1000, ram), -EEXIST);
    assert_int_equal(vm_set_memslot(vm, 1, 0, 0x180000, 0x1000, ram + 0x80000), 0);
    assert_int_equal(vm_set_memslot(vm, 2, 0, 0x180800, 0x1000, ram), -EINVAL);
    assert_int_equal(vm_set_memslot(vm, 2, 0, 0, 0x1001, ram), -EINVAL);
    assert_int_equal(vm_set_memslot(vm, 2, 0, ~0xfffull, 0x2000, ram), -EINVAL);
    assert_int_equal(vm_set_memslot(vm, 2, 16, 0, 0x1000, ram), -EINVAL);
    assert_int_equal(vm_set_memslot(vm, SPACE_COUNT << 16, 0, 0, 0x1000, ram), -EINVAL);
    assert_int_equal(vm_set_memslot(vm, 2, 0, 0, 0, NULL), -ENOENT);
    assert_int_equal(vm_set_memslot(vm, 2, 0, 0, 0x1000, ram + 0x90000), 0);
    const struct memslots *t = vm->slots[SPACE_NORMAL];
    assert_int_equal(t->n, 3);
    for (unsigned i = 1; i < t->n; i++)
        assert_true(t->slot[i - 1].gpa < t->slot[i].gpa);

    /* A copy over the seam of two slots; nothing is touched where there is no RAM. */
    assert_int_equal(vm_write(vm, 0x17fffe, "abcd", 4), 0);
    assert_memory_equal(ram + 0x7fffe, "ab", 2);
    assert_memory_equal(ram + 0x80000, "cd", 2);
    char buf[4];
    assert_int_equal(vm_read(vm, 0x17fffe, buf, 4), 0);
    assert_memory_equal(buf, "abcd", 4);
    assert_int_equal(vm_write(vm, 0x180ffe, "wxyz", 4), -EFAULT);
    assert_int_equal(ram[0x80ffe], 0);

    /* Move, read-only, delete. */
    unsigned before = n_changes;
    assert_int_equal(vm_set_memslot(vm, 1, MEMSLOT_READONLY, 0x200000, 0x1000, ram + 0x80000), 0);
    assert_int_equal(n_changes, before + 2); /* where it was and where it is */
    assert_int_equal(vm_write(vm, 0x200000, "x", 1), -EFAULT);
    assert_int_equal(vm_read(vm, 0x180000, buf, 1), -EFAULT);
    assert_int_equal(vm_memslot_pages(vm, 0), 0x80);
    assert_int_equal(vm_set_memslot(vm, 0, 0, 0, 0, NULL), 0);
    assert_int_equal(vm_memslot_pages(vm, 0), 0);
    assert_int_equal(vm_set_memslot(vm, 0, 0, 0, 0, NULL), -ENOENT);
    vm_put(vm);
    munmap(ram, 1 << 20);
}

static int take_dirty_log(struct vm *vm, uint32_t id, uint64_t *log)
{
    int error = vm_peek_dirty_log(vm, id, log);
    return error ? error : vm_clear_dirty_log(vm, id, 0, vm_memslot_pages(vm, id), log);
}

/* The same addresses and numbers in the other address space are other slots. */
static void test_spaces(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    hva_t ram = make_ram(1 << 20);
    const uint32_t smm = SPACE_SMM << MEMSLOT_SPACE_SHIFT;
    uint64_t log;
    char buf[4];
    assert_int_equal(vm_set_memslot(vm, 3, 0, 0x10000, 0x10000, ram), 0);
    assert_int_equal(vm_set_memslot(vm, smm | 3, MEMSLOT_LOG_DIRTY, 0x10000, 0x4000, ram + 0x80000), 0);
    assert_int_equal(vm_set_memslot(vm, smm | 4, 0, 0x13000, 0x1000, ram), -EEXIST);
    assert_int_equal(vm_memslot_pages(vm, 3), 0x10);
    assert_int_equal(vm_memslot_pages(vm, smm | 3), 4);
    assert_int_equal(vm_space_write(vm, SPACE_SMM, 0x12000, "smm", 3), 0);
    assert_memory_equal(ram + 0x82000, "smm", 3);
    assert_int_equal(ram[0x2000], 0);
    assert_int_equal(vm_space_write(vm, SPACE_SMM, 0x14000, "x", 1), -EFAULT);
    assert_int_equal(vm_write(vm, 0x12000, "nor", 3), 0);
    assert_int_equal(vm_space_read(vm, SPACE_SMM, 0x12000, buf, 3), 0);
    assert_memory_equal(buf, "smm", 3);
    assert_int_equal(take_dirty_log(vm, 3, &log), -EINVAL);
    assert_int_equal(take_dirty_log(vm, smm | 3, &log), 0);
    assert_int_equal(log, 4);
    assert_int_equal(take_dirty_log(vm, smm | 4, &log), -ENOENT);
    assert_int_equal(take_dirty_log(vm, SPACE_COUNT << MEMSLOT_SPACE_SHIFT, &log), -ENOENT);
    assert_int_equal(vm_set_memslot(vm, smm | 3, 0, 0, 0, NULL), 0);
    assert_int_equal(vm_read(vm, 0x12000, buf, 3), 0);
    vm_put(vm);
    munmap(ram, 1 << 20);
}

static void test_dirty(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    hva_t ram = make_ram(1 << 20);
    uint64_t log[4];
    assert_int_equal(vm_set_memslot(vm, 5, 0, 0x40000, 0x46000, ram), 0); /* 70 pages */
    assert_int_equal(take_dirty_log(vm, 5, log), -EINVAL);
    assert_int_equal(take_dirty_log(vm, 6, log), -ENOENT);
    assert_int_equal(vm_set_memslot(vm, 5, MEMSLOT_LOG_DIRTY, 0x40000, 0x46000, ram), 0);
    assert_int_equal(vm_write(vm, 0x40fff, "12", 2), 0);
    assert_int_equal(vm_write(vm, 0x40000 + 69 * 4096, "1", 1), 0);
    unsigned before = n_changes;
    assert_int_equal(vm_peek_dirty_log(vm, 5, log), 0);
    assert_int_equal(log[0], 3);
    assert_int_equal(take_dirty_log(vm, 5, log), 0);
    assert_int_equal(log[0], 3);
    assert_int_equal(log[1], 1 << 5);
    assert_int_equal(n_changes, before + 1);
    assert_int_equal(take_dirty_log(vm, 5, log), 0);
    assert_int_equal(log[0] | log[1], 0);

    /* Bits survive a change elsewhere and an identical set. */
    assert_int_equal(vm_write(vm, 0x42000, "1", 1), 0);
    assert_int_equal(vm_set_memslot(vm, 7, 0, 0, 0x1000, ram), 0);
    assert_int_equal(vm_set_memslot(vm, 5, MEMSLOT_LOG_DIRTY | MEMSLOT_READONLY, 0x40000, 0x46000, ram), 0);
    assert_int_equal(vm_peek_dirty_log(vm, 5, log), 0);
    assert_int_equal(log[0], 4);
    uint64_t clear[2] = { 1 << 5, 0 };
    assert_int_equal(vm_clear_dirty_log(vm, 5, 32, 64, clear), -EINVAL);
    assert_int_equal(vm_clear_dirty_log(vm, 5, 64, 64, clear), -EINVAL);
    assert_int_equal(vm_clear_dirty_log(vm, 5, 64, 6, clear), 0);
    clear[0] = 4;
    assert_int_equal(vm_clear_dirty_log(vm, 5, 0, 64, clear), 0);
    assert_int_equal(take_dirty_log(vm, 5, log), 0);
    assert_int_equal(log[0] | log[1], 0);
    vm_put(vm);
    munmap(ram, 1 << 20);
}

static _Atomic bool is_stopping;
static void *reader_thread(void *arg)
{
    char buf[64];
    while (!is_stopping)
        vm_read(arg, 0x1000, buf, sizeof buf);
    return NULL;
}

/* The memory goes the moment vm_set_memslot returns; a reader that still used it would crash. */
static void test_slots_race(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    pthread_t thread;
    is_stopping = false;
    pthread_create(&thread, NULL, reader_thread, vm);
    for (int i = 0; i < 2000; i++) {
        hva_t ram = make_ram(0x2000);
        assert_int_equal(vm_set_memslot(vm, 0, MEMSLOT_LOG_DIRTY, 0x1000, 0x2000, ram), 0);
        assert_int_equal(vm_set_memslot(vm, 0, 0, 0, 0, NULL), 0);
        munmap(ram, 0x2000);
    }
    is_stopping = true;
    pthread_join(thread, NULL);
    vm_put(vm);
}

static void test_vcpu_life(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    struct vcpu *v, *w;
    n_destroyed = 0;
    assert_int_equal(vcpu_create(vm, VM_VCPU_IDS, &v), -EINVAL);
    assert_int_equal(vcpu_create(vm, 3, &v), 0);
    assert_int_equal(vcpu_create(vm, 3, &w), -EEXIST);
    assert_int_equal(vcpu_create(vm, 0, &w), 0);
    assert_int_equal(vm->n_vcpus, 4);
    assert_int_equal((uintptr_t)v % 4096, 0);
    assert_int_equal(v->cpu.rip, 0xfff0);
    assert_true(v->cpu.seg[SEG_CS].base == 0xffff0000);
    assert_true(v->cpu.cr0 == 0x60000010);
    assert_true(v->cpu.apic_base == 0xfee00800);
    assert_true(w->cpu.apic_base == 0xfee00900);
    assert_int_equal(v->mp_state, MP_RUNNABLE);
    v->cpu.cr0 = 0x80000011 | CR0_NW;
    v->cpu.pat = 0;
    vcpu_reset(v, true);
    assert_true(v->cpu.cr0 == (CR0_NW | CR0_ET));
    assert_true(v->cpu.pat == 0);
    vcpu_start_at(v, 0x9a);
    assert_int_equal(v->cpu.seg[SEG_CS].selector, 0x9a00);
    assert_int_equal(v->cpu.seg[SEG_CS].base, 0x9a000);
    assert_int_equal(vcpu_run(v), 0);
    assert_false(v->is_running);
    assert_int_equal(vcpu_irq_peek(v), -1);
    v->ev.interrupt.injected = true;
    v->ev.interrupt.vector = 33;
    assert_int_equal(vcpu_irq_peek(v), 33);
    assert_int_equal(vcpu_irq_take(v), 33);
    assert_int_equal(vcpu_irq_take(v), -1);
    char text[8192];
    size_t n = vcpu_dump(v, text, sizeof text);
    assert_true(n < sizeof text && strlen(text) == n && strstr(text, "rip 0000000000000000"));
    assert_true(vcpu_dump(v, text, 10) == n && strlen(text) == 9);
    assert_true(vcpu_dump(v, NULL, 0) == n);
    vm_put(vm);
    vcpu_destroy(v);
    assert_int_equal(n_destroyed, 0);
    vcpu_destroy(w);
    assert_int_equal(n_destroyed, 2);
}

/* Something that happens to a thread once it sleeps in vcpu_block. */
struct disturbance {
    struct vcpu *v;
    int sig; /* 0: a request to the vCPU instead of a signal */
    pthread_t thread, target;
    pid_t target_id;
};

static void *disturb(void *arg)
{
    const struct disturbance *d = arg;
    while (!atomic_load(&d->v->is_blocked))
        usleep(100);
    thread_wait_state(d->target_id, "S");
    if (d->sig)
        pthread_kill(d->target, d->sig);
    else
        vcpu_request(d->v, VREQ_EVENT);
    return NULL;
}

static int block_until(struct vcpu *v, int sig)
{
    struct disturbance d = { .v = v, .sig = sig, .target = pthread_self(), .target_id = gettid() };
    assert_int_equal(pthread_create(&d.thread, NULL, disturb, &d), 0);
    int result = vcpu_block(v);
    pthread_join(d.thread, NULL);
    return result;
}

static _Atomic unsigned n_rounds;
static void *rounds_thread(void *arg)
{
    struct vcpu *v = arg;
    while (n_rounds < 20000) {
        unsigned seen = n_rounds;
        vcpu_request(v, VREQ_EVENT);
        while (n_rounds == seen)
            ;
    }
    return NULL;
}

static void test_block_kick(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    struct vcpu *v;
    pthread_t thread;
    assert_int_equal(vcpu_create(vm, 0, &v), 0);
    assert_int_equal(block_until(v, 0), 0);
    assert_int_equal(atomic_load(&v->requests), VREQ_EVENT);
    assert_int_equal(vcpu_block(v), 0); /* exit_req still set: at once */

    /* Lost wake-ups would hang here. */
    atomic_store(&v->requests, 0);
    n_rounds = 0;
    pthread_create(&thread, NULL, rounds_thread, v);
    while (n_rounds < 20000) {
        atomic_store(&v->exit_req, 0);
        if (atomic_exchange(&v->requests, 0))
            atomic_fetch_add(&n_rounds, 1);
        else
            assert_int_equal(vcpu_block(v), 0);
    }
    pthread_join(thread, NULL);
    vcpu_destroy(v);
    vm_put(vm);
}

static volatile sig_atomic_t n_handled;
static void handler(int sig)
{
    (void)sig;
    n_handled++;
}

static void test_block_signal(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    struct vcpu *v;
    assert_int_equal(vcpu_create(vm, 0, &v), 0);
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
    sigaction(SIGUSR1, &action, NULL);

    /* A handler ran. */
    assert_int_equal(block_until(v, SIGUSR1), -EINTR);
    assert_int_equal(n_handled, 1);

    /* Blocked by the caller, unblocked by the run mask: ends the wait and stays pending. Twice: also when it is pending from the start. */
    sigset_t usr1, pending;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    sigemptyset(&v->run_mask);
    v->has_run_mask = true;
    assert_false(vcpu_signal_pending(v));
    assert_int_equal(block_until(v, SIGUSR1), -EINTR);
    assert_true(vcpu_signal_pending(v));
    assert_int_equal(vcpu_block(v), -EINTR);
    sigpending(&pending);
    assert_true(sigismember(&pending, SIGUSR1));
    assert_int_equal(n_handled, 1);

    /* Blocked by the run mask too: not seen. */
    v->run_mask = usr1;
    assert_false(vcpu_signal_pending(v));
    assert_int_equal(block_until(v, 0), 0);
    atomic_store(&v->exit_req, 0);

    uint8_t byte = 1;
    v->immediate_exit = &byte;
    assert_int_equal(vcpu_block(v), -EINTR);
    v->immediate_exit = NULL;
    pthread_sigmask(SIG_UNBLOCK, &usr1, NULL);
    assert_int_equal(n_handled, 2);
    vcpu_destroy(v);
    vm_put(vm);
}

static int run_until_tick(struct vcpu *v)
{
    while (!(atomic_load(&v->requests) & VREQ_TICK))
        usleep(100);
    return 0;
}

static void test_tick(void **state)
{
    (void)state;
    struct engine_ops ticking = engine;
    ticking.run = run_until_tick;
    struct vm *vm;
    struct vcpu *v;
    assert_int_equal(vm_create(&ticking, NULL, &vm), 0);
    assert_int_equal(vcpu_create(vm, 0, &v), 0);
    v->has_run_mask = true;
    for (int i = 0; i < 3; i++) {
        atomic_store(&v->requests, 0);
        assert_int_equal(vcpu_run(v), 0);
    }
    assert_int_equal(vm->tick.users, 0);
    while (vm->tick.is_armed) /* nobody runs: no timer, after the last tick */
        usleep(100);
    vcpu_destroy(v);
    vm_put(vm);
}

static void set_supported(struct vcpu *v)
{
    struct cpuid_entry entries[CPUID_ENTRIES_MAX];
    unsigned n = cpuid_supported(entries, CPUID_ENTRIES_MAX);
    assert_true(n > 20 && n <= CPUID_ENTRIES_MAX);
    assert_int_equal(cpuid_supported(entries, 3), n);
    assert_int_equal(vcpu_set_cpuid(v, entries, n), 0);
}

static void test_cpuid(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    struct vcpu *v;
    uint32_t r[4], basic[4];
    assert_int_equal(vcpu_create(vm, 0, &v), 0);
    vcpu_cpuid(v, 1, 0, r);
    assert_int_equal(r[0] | r[1] | r[2] | r[3], 0);
    set_supported(v);
    vcpu_cpuid(v, 1, 0, r);
    assert_false(r[2] & 1u << 27);
    assert_true(r[3] & 1u << 9);
    assert_false(r[2] & (1u << 3 | 1u << 5)); /* MONITOR, VMX */
    assert_true(r[2] & 1u << 31);
    assert_false(r[3] & (1u << 21 | 1u << 22)); /* DS, ACPI */
    assert_int_equal(r[3] & 0x1ff, 0x1ff);
    vcpu_cpuid(v, 0x40000001, 0, r);
    assert_int_equal(r[0] & (1u << 3 | 1u << 7 | 1u << 11), 1u << 3); /* kicks and IPIs by hypercall need a LAPIC in process */
    v->cpu.cr4 = CR4_OSXSAVE;
    v->cpu.apic_base &= ~(uint64_t)APIC_BASE_ENABLE;
    vcpu_cpuid(v, 1, 0, r);
    assert_int_equal(!!(r[2] & 1u << 27), host_facts()->has_xsave);
    assert_false(r[3] & 1u << 9);
    vcpu_cpuid(v, 0xd, 0, r);
    assert_int_equal(r[1], 576);
    v->cpu.xcr0 = host_facts()->xcr0;
    vcpu_cpuid(v, 0xd, 0, r);
    assert_int_equal(r[1], host_facts()->xsave_bytes);
    assert_int_equal(r[0], host_facts()->xcr0);
    if (host_facts()->has_xsavec && host_facts()->xcr0 & XCR0_AVX) {
        v->cpu.xcr0 = 7;
        vcpu_cpuid(v, 0xd, 1, r);
        assert_int_equal(r[1], 576 + 256);
    }
    vcpu_cpuid(v, 0x40000000, 0, r);
    assert_memory_equal(&r[1], "KVMKVMKVM\0\0\0", 12);
    assert_true(vcpu_cpuid_has(v, 0x80000001, 0, 3, 29));
    assert_false(vcpu_cpuid_has(v, 7, 0, 1, 11)); /* RTM */
    vcpu_cpuid(v, 0, 0, basic);
    vcpu_cpuid(v, basic[0] + 1, 0, r);
    uint32_t highest[4];
    vcpu_cpuid(v, basic[0], 0, highest);
    if (!host_facts()->is_amd)
        assert_memory_equal(r, highest, sizeof r);
    vcpu_destroy(v);
    vm_put(vm);
}

static void test_msr_list(void **state)
{
    (void)state;
    assert_true(msr_table_is_sorted());
    struct vm *vm = make_vm();
    struct vcpu *v;
    assert_int_equal(vcpu_create(vm, 0, &v), 0);
    for (int pass = 0; pass < 2; pass++) {
        uint32_t list[256];
        unsigned n = msr_index_list(list, 256);
        assert_true(n > 40 && n < 256);
        n += msr_feature_list(list + n, 256 - n);
        for (unsigned i = 0; i < n; i++) {
            uint64_t value = 0x5555;
            if (vcpu_msr_read(v, list[i], &value, true) != 0 || vcpu_msr_write(v, list[i], value, true) != 0)
                fail_msg("msr %x", list[i]);
        }
        set_supported(v);
    }
    for (unsigned i = 0, n = msr_feature_list(NULL, 0); i < n; i++) {
        uint32_t list[8];
        uint64_t a, b;
        msr_feature_list(list, 8);
        assert_int_equal(msr_feature_read(list[i], &a), 0);
        assert_int_equal(vcpu_msr_read(v, list[i], &b, true), 0);
        assert_true(a == b);
    }
    vcpu_destroy(v);
    vm_put(vm);
}

static void test_msr_checks(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    struct vcpu *v;
    uint64_t value = 77;
    assert_int_equal(vcpu_create(vm, 0, &v), 0);
    set_supported(v);
    assert_int_equal(vcpu_msr_read(v, 0x12345, &value, false), -ENOENT);
    assert_int_equal(value, 77);
    const struct {
        uint32_t index;
        uint64_t value;
        int expected;
    } writes[] = {
        { MSR_EFER, EFER_SCE | EFER_LME | EFER_NXE, 0 },
        { MSR_EFER, 1u << 1, -EINVAL },
        { MSR_LSTAR, 0xffffffff81000000, 0 },
        { MSR_LSTAR, 0x0123456789abcdef, -EINVAL },
        { MSR_GS_BASE, 0xffff888000000000, 0 },
        { MSR_FS_BASE, 1ull << 62, -EINVAL },
        { MSR_PAT, 0x0007010600070106, 0 },
        { MSR_PAT, 0x02, -EINVAL },
        { MSR_PAT, 0x0300000000000000, -EINVAL },
        { MSR_MTRR_DEF_TYPE, 0xc06, 0 },
        { MSR_MTRR_DEF_TYPE, 0xc07, -EINVAL },
        { MSR_MTRR_PHYSBASE0, 0x80000006, 0 },
        { MSR_MTRR_PHYSBASE0, 0x80000106, -EINVAL },
        { MSR_MTRR_PHYSBASE0 + 1, 0xff80000800, 0 },
        { MSR_MTRR_PHYSBASE0 + 1, 0xff80000001, -EINVAL },
        { MSR_MTRR_FIX4K_C0000 + 7, 0x0505050505050505, 0 },
        { MSR_MTRR_FIX64K, 2, -EINVAL },
        { MSR_MTRR_CAP, 0, -EINVAL },
        { MSR_MC0_CTL, ~0ull, 0 },
        { MSR_MC0_CTL, 5, -EINVAL },
        { MSR_MC0_CTL + 1, 5, -EINVAL },
        { MSR_MC0_CTL + 1, 0, 0 },
        { MSR_TSC_AUX, 1ull << 32, -EINVAL },
        { MSR_TSC_AUX, 3, 0 },
        { MSR_SPEC_CTRL, 0, -ENOENT },
        { MSR_ARCH_CAPABILITIES, 0, -EINVAL },
        { MSR_BIOS_SIGN_ID, 0, 0 },
        { 0x9e, 0, -ENOENT },
    };
    for (unsigned i = 0; i < sizeof writes / sizeof writes[0]; i++) {
        if (vcpu_msr_write(v, writes[i].index, writes[i].value, false) != writes[i].expected)
            fail_msg("write %x %llx", writes[i].index, (unsigned long long)writes[i].value);
    }
    assert_true(v->cpu.seg[SEG_GS].base == 0xffff888000000000);
    assert_int_equal(v->cpu.mtrr_fixed[10], 0x0505050505050505);
    assert_int_equal(v->cpu.mtrr_var[1], 0xff80000800);
    v->cpu.efer |= EFER_LMA;
    v->cpu.cr0 |= CR0_PG | CR0_PE;
    assert_int_equal(vcpu_msr_write(v, MSR_EFER, 0, false), -EINVAL);
    assert_int_equal(vcpu_msr_write(v, MSR_EFER, EFER_LME, false), 0);
    assert_int_equal(v->cpu.efer, EFER_LME | EFER_LMA);
    assert_int_equal(vcpu_mce_setup(v, 0), -EINVAL);
    assert_int_equal(vcpu_mce_setup(v, 10 | 1 << 8), 0);
    assert_int_equal(vcpu_msr_read(v, MSR_MC0_CTL + 40, &value, false), -ENOENT);
    assert_int_equal(vcpu_msr_read(v, MSR_MC0_CTL + 36, &value, false), 0);
    assert_true(value == ~0ull);
    struct refusal seen[8];
    assert_true(refusal_list(seen, 8) >= 1);
    vcpu_destroy(v);
    vm_put(vm);
}

static void test_memory_types(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    struct vcpu *v;
    assert_int_equal(vcpu_create(vm, 0, &v), 0);
    assert_int_equal(vcpu_mtrr_type(v, 0), 0); /* all uncached before they are enabled */
    v->cpu.mtrr_fixed[0] = 0x0606060606060604;
    v->cpu.mtrr_fixed[2] = 0x0000000000000001;
    v->cpu.mtrr_fixed[10] = 0x0506060606060606;
    const uint64_t ranges[][2] = {
        { 0x80000000, 0xff80000800 },  /* 2-4 GiB UC */
        { 0xc0000006, 0xfff0000800 },  /* in it, WB */
        { 0x100000004, 0xfff0000800 }, /* WT */
        { 0x100000006, 0xffff000800 }, /* in it, WB */
        { 0x110000001, 0xfff0000000 }, /* not valid */
    };
    memcpy(v->cpu.mtrr_var, ranges, sizeof ranges);
    const struct {
        uint64_t gpa, def_type;
        uint8_t type;
    } cases[] = {
        { 0x1000, 0, 0 },          { 0x1000, 0x406, 0 },      { 0x1000, 0x806, 6 },      { 0x1000, 0xc00, 4 },     { 0xffff, 0xc00, 4 },
        { 0x10000, 0xc00, 6 },     { 0xa0000, 0xc06, 1 },     { 0xa4000, 0xc06, 0 },     { 0xfefff, 0xc00, 6 },    { 0xff000, 0xc00, 5 },
        { 0x100000, 0xc05, 5 },    { 0x7fffffff, 0xc06, 6 },  { 0x80000000, 0xc06, 0 },  { 0xcfffffff, 0x806, 0 }, { 0xffffffff, 0xc06, 0 },
        { 0x100000000, 0xc00, 4 }, { 0x101000000, 0xc00, 4 }, { 0x110000000, 0xc06, 6 },
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        v->cpu.mtrr_def_type = cases[i].def_type;
        if (vcpu_mtrr_type(v, cases[i].gpa) != cases[i].type)
            fail_msg("type of %llx: %u", (unsigned long long)cases[i].gpa, vcpu_mtrr_type(v, cases[i].gpa));
    }
    vcpu_destroy(v);
    vm_put(vm);
}

static void test_time(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    struct vcpu *v, *w;
    uint64_t value;
    assert_int_equal(vcpu_create(vm, 0, &v), 0);
    assert_int_equal(vcpu_create(vm, 1, &w), 0);
    assert_true(v->cpu.tsc_offset == w->cpu.tsc_offset);
    assert_true(vcpu_tsc(v) < vm->tsc_khz * 60000);
    assert_int_equal(vcpu_msr_write(v, MSR_TSC, 1000000000000, true), 0);
    usleep(2000);
    assert_int_equal(vcpu_msr_write(w, MSR_TSC, 1000000000000, true), 0);
    assert_true(v->cpu.tsc_offset == w->cpu.tsc_offset);
    assert_int_equal(vcpu_msr_write(v, MSR_TSC, 0, false), 0);
    assert_true(vcpu_tsc(v) < vm->tsc_khz * 1000);
    assert_true((int64_t)v->cpu.tsc_adjust < -900000000000);
    assert_int_equal(vcpu_msr_write(v, MSR_TSC_ADJUST, 0, false), 0);
    assert_true(v->cpu.tsc_offset == w->cpu.tsc_offset);

    /* Half the frequency: the value stays, the pace halves. */
    assert_int_equal(vcpu_set_tsc_khz(v, 0), -EINVAL);
    assert_int_equal(vcpu_set_tsc_khz(v, vm->tsc_khz / 2), 0);
    uint64_t host = time_host_tsc(), ticks = vm->tsc_khz * 100;
    uint64_t passed = vcpu_tsc_at(v, host + ticks) - vcpu_tsc_at(v, host);
    assert_true(passed >= ticks / 2 - ticks / 10000 && passed <= ticks / 2 + ticks / 10000);
    value = vcpu_tsc(v);
    assert_true(value >= 1000000000000 && value < 1000000000000 + vm->tsc_khz * 60000);
    uint64_t earlier = timer_now_ns();
    uint64_t deadline = vcpu_tsc(v) + v->tsc_khz * 3600000;
    value = time_tsc_deadline_ns(v, deadline);
    assert_true(value >= earlier + time_tsc_to_ns(v, deadline - vcpu_tsc(v)) + 1);
    assert_true(value <= timer_now_ns() + 3600000000001);
    assert_true(time_tsc_deadline_ns(v, 1) <= timer_now_ns());
    assert_true(time_tsc_deadline_ns(v, ~0ull) > timer_now_ns());

    for (uint64_t khz = 500; khz < 20000000; khz = khz * 3 + 1) {
        uint32_t mul;
        int8_t shift;
        time_pvclock_scale(khz, &mul, &shift);
        unsigned __int128 t = khz * 1000; /* one second */
        t = shift < 0 ? t >> -shift : t << shift;
        uint64_t ns = (uint64_t)(t * mul >> 32);
        assert_in_range(ns, 999999000, 1000000001);
    }
    vcpu_destroy(v);
    vcpu_destroy(w);
    vm_put(vm);
}

static void test_irqfd(void **state)
{
    (void)state;
    struct vm *vm;
    assert_int_equal(vm_create(&engine, &chip, &vm), 0);
    assert_int_equal(irq_set_level(vm, 3, IRQ_SOURCE_CLIENT, true), -ENXIO);
    vm->has_split_irqchip = true; /* the fakes have no destroy */
    vm->has_irqchip = true;
    assert_int_equal(irq_set_default_routes(vm), 0);
    assert_int_equal(irq_set_level(vm, 3, IRQ_SOURCE_CLIENT, true), 2);
    assert_int_equal(irq_set_level(vm, 20, IRQ_SOURCE_CLIENT, true), 1);
    assert_int_equal(irq_set_level(vm, 24, IRQ_SOURCE_CLIENT, true), -1);
    const struct irq_route bad = { .gsi = 1, .kind = IRQ_ROUTE_IOAPIC, .pin = 24 };
    assert_int_equal(irq_set_routes(vm, &bad, 1), -EINVAL);
    const struct irq_route routes[] = { { .gsi = 30, .kind = IRQ_ROUTE_MSI, .msi_data = 5 }, { .gsi = 9, .kind = IRQ_ROUTE_IOAPIC, .pin = 9 } };
    assert_int_equal(irq_set_routes(vm, routes, 2), 0);
    assert_int_equal(irq_set_level(vm, 30, IRQ_SOURCE_CLIENT, false), -1);

    int fd = eventfd(0, 0), line = eventfd(0, 0), resample = eventfd(0, EFD_NONBLOCK), resample2 = eventfd(0, EFD_NONBLOCK), line2 = eventfd(0, 0);
    int pipes[2];
    assert_int_equal(pipe(pipes), 0);
    assert_int_equal(irqfd_assign(vm, pipes[0], 30, -1), -EINVAL);
    assert_int_equal(irqfd_assign(vm, 999, 30, -1), -EBADF);
    assert_int_equal(irqfd_assign(vm, fd, 30, -1), 0);
    assert_int_equal(irqfd_assign(vm, fd, 30, -1), -EBUSY);
    msis = 0;
    eventfd_write(fd, 1);
    wait_until(&msis, 5);

    assert_int_equal(irqfd_assign(vm, line, 9, resample), 0);
    assert_int_equal(irqfd_assign(vm, line2, 9, resample2), 0);
    eventfd_write(line, 1);
    wait_until(&ioapic_level, 10);
    ioapic_sets = 0;
    irq_ack_pin(vm, IRQ_ROUTE_IOAPIC, 9);
    assert_int_equal(ioapic_level, 0);
    assert_int_equal(ioapic_sets, 1);
    eventfd_t count;
    assert_int_equal(eventfd_read(resample, &count), 0);
    assert_int_equal(eventfd_read(resample2, &count), 0);

    int copy = dup(fd);
    assert_int_equal(irqfd_deassign(vm, copy, 30), 0);
    eventfd_write(fd, 1);
    eventfd_write(line, 1); /* seen by the thread that would have seen the other */
    wait_until(&ioapic_level, 10);
    assert_int_equal(msis, 5);
    assert_int_equal(irqfd_deassign(vm, line, 9), 0);
    vm->has_irqchip = vm->has_split_irqchip = false;
    vm_put(vm);
    close(fd), close(copy), close(line), close(line2), close(resample), close(resample2), close(pipes[0]), close(pipes[1]);
}

static void test_ioeventfd(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    int a = eventfd(0, EFD_NONBLOCK), b = eventfd(0, EFD_NONBLOCK);
    struct ioeventfd_key key = { .addr = 0x1000, .bytes = 2, .has_datamatch = true, .datamatch = 7, .fd = a };
    assert_int_equal(ioeventfd_assign(vm, &key), 0);
    assert_int_equal(ioeventfd_assign(vm, &key), -EEXIST);
    key.datamatch = 8;
    key.fd = b;
    assert_int_equal(ioeventfd_assign(vm, &key), 0);
    struct ioeventfd_key any = { .addr = 0x2000, .fd = b }, odd = { .addr = 0x2000, .bytes = 3, .fd = b };
    assert_int_equal(ioeventfd_assign(vm, &odd), -EINVAL);
    assert_int_equal(ioeventfd_assign(vm, &any), 0);
    uint16_t data = 7;
    eventfd_t count;
    assert_int_equal(bus_write(&vm->mmio, NULL, 0x1000, 2, &data), 0);
    assert_int_equal(eventfd_read(a, &count), 0);
    assert_int_equal(eventfd_read(b, &count), -1);
    assert_int_equal(bus_write(&vm->mmio, NULL, 0x1000, 1, &data), -EOPNOTSUPP);
    assert_int_equal(bus_write(&vm->pio, NULL, 0x1000, 2, &data), -EOPNOTSUPP);
    data = 9;
    assert_int_equal(bus_write(&vm->mmio, NULL, 0x1000, 2, &data), -EOPNOTSUPP);
    assert_int_equal(bus_read(&vm->mmio, NULL, 0x1000, 2, &data), -EOPNOTSUPP);
    assert_int_equal(bus_write(&vm->mmio, NULL, 0x2000, 1, &data), 0);
    assert_int_equal(eventfd_read(b, &count), 0);
    assert_int_equal(ioeventfd_deassign(vm, &key), 0);
    assert_int_equal(ioeventfd_deassign(vm, &key), -ENOENT);
    vm_put(vm);
    close(a), close(b);
}

static void test_coalesced(void **state)
{
    (void)state;
    struct vm *vm = make_vm();
    struct coalesced_ring *ring = (void *)make_ram(4096);
    assert_int_equal(coalesced_add_zone(vm, false, 0xa0000, 0x1000), -ENXIO);
    assert_int_equal(coalesced_set_ring(vm, ring), 0);
    assert_int_equal(coalesced_add_zone(vm, false, 0xa0000, 0x1000), 0);
    assert_int_equal(COALESCED_RING_ENTRIES, 170);
    for (uint32_t i = 0; i < 169; i++)
        assert_int_equal(bus_write(&vm->mmio, NULL, 0xa0000 + 4 * i, 4, &i), 0);
    uint32_t i = 5;
    assert_int_equal(bus_write(&vm->mmio, NULL, 0xa0000, 4, &i), -EOPNOTSUPP); /* full */
    assert_int_equal(ring->last, 169);
    assert_int_equal(ring->entry[168].addr, 0xa0000 + 4 * 168);
    assert_int_equal(ring->entry[168].data[0], 168);
    ring->first = 1;
    assert_int_equal(bus_write(&vm->mmio, NULL, 0xa0000, 4, &i), 0);
    assert_int_equal(ring->last, 0);
    ring->last = 0xdeadbeef; /* a hostile client */
    assert_int_equal(bus_write(&vm->mmio, NULL, 0xa0000, 4, &i), 0);
    assert_int_equal(bus_write(&vm->mmio, NULL, 0xa0ffe, 4, &i), -EOPNOTSUPP);
    assert_int_equal(coalesced_remove_zone(vm, false, 0xa0000, 0x2000), 0);
    assert_int_equal(bus_write(&vm->mmio, NULL, 0xa0000, 4, &i), 0); /* the range is no part of the zone */
    assert_int_equal(coalesced_remove_zone(vm, false, 0xa0800, 4), 0);
    assert_int_equal(bus_write(&vm->mmio, NULL, 0xa0000, 4, &i), -EOPNOTSUPP);
    vm_put(vm);
    munmap(ring, 4096);
}

static void test_memfd(void **state)
{
    (void)state;
    int fd = memfd_create_sealed("test", 0x2000), grows = memfd_create_growing("test", 0x1000);
    assert_true(fd >= 0 && grows >= 0);
    assert_int_equal(ftruncate(fd, 0x1000), -1);
    assert_int_equal(ftruncate(fd, 0x3000), -1);
    assert_int_equal(ftruncate(grows, 0x3000), 0);
    assert_int_equal(ftruncate(grows, 0x1000), -1);
    hva_t p;
    assert_int_equal(memfd_map(fd, 0x1000, 0x1000, &p), 0);
    p[0xfff] = 1;
    munmap(p, 0x1000);
    assert_int_equal(memfd_map(-1, 0, 0x1000, &p), -EBADF);
    assert_int_equal(memfd_create_sealed("test", ~0ull), -EFBIG);
    assert_int_equal(page_round_up(1), 4096);
    close(fd), close(grows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memfd),        cmocka_unit_test(test_slots),     cmocka_unit_test(test_spaces),     cmocka_unit_test(test_dirty),
        cmocka_unit_test(test_slots_race),   cmocka_unit_test(test_vcpu_life), cmocka_unit_test(test_block_kick), cmocka_unit_test(test_block_signal),
        cmocka_unit_test(test_tick),         cmocka_unit_test(test_cpuid),     cmocka_unit_test(test_msr_list),   cmocka_unit_test(test_msr_checks),
        cmocka_unit_test(test_memory_types), cmocka_unit_test(test_time),      cmocka_unit_test(test_irqfd),      cmocka_unit_test(test_ioeventfd),
        cmocka_unit_test(test_coalesced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
