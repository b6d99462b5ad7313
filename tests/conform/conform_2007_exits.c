/* SPDX-License-Identifier: MIT */
/*
 * Every exit kind of 2007 that a guest or its client can bring about: IO, MMIO, HLT, IRQ_WINDOW_OPEN, SHUTDOWN, DEBUG, INTR. (EXCEPTION, HYPERCALL, FAIL_ENTRY
 * and UNKNOWN are about the hardware beneath; nothing a well-formed client does leads to them.)
 */
#include "tests/conform/machine2007.h"
#include "tests/conform/sender.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

PAYLOAD(out);
PAYLOAD(in);
PAYLOAD(string_io);
PAYLOAD(mmio);
PAYLOAD(mmio_split);
PAYLOAD(interrupt);
PAYLOAD(triple);
PAYLOAD(steps);
PAYLOAD(loop);
PAYLOAD(count);
PAYLOAD(touch);
PAYLOAD(alias);

#define LOAD(name) machine_load(&m, p, payload_##name, PAYLOAD_BYTES(name))

static void check_io(struct machine *m, const struct peer *p, bool is_out, unsigned bytes, unsigned port, unsigned count, int line)
{
    (void)p;
    if (m->run->io.direction != is_out || m->run->io.size != bytes || m->run->io.port != port || m->run->io.count != count)
        conform_fail(__FILE__, line, "io is direction %u size %u port %#x count %u, want %u %u %#x %u", m->run->io.direction, m->run->io.size, m->run->io.port,
                     m->run->io.count, is_out, bytes, port, count);
}
#define CHECK_IO(is_out, bytes, port, count) check_io(&m, p, is_out, bytes, port, count, __LINE__)

static void out(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(out);
    struct regs r = machine_regs(&m, p);
    r.rax = 2;
    r.rbx = 3;
    machine_set_regs(&m, p, &r);
    RUN_TO(X_IO);
    CHECK_IO(1, 1, 0x3f8, 1);
    CHECK_EQ(*machine_io_data(&m), 5);
    RUN_TO(X_IO);
    CHECK_IO(1, 2, 0x80, 1);
    CHECK_BYTES(machine_io_data(&m), "\x34\x12", 2);
    RUN_TO(X_IO);
    CHECK_IO(1, 4, 0x3f8, 1);
    CHECK_BYTES(machine_io_data(&m), "\xef\xcd\xab\x89", 4);
    RUN_TO(X_HLT);
    r = machine_regs(&m, p);
    CHECK_EQ(r.rip, CODE_AT + PAYLOAD_BYTES(out));
    CHECK_EQ(r.rax, 0x89abcdef);
}

static void in(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(in);
    RUN_TO(X_IO);
    CHECK_IO(0, 1, 0x60, 1);
    /* The instruction is not complete yet. */
    struct regs r = machine_regs(&m, p);
    CHECK_EQ(r.rax & 0xff, 0);
    *machine_io_data(&m) = 0x5a;
    RUN_TO(X_IO);
    CHECK_IO(0, 2, 0x60, 1);
    memcpy(machine_io_data(&m), "\x01\x02", 2);
    RUN_TO(X_IO);
    CHECK_IO(0, 4, 0x61, 1);
    memcpy(machine_io_data(&m), "\x11\x22\x33\x44", 4);
    RUN_TO(X_HLT);
    CHECK_BYTES(m.ram + DATA_AT, "\x5a\x00\x01\x02\x11\x22\x33\x44", 8);
}

static void string_io(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(string_io);
    memcpy(m.ram + DATA_AT, "hello", 5);
    RUN_TO(X_IO);
    CHECK_IO(1, 1, 0xe9, 5);
    CHECK_BYTES(machine_io_data(&m), "hello", 5);
    RUN_TO(X_IO);
    CHECK_IO(0, 2, 0x1f0, 4);
    memcpy(machine_io_data(&m), "ABCDEFGH", 8);
    RUN_TO(X_HLT);
    CHECK_BYTES(m.ram + 0x2100, "ABCDEFGH\0", 9);
    struct regs r = machine_regs(&m, p);
    CHECK_EQ(r.rcx, 0);
    CHECK_EQ(r.rsi, 0x2005);
    CHECK_EQ(r.rdi, 0x2108);
}

/* As above, but any number of exits may bring the items. */
static void string_io_any_count(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(string_io);
    memcpy(m.ram + DATA_AT, "hello", 5);
    char seen[32];
    unsigned n = 0, given = 0;
    while (n < 5) {
        RUN_TO(X_IO);
        REQUIRE(m.run->io.direction == 1 && m.run->io.count <= 5);
        memcpy(seen + n, machine_io_data(&m), m.run->io.count);
        n += m.run->io.count;
    }
    CHECK_BYTES(seen, "hello", 5);
    while (given < 8) {
        RUN_TO(X_IO);
        REQUIRE(m.run->io.direction == 0 && m.run->io.size == 2 && given + 2 * m.run->io.count <= 8);
        memcpy(machine_io_data(&m), "ABCDEFGH" + given, 2 * m.run->io.count);
        given += 2 * m.run->io.count;
    }
    RUN_TO(X_HLT);
    CHECK_BYTES(m.ram + 0x2100, "ABCDEFGH\0", 9);
}

static void check_mmio(struct machine *m, bool is_write, uint64_t address, unsigned bytes, const char *data, int line)
{
    if (m->run->mmio.is_write != is_write || m->run->mmio.phys_addr != address || m->run->mmio.len != bytes)
        conform_fail(__FILE__, line, "mmio is write %u address %#llx len %u, want %u %#llx %u", m->run->mmio.is_write,
                     (unsigned long long)m->run->mmio.phys_addr, m->run->mmio.len, is_write, (unsigned long long)address, bytes);
    else if (is_write && memcmp(m->run->mmio.data, data, bytes))
        conform_fail(__FILE__, line, "mmio data differ at %#llx", (unsigned long long)address);
}
#define CHECK_MMIO(is_write, address, bytes, data) check_mmio(&m, is_write, address, bytes, data, __LINE__)

static void mmio(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(mmio);
    struct sregs s;
    CALL(m.vcpu, GET_SREGS, &s);
    s.ds.selector = 0xd000;
    s.ds.base = 0xd0000;
    CALL(m.vcpu, SET_SREGS, &s);
    RUN_TO(X_MMIO);
    CHECK_MMIO(1, 0xd0010, 1, "\x11");
    RUN_TO(X_MMIO);
    CHECK_MMIO(1, 0xd0012, 2, "\x33\x22");
    RUN_TO(X_MMIO);
    CHECK_MMIO(1, 0xd0014, 4, "\x77\x66\x55\x44");
    RUN_TO(X_MMIO);
    CHECK_MMIO(0, 0xd0020, 1, NULL);
    m.run->mmio.data[0] = 0xa1;
    RUN_TO(X_MMIO);
    CHECK_MMIO(0, 0xd0022, 2, NULL);
    memcpy(m.run->mmio.data, "\xb2\xb1", 2);
    RUN_TO(X_MMIO);
    CHECK_MMIO(0, 0xd0024, 4, NULL);
    memcpy(m.run->mmio.data, "\xc4\xc3\xc2\xc1", 4);
    RUN_TO(X_MMIO);
    CHECK_MMIO(0, 0xd0030, 1, NULL);
    m.run->mmio.data[0] = 0x7f;
    RUN_TO(X_MMIO);
    CHECK_MMIO(1, 0xd0030, 1, "\x80");
    RUN_TO(X_HLT);
    struct regs r = machine_regs(&m, p);
    CHECK_EQ(r.rax & 0xff, 0xa1);
    CHECK_EQ(r.rbx, 0xb1b2);
    CHECK_EQ(r.rcx, 0xc1c2c3c4);
    CHECK_EQ(r.rflags & 0x8d5, 0x890); /* 7f + 1: overflow, sign, auxiliary carry */
}

static void mmio_split(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(mmio_split);
    memcpy(m.ram + RAM_BYTES - 2, "\x11\x22", 2);
    RUN_TO(X_MMIO);
    CHECK_MMIO(0, RAM_BYTES, 2, NULL);
    memcpy(m.run->mmio.data, "\x33\x44", 2);
    RUN_TO(X_HLT);
    CHECK_EQ(machine_regs(&m, p).rax, 0x44332211);
}

static void interrupt_window(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(interrupt);
    uint32_t irq = 0x100;
    CHECK_ERRNO(m.vcpu, INTERRUPT, &irq, EINVAL);
    RUN_TO(X_IO);
    CHECK_EQ(m.run->if_flag, 0);
    CHECK_EQ(m.run->ready_for_interrupt_injection, 0);
    m.run->request_interrupt_window = 1;
    RUN_TO(X_IRQ_WINDOW_OPEN);
    CHECK_EQ(m.run->if_flag, 1);
    CHECK_EQ(m.run->ready_for_interrupt_injection, 1);
    m.run->request_interrupt_window = 0;
    irq = 0x20;
    CALL(m.vcpu, INTERRUPT, &irq);
    struct sregs s;
    CALL(m.vcpu, GET_SREGS, &s);
    CHECK_EQ(s.interrupt_bitmap[0], 1ull << 0x20);
    RUN_TO(X_IO);
    CHECK_IO(1, 1, 0x11, 1);
    CHECK_EQ(m.ram[DATA_AT], 1);
    RUN_TO(X_HLT);
    /* HLT with interrupts on: the next one ends it. */
    CALL(m.vcpu, INTERRUPT, &irq);
    RUN_TO(X_HLT);
    CHECK_EQ(m.ram[DATA_AT], 2);
}

static void shutdown(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(triple);
    struct sregs s;
    CALL(m.vcpu, GET_SREGS, &s);
    s.idt.limit = 0;
    CALL(m.vcpu, SET_SREGS, &s);
    RUN_TO(X_SHUTDOWN);
}

static void shutdown_protected(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(triple);
    machine_flat(&m, p, 32, 0);
    struct sregs s;
    CALL(m.vcpu, GET_SREGS, &s);
    s.idt.limit = 0;
    CALL(m.vcpu, SET_SREGS, &s);
    RUN_TO(X_SHUTDOWN);
}

static bool set_debug(struct machine *m, const struct peer *p, const struct debug_guest *d)
{
    if (p->port->ioctl(m->vcpu, DEBUG_GUEST, (void *)d) == 0)
        return true;
    if (p->is_host)
        conform_skip("this kernel has no KVM_DEBUG_GUEST (%s)", strerrorname_np(errno));
    conform_fail(__FILE__, __LINE__, "DEBUG_GUEST: %s", strerrorname_np(errno));
    conform_stop();
}

static void single_step(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(steps);
    struct debug_guest d = { .enabled = 1, .singlestep = 1 };
    set_debug(&m, p, &d);
    const uint64_t rip[] = { 3, 6, 8, 11, 12 };
    for (unsigned i = 0; i < 5; i++) {
        RUN_TO(X_DEBUG);
        struct regs r = machine_regs(&m, p);
        CHECK_EQ(r.rip, CODE_AT + rip[i]);
        CHECK_EQ(r.rflags & 0x100, 0);
    }
    d.enabled = 0;
    set_debug(&m, p, &d);
    RUN_TO(X_HLT);
    CHECK_EQ(machine_regs(&m, p).rax, 3);
}

static void hardware_breakpoints(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(steps);
    struct debug_guest d = { .enabled = 1, .breakpoints = { { 1, 0, CODE_AT + 6 }, { 0, 0, CODE_AT + 8 }, { 1, 0, CODE_AT + 11 }, { 0, 0, 0 } } };
    set_debug(&m, p, &d);
    RUN_TO(X_DEBUG);
    CHECK_EQ(machine_regs(&m, p).rip, CODE_AT + 6);
    d.breakpoints[0].enabled = 0;
    set_debug(&m, p, &d);
    RUN_TO(X_DEBUG);
    CHECK_EQ(machine_regs(&m, p).rip, CODE_AT + 11);
    d.enabled = 0;
    set_debug(&m, p, &d);
    RUN_TO(X_HLT);
}

static volatile sig_atomic_t n_signals;
static void count_signal(int number)
{
    (void)number;
    n_signals++;
}

static void signal_pending_before(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(loop);
    struct sigaction action = { .sa_handler = count_signal };
    sigaction(SIGUSR1, &action, NULL);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    struct __attribute__((packed)) {
        uint32_t len;
        uint64_t set;
    } mask = { 8, 0 };
    CALL(m.vcpu, SET_SIGNAL_MASK, &mask);
    pthread_kill(pthread_self(), SIGUSR1);
    CHECK_ERRNO(m.vcpu, RUN, 0, EINTR);
    CHECK_EQ(m.run->exit_reason, X_INTR);
    /* It stays pending for a caller that blocks it. */
    sigset_t pending;
    sigpending(&pending);
    CHECK_EQ(sigismember(&pending, SIGUSR1), 1);
    CHECK_EQ(n_signals, 0);
    struct timespec now = { 0, 0 };
    CHECK_EQ(sigtimedwait(&blocked, NULL, &now), SIGUSR1);
}

/* Exactly one EINTR and one call of the handler for each signal, the handler before KVM_RUN returned; the guest's state is that between two instructions. */
static void signal_while_running(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(count);
    struct sigaction action = { .sa_handler = count_signal };
    sigaction(SIGUSR1, &action, NULL);
    for (int i = 1; i <= 20; i++) {
        struct sender sender;
        sender_start(&sender, SIGUSR1, 0, m.ram);
        CHECK_ERRNO(m.vcpu, RUN, 0, EINTR);
        CHECK_EQ(n_signals, i);
        CHECK_EQ(m.run->exit_reason, X_INTR);
        sender_join(&sender);
        CHECK_EQ(n_signals, i);
        struct regs r = machine_regs(&m, p);
        CHECK(r.rip == CODE_AT || r.rip == CODE_AT + 1 || r.rip == CODE_AT + 5);
        CHECK_EQ(sender_count(m.ram), (uint16_t)(r.rcx - (r.rip == CODE_AT + 1)));
    }
}

/* An exit that a signal meets is not lost: the OUT comes once, before or after the EINTR. */
static void signal_keeps_exit(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(out);
    struct sigaction action = { .sa_handler = count_signal };
    sigaction(SIGUSR1, &action, NULL);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &blocked, NULL);
    struct __attribute__((packed)) {
        uint32_t len;
        uint64_t set;
    } mask = { 8, 0 };
    CALL(m.vcpu, SET_SIGNAL_MASK, &mask);
    unsigned n_out = 0;
    for (;;) {
        pthread_kill(pthread_self(), SIGUSR1);
        CHECK_ERRNO(m.vcpu, RUN, 0, EINTR);
        struct timespec now = { 0, 0 };
        sigtimedwait(&blocked, NULL, &now);
        int got = p->port->ioctl(m.vcpu, RUN, 0);
        REQUIRE_EQ(got, 0);
        if (m.run->exit_reason == X_HLT)
            break;
        REQUIRE_EQ(m.run->exit_reason, X_IO);
        REQUIRE(++n_out <= 3);
    }
    CHECK_EQ(n_out, 3);
}

static void dirty_log(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(touch);
    uint64_t bits[RAM_BYTES / 4096 / 64];
    struct dirty_log log = { .slot = 0, .bitmap = bits };
    CALL(m.vm, GET_DIRTY_LOG, &log);
    const uint16_t pages[] = { 0x10, 0x11, 0x3f, 0x40, 0x7f, 0 };
    memcpy(m.ram + DATA_AT, pages, sizeof pages);
    RUN_TO(X_HLT);
    memset(bits, 0, sizeof bits);
    CALL(m.vm, GET_DIRTY_LOG, &log);
    for (unsigned page = 3; page < RAM_BYTES / 4096; page++) {
        bool want = page == 0x10 || page == 0x11 || page == 0x3f || page == 0x40 || page == 0x7f;
        if ((bits[page / 64] >> (page % 64) & 1) != want)
            conform_fail(__FILE__, __LINE__, "page %#x is %sdirty", page, want ? "not " : "");
    }
    /* Reading cleared it; a page written again is dirty again. */
    struct regs r = machine_regs(&m, p);
    r.rip = CODE_AT;
    machine_set_regs(&m, p, &r);
    const uint16_t one[] = { 0x40, 0 };
    memcpy(m.ram + DATA_AT, one, sizeof one);
    RUN_TO(X_HLT);
    CALL(m.vm, GET_DIRTY_LOG, &log);
    CHECK_EQ(bits[0] & ~7ull, 0);
    CHECK_EQ(bits[1], 1);
    CHECK_EQ(m.ram[0x40000], 0x5a);
}

static void alias(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct memory_alias a = { .slot = 2, .guest_phys_addr = 0x90000, .memory_size = 0x8000, .target_phys_addr = 0x20000 };
    if (p->port->ioctl(m.vm, SET_MEMORY_ALIAS, &a) < 0 && p->is_host)
        conform_skip("this kernel has no KVM_SET_MEMORY_ALIAS (%s)", strerrorname_np(errno));
    LOAD(alias);
    m.ram[0x20000] = 0x42;
    RUN_TO(X_HLT);
    CHECK_EQ(machine_regs(&m, p).rbx & 0xff, 0x42);
    CHECK_EQ(m.ram[0x20001], 0x77);
    uint64_t bits[RAM_BYTES / 4096 / 64];
    struct dirty_log log = { .slot = 0, .bitmap = bits };
    CALL(m.vm, GET_DIRTY_LOG, &log);
    CHECK_EQ(bits[0] >> 0x20 & 1, 1);
    /* Moved, then deleted. */
    a.target_phys_addr = 0x30000;
    CALL(m.vm, SET_MEMORY_ALIAS, &a);
    m.ram[0x30000] = 0x43;
    LOAD(alias);
    RUN_TO(X_HLT);
    CHECK_EQ(machine_regs(&m, p).rbx & 0xff, 0x43);
    a.memory_size = 0;
    CALL(m.vm, SET_MEMORY_ALIAS, &a);
    LOAD(alias);
    RUN_TO(X_MMIO);
    CHECK_MMIO(0, 0x90000, 1, NULL);
}

const struct conform_case cases_2007_exits[] = {
    { "out", out },
    { "in", in },
    { "string_io", string_io },
    { "string_io_any_count", string_io_any_count },
    { "mmio", mmio },
    { "mmio_split", mmio_split },
    { "interrupt_window", interrupt_window },
    { "shutdown", shutdown },
    { "shutdown_protected", shutdown_protected },
    { "single_step", single_step },
    { "hardware_breakpoints", hardware_breakpoints },
    { "signal_pending_before", signal_pending_before },
    { "signal_while_running", signal_while_running },
    { "signal_keeps_exit", signal_keeps_exit },
    { "dirty_log", dirty_log },
    { "alias", alias },
};
const size_t n_cases_2007_exits = sizeof cases_2007_exits / sizeof *cases_2007_exits;
