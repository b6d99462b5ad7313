/* SPDX-License-Identifier: MIT */
/*
 * Running guests with today's calls: memory that changes under the guest, read-only memory, immediate_exit, guest debugging, NMI, MSR exits, two vCPUs.
 */
#include "tests/conform/machine_today.h"
#include "tests/conform/sender.h"
#include "tests/thread_state.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

PAYLOAD(out);
PAYLOAD(in);
PAYLOAD(steps);
PAYLOAD(count);
PAYLOAD(touch);
PAYLOAD(alias);
PAYLOAD(interrupt);
#define LOAD(name) machine_load(&m, p, payload_##name, PAYLOAD_BYTES(name))

static void exits(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(out);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.direction, KVM_EXIT_IO_OUT);
    CHECK_EQ(m.run->io.port, 0x3f8);
    RUN_TO(KVM_EXIT_IO);
    RUN_TO(KVM_EXIT_IO);
    RUN_TO(KVM_EXIT_HLT);
}

static void immediate_exit(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(in);
    m.run->immediate_exit = 1;
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EINTR);
    CHECK_EQ(machine_regs(&m, p).rip, CODE_AT);
    m.run->immediate_exit = 0;
    RUN_TO(KVM_EXIT_IO);
    ((uint8_t *)m.run)[m.run->io.data_offset] = 0x5a;
    /* Completes the IN and enters no guest code. */
    m.run->immediate_exit = 1;
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EINTR);
    struct kvm_regs r = machine_regs(&m, p);
    CHECK_EQ(r.rip, CODE_AT + 4);
    CHECK_EQ(r.rax & 0xff, 0x5a);
    CHECK_EQ(m.ram[DATA_AT], 0);
    m.run->immediate_exit = 0;
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.ram[DATA_AT], 0x5a);
}

/* A slot deleted is a hole; added elsewhere it is memory again, with its contents. */
static void slots_change(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    uint8_t *more = pages_of_client(0x10000);
    machine_set_slot(&m, p, 1, 0, 0x90000, 0x10000, more);
    more[0] = 0x21;
    LOAD(alias);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, p).rbx & 0xff, 0x21);
    CHECK_EQ(more[1], 0x77);
    machine_set_slot(&m, p, 1, 0, 0x90000, 0, more);
    LOAD(alias);
    RUN_TO(KVM_EXIT_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0x90000);
    m.run->mmio.data[0] = 0x99;
    RUN_TO(KVM_EXIT_MMIO);
    CHECK_EQ(m.run->mmio.is_write, 1);
    CHECK_EQ(m.run->mmio.phys_addr, 0x90001);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, p).rbx & 0xff, 0x99);
    more[0] = 0x22;
    machine_set_slot(&m, p, 1, 0, 0x90000, 0x10000, more);
    LOAD(alias);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, p).rbx & 0xff, 0x22);
}

/* What the client maps at userspace_addr while the slot stands is the guest's memory at once. */
static void client_maps_anew(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    uint8_t *more = pages_of_client(0x10000);
    machine_set_slot(&m, p, 1, 0, 0x90000, 0x10000, more);
    more[0] = 0x21;
    LOAD(alias);
    RUN_TO(KVM_EXIT_HLT);
    REQUIRE(mmap(more, 0x10000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == more);
    more[0] = 0x31;
    LOAD(alias);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, p).rbx & 0xff, 0x31);
    CHECK_EQ(more[1], 0x77);
}

/*
 * The client takes memory away and leaves the slot: that is the client's error, not the guest's, and it can be mended. Not by munmap here: the next mapping of
 * anybody in this process could take the place.
 */
static void client_withdraws_data(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    uint8_t *more = pages_of_client(0x10000);
    machine_set_slot(&m, p, 1, 0, 0x90000, 0x10000, more);
    more[0] = 0x21;
    LOAD(alias);
    RUN_TO(KVM_EXIT_HLT);
    for (unsigned i = 0; i < 2; i++) {
        REQUIRE(mprotect(more, 0x10000, PROT_NONE) == 0);
        LOAD(alias);
        CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EFAULT);
        CHECK_EQ(machine_regs(&m, p).rax & 0xffff, 0x9000);
        CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EFAULT);
        REQUIRE(mprotect(more, 0x10000, PROT_READ | PROT_WRITE) == 0);
        more[0] = (uint8_t)(0x31 + i);
        RUN_TO(KVM_EXIT_HLT);
        CHECK_EQ(machine_regs(&m, p).rbx & 0xff, 0x31 + i);
        CHECK_EQ(more[1], 0x77);
    }
}

static void client_withdraws_code(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    uint8_t *more = pages_of_client(0x10000);
    machine_set_slot(&m, p, 1, 0, 0x90000, 0x10000, more);
    REQUIRE(mprotect(more, 0x10000, PROT_NONE) == 0);
    LOAD(alias);
    struct kvm_sregs s;
    CALL(m.vcpu, KVM_GET_SREGS, &s);
    s.cs.base = 0x90000;
    s.cs.selector = 0x9000;
    CALL(m.vcpu, KVM_SET_SREGS, &s);
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EFAULT);
    REQUIRE(mprotect(more, 0x10000, PROT_READ | PROT_WRITE) == 0);
    more[CODE_AT] = 0xf4;
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, p).rip, CODE_AT + 1);
}

/* Page tables that cannot be read translate nothing. */
static void client_withdraws_tables(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    uint8_t *more = pages_of_client(0x10000);
    machine_set_slot(&m, p, 1, 0, 0x90000, 0x10000, more);
    struct kvm_sregs s;
    CALL(m.vcpu, KVM_GET_SREGS, &s);
    s.cr0 |= 0x80000001; /* two-level paging */
    s.cr3 = 0x90000;
    CALL(m.vcpu, KVM_SET_SREGS, &s);
    ((uint32_t *)(void *)more)[0] = 0x91003;
    ((uint32_t *)(void *)more)[0x400] = 0x5003;
    struct kvm_translation t = { .linear_address = 0x123 };
    CALL(m.vcpu, KVM_TRANSLATE, &t);
    CHECK_EQ(t.valid, 1);
    CHECK_EQ(t.physical_address, 0x5123);
    REQUIRE(mprotect(more, 0x10000, PROT_NONE) == 0);
    t = (struct kvm_translation){ .linear_address = 0x123 };
    CALL(m.vcpu, KVM_TRANSLATE, &t);
    CHECK_EQ(t.valid, 0);
}

static void readonly_slot(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_READONLY_MEM);
    uint8_t *more = pages_of_client(0x10000);
    machine_set_slot(&m, p, 1, KVM_MEM_READONLY, 0x90000, 0x10000, more);
    more[0] = 0x42;
    LOAD(alias);
    RUN_TO(KVM_EXIT_MMIO);
    CHECK_EQ(m.run->mmio.is_write, 1);
    CHECK_EQ(m.run->mmio.phys_addr, 0x90001);
    CHECK_EQ(m.run->mmio.data[0], 0x77);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, p).rbx & 0xff, 0x42);
    CHECK_EQ(more[1], 0);
}

static void dirty_log_today(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    machine_set_slot(&m, p, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, RAM_BYTES, m.ram);
    uint64_t bits[2];
    struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bits };
    LOAD(touch);
    const uint16_t pages[] = { 0x20, 0x7e, 0 };
    memcpy(m.ram + DATA_AT, pages, sizeof pages);
    RUN_TO(KVM_EXIT_HLT);
    CALL(m.vm, KVM_GET_DIRTY_LOG, &log);
    CHECK_EQ(bits[0] & ~7ull, 1ull << 0x20);
    CHECK_EQ(bits[1], 1ull << 0x3e);
    CALL(m.vm, KVM_GET_DIRTY_LOG, &log);
    CHECK_EQ(bits[0], 0);
    CHECK_EQ(bits[1], 0);
}

static void guest_debug(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_SET_GUEST_DEBUG);
    LOAD(steps);
    struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP };
    CALL(m.vcpu, KVM_SET_GUEST_DEBUG, &d);
    const unsigned at[] = { 3, 6, 8, 11, 12 };
    for (unsigned i = 0; i < 5; i++) {
        RUN_TO(KVM_EXIT_DEBUG);
        CHECK_EQ(m.run->debug.arch.exception, 1);
        CHECK_EQ(m.run->debug.arch.pc, CODE_AT + at[i]);
        CHECK_EQ(m.run->debug.arch.dr6 & 0x4000, 0x4000);
    }
}

static void hardware_breakpoint(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP };
    d.arch.debugreg[0] = CODE_AT + 8;
    d.arch.debugreg[7] = 0x402;
    CALL(m.vcpu, KVM_SET_GUEST_DEBUG, &d);
    LOAD(steps);
    RUN_TO(KVM_EXIT_DEBUG);
    CHECK_EQ(m.run->debug.arch.pc, CODE_AT + 8);
    CHECK_EQ(m.run->debug.arch.dr6 & 1, 1);
    d = (struct kvm_guest_debug){ .control = 0 };
    CALL(m.vcpu, KVM_SET_GUEST_DEBUG, &d);
    RUN_TO(KVM_EXIT_HLT);
}

static void software_breakpoint(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(steps);
    m.ram[CODE_AT + 6] = 0xcc;
    struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP };
    CALL(m.vcpu, KVM_SET_GUEST_DEBUG, &d);
    RUN_TO(KVM_EXIT_DEBUG);
    CHECK_EQ(m.run->debug.arch.exception, 3);
    CHECK_EQ(m.run->debug.arch.pc, CODE_AT + 6);
    CHECK_EQ(machine_regs(&m, p).rip, CODE_AT + 6);
}

static void nmi(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(interrupt);
    RUN_TO(KVM_EXIT_IO);
    memcpy(m.ram + 2 * 4, m.ram + 0x20 * 4, 4); /* vector 2 shares the counting handler */
    CHECK_ERRNO(m.vcpu, KVM_NMI, 0, 0);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.ram[DATA_AT], 1);
    RUN_TO(KVM_EXIT_HLT);
}

static void do_nothing(int number)
{
    (void)number;
}

static void interrupt_guest(struct machine *m, const struct peer *p)
{
    struct sigaction action = { .sa_handler = do_nothing };
    struct sender sender;
    sigaction(SIGUSR1, &action, NULL);
    sender_start(&sender, SIGUSR1, 0, m->ram);
    CHECK_ERRNO(m->vcpu, KVM_RUN, 0, EINTR);
    sender_join(&sender);
}

/* Code that has run, and that the client replaces between two runs. */
static void client_changes_code(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(count);
    interrupt_guest(&m, p);
    memset(m.ram + CODE_AT, 0xf4, PAYLOAD_BYTES(count)); /* HLT wherever it goes on */
    uint64_t rip = machine_regs(&m, p).rip;
    uint16_t count = sender_count(m.ram);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(machine_regs(&m, p).rip, rip + 1);
    CHECK_EQ(sender_count(m.ram), count);
}

struct caller {
    const struct peer *p;
    int vcpu;
    pthread_t thread;
    int result, error;
    _Atomic pid_t id; /* once it is about to make its call */
    struct kvm_regs regs;
};

static void *run_until_signal(void *arg)
{
    struct caller *c = arg;
    struct sender sender;
    sender_start(&sender, SIGUSR1, SENDER_WHEN_ASLEEP, NULL);
    c->result = c->p->port->ioctl(c->vcpu, KVM_RUN, 0);
    c->error = errno;
    sender_join(&sender);
    return NULL;
}

/* The second vCPU waits for SIPI inside KVM_RUN. A signal ends the wait. */
static void second_vcpu_waits(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    struct kvm_run *run;
    struct caller c = { .p = p, .vcpu = machine_add_vcpu(&m, p, 1, &run) };
    struct sigaction action = { .sa_handler = do_nothing };
    sigaction(SIGUSR1, &action, NULL);
    REQUIRE(pthread_create(&c.thread, NULL, run_until_signal, &c) == 0);
    pthread_join(c.thread, NULL);
    CHECK_EQ(c.result, -1);
    CHECK_EQ(c.error, EINTR);
    CHECK_EQ(run->exit_reason, KVM_EXIT_INTR);
}

static void *get_regs(void *arg)
{
    struct caller *c = arg;
    c->id = gettid();
    c->result = c->p->port->ioctl(c->vcpu, KVM_GET_REGS, &c->regs);
    return NULL;
}

struct meeting {
    struct caller caller;
    pthread_t runner;
    const uint8_t *ram;
    uint16_t start;
};

/* While the guest counts another thread asks for its registers and has to wait; then a signal ends the run. */
static void *ask_then_signal(void *arg)
{
    struct meeting *t = arg;
    sender_wait_counting(t->ram, t->start);
    pthread_create(&t->caller.thread, NULL, get_regs, &t->caller);
    while (!t->caller.id)
        usleep(100);
    thread_wait_state(t->caller.id, "SD");
    sender_wait_counting(t->ram, sender_count(t->ram));
    pthread_kill(t->runner, SIGUSR1);
    return NULL;
}

/* A kernel's waiter may spin while the vCPU is on another processor, and would never be seen asleep. */
static void use_one_processor(void)
{
    cpu_set_t may, one;
    int n = 0;
    REQUIRE(sched_getaffinity(0, sizeof may, &may) == 0);
    while (!CPU_ISSET(n, &may))
        n++;
    CPU_ZERO(&one);
    CPU_SET(n, &one);
    REQUIRE(sched_setaffinity(0, sizeof one, &one) == 0);
}

/* A call on a running vCPU from another thread waits until KVM_RUN returns: what it then tells is where the guest stopped. */
static void calls_wait_for_run(const struct peer *p)
{
    struct machine m;
    use_one_processor();
    machine_create(&m, p, 0);
    LOAD(count);
    struct sigaction action = { .sa_handler = do_nothing };
    sigaction(SIGUSR1, &action, NULL);
    struct meeting t = { .caller = { .p = p, .vcpu = m.vcpu }, .runner = pthread_self(), .ram = m.ram, .start = sender_count(m.ram) };
    pthread_t asker;
    REQUIRE(pthread_create(&asker, NULL, ask_then_signal, &t) == 0);
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EINTR);
    pthread_join(asker, NULL);
    pthread_join(t.caller.thread, NULL);
    CHECK_EQ(t.caller.result, 0);
    struct kvm_regs r = machine_regs(&m, p);
    CHECK_BYTES(&t.caller.regs, &r, sizeof r);
    CHECK_EQ(sender_count(m.ram), (uint16_t)(r.rcx - (r.rip == CODE_AT + 1)));
}

const struct conform_case cases_today_run[] = {
    { "exits", exits },
    { "immediate_exit", immediate_exit },
    { "slots_change", slots_change },
    { "client_maps_anew", client_maps_anew },
    { "client_withdraws_data", client_withdraws_data },
    { "client_withdraws_code", client_withdraws_code },
    { "client_withdraws_tables", client_withdraws_tables },
    { "readonly_slot", readonly_slot },
    { "dirty_log_today", dirty_log_today },
    { "guest_debug", guest_debug },
    { "hardware_breakpoint", hardware_breakpoint },
    { "software_breakpoint", software_breakpoint },
    { "nmi", nmi },
    { "client_changes_code", client_changes_code },
    { "second_vcpu_waits", second_vcpu_waits },
    { "calls_wait_for_run", calls_wait_for_run },
};
const size_t n_cases_today_run = sizeof cases_today_run / sizeof *cases_today_run;
