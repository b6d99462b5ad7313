/* SPDX-License-Identifier: MIT */
/*
 * Today's exits one by one (those of 2007 are in conform_2007_exits.c), the start of a second CPU, and dirty logs that the client clears itself.
 */
#include "tests/conform/machine_today.h"

#include <pthread.h>
#include <string.h>

PAYLOAD(interrupt);
PAYLOAD(in);
PAYLOAD(mmio);
PAYLOAD(string_io);
PAYLOAD(touch);
PAYLOAD(triple);
#define LOAD(name) machine_load(&m, p, payload_##name, PAYLOAD_BYTES(name))

static void *io_data(struct machine *m)
{
    return (uint8_t *)m->run + m->run->io.data_offset;
}

#define CHECK_IO(is_out, bytes, at, items)     \
    do {                                       \
        CHECK_EQ(m.run->io.direction, is_out); \
        CHECK_EQ(m.run->io.size, bytes);       \
        CHECK_EQ(m.run->io.port, at);          \
        CHECK_EQ(m.run->io.count, items);      \
    } while (0)

static void port_input(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(in);
    RUN_TO(KVM_EXIT_IO);
    CHECK_IO(KVM_EXIT_IO_IN, 1, 0x60, 1);
    CHECK_EQ(machine_regs(&m, p).rip, CODE_AT + 3); /* the instruction is not over */
    memcpy(io_data(&m), "\x11", 1);
    RUN_TO(KVM_EXIT_IO);
    CHECK_IO(KVM_EXIT_IO_IN, 2, 0x60, 1);
    memcpy(io_data(&m), "\x22\x33", 2);
    RUN_TO(KVM_EXIT_IO);
    CHECK_IO(KVM_EXIT_IO_IN, 4, 0x61, 1);
    memcpy(io_data(&m), "\x44\x55\x66\x77", 4);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_BYTES(m.ram + DATA_AT, "\x11\0\x22\x33\x44\x55\x66\x77", 8);
}

/* Any number of exits may bring the items. */
static void string_port_io(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(string_io);
    memcpy(m.ram + DATA_AT, "hello", 5);
    char seen[32];
    unsigned n = 0, given = 0;
    while (n < 5) {
        RUN_TO(KVM_EXIT_IO);
        REQUIRE(m.run->io.direction == KVM_EXIT_IO_OUT && m.run->io.count <= 5);
        memcpy(seen + n, io_data(&m), m.run->io.count);
        n += m.run->io.count;
    }
    CHECK_BYTES(seen, "hello", 5);
    while (given < 8) {
        RUN_TO(KVM_EXIT_IO);
        REQUIRE(m.run->io.direction == KVM_EXIT_IO_IN && m.run->io.size == 2 && given + 2 * m.run->io.count <= 8);
        memcpy(io_data(&m), "ABCDEFGH" + given, 2 * m.run->io.count);
        given += 2 * m.run->io.count;
    }
    RUN_TO(KVM_EXIT_HLT);
    CHECK_BYTES(m.ram + 0x2100, "ABCDEFGH\0", 9);
}

static void memory_holes(const struct peer *p)
{
    static const struct {
        uint8_t is_write, bytes;
        uint16_t at;
        const char *data;
    } want[] = {
        { 1, 1, 0x10, "\x11" }, { 1, 2, 0x12, "\x33\x22" }, { 1, 4, 0x14, "\x77\x66\x55\x44" },
        { 0, 1, 0x20, "\x01" }, { 0, 2, 0x22, "\x02\x03" }, { 0, 4, 0x24, "\x04\x05\x06\x07" },
        { 0, 1, 0x30, "\x7f" }, { 1, 1, 0x30, "\x80" },
    };
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(mmio);
    machine_set_ds(&m, p, 0xd000);
    for (unsigned i = 0; i < sizeof want / sizeof *want; i++) {
        RUN_TO(KVM_EXIT_MMIO);
        CHECK_EQ(m.run->mmio.is_write, want[i].is_write);
        CHECK_EQ(m.run->mmio.len, want[i].bytes);
        CHECK_EQ(m.run->mmio.phys_addr, 0xd0000 + want[i].at);
        if (want[i].is_write)
            CHECK_BYTES(m.run->mmio.data, want[i].data, want[i].bytes);
        else
            memcpy(m.run->mmio.data, want[i].data, want[i].bytes);
    }
    RUN_TO(KVM_EXIT_HLT);
    struct kvm_regs r = machine_regs(&m, p);
    CHECK_EQ(r.rax & 0xff, 1);
    CHECK_EQ(r.rbx & 0xffff, 0x0302);
    CHECK_EQ(r.rcx & 0xffffffff, 0x07060504);
}

static void interrupt_window_today(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(interrupt);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->if_flag, 0);
    CHECK_EQ(m.run->ready_for_interrupt_injection, 0);
    m.run->request_interrupt_window = 1;
    RUN_TO(KVM_EXIT_IRQ_WINDOW_OPEN);
    CHECK_EQ(m.run->if_flag, 1);
    CHECK_EQ(m.run->ready_for_interrupt_injection, 1);
    m.run->request_interrupt_window = 0;
    struct kvm_interrupt irq = { 0x20 };
    CALL(m.vcpu, KVM_INTERRUPT, &irq);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x11);
    CHECK_EQ(m.ram[DATA_AT], 1);
    RUN_TO(KVM_EXIT_HLT);
    CALL(m.vcpu, KVM_INTERRUPT, &irq);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(m.ram[DATA_AT], 2);
}

static void triple_fault(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(triple);
    struct kvm_sregs s;
    CALL(m.vcpu, KVM_GET_SREGS, &s);
    s.idt.limit = 0;
    CALL(m.vcpu, KVM_SET_SREGS, &s);
    RUN_TO(KVM_EXIT_SHUTDOWN);
}

/* ---- the second CPU ---- */

struct runner {
    const struct peer *p;
    int vcpu, result;
};

static void *run_vcpu(void *arg)
{
    struct runner *r = arg;
    do /* the kernel leaves with EAGAIN when INIT arrives */
        r->result = r->p->port->ioctl(r->vcpu, KVM_RUN, 0);
    while (r->result < 0 && errno == EAGAIN);
    return NULL;
}

static void send_ipi(struct machine *m, const struct peer *p, uint32_t data)
{
    struct kvm_msi msi = { .address_lo = 0xfee01000, .data = data };
    CHECK(CALL(m->vm, KVM_SIGNAL_MSI, &msi) > 0);
}

static void init_and_sipi(const struct peer *p)
{
    static const uint8_t code[] = { 0x8c, 0xc8, 0xe7, 0x10, 0xf4 }; /* mov ax, cs; out 0x10, ax; hlt */
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    struct kvm_run *run;
    struct runner r = { p, machine_add_vcpu(&m, p, 1, &run), -1 };
    memcpy(m.ram + 0x3000, code, sizeof code);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, run_vcpu, &r) == 0);
    send_ipi(&m, p, 0x4500);
    send_ipi(&m, p, 0x4603);
    pthread_join(thread, NULL);
    CHECK_EQ(r.result, 0);
    CHECK_EQ(run->exit_reason, KVM_EXIT_IO);
    CHECK_EQ(run->io.port, 0x10);
    CHECK_EQ(*(uint16_t *)(void *)((uint8_t *)run + run->io.data_offset), 0x300);
    struct kvm_sregs s;
    CALL(r.vcpu, KVM_GET_SREGS, &s);
    CHECK_EQ(s.cs.base, 0x3000);
    struct kvm_mp_state state;
    CALL(r.vcpu, KVM_GET_MP_STATE, &state);
    CHECK_EQ(state.mp_state, KVM_MP_STATE_RUNNABLE);
    /* Again, while it runs: INIT stops it where it is. */
    send_ipi(&m, p, 0x4500);
    REQUIRE(pthread_create(&thread, NULL, run_vcpu, &r) == 0);
    send_ipi(&m, p, 0x4603);
    pthread_join(thread, NULL);
    CHECK_EQ(r.result, 0);
    CHECK_EQ(run->exit_reason, KVM_EXIT_IO);
}

/* The client starts it by its MP state: runnable, with registers of the client's. */
static void started_by_client(const struct peer *p)
{
    static const uint8_t code[] = { 0xe6, 0x10, 0xf4 };
    struct machine m, second;
    machine_create(&m, p, WITH_IRQCHIP);
    second = m;
    second.vcpu = machine_add_vcpu(&m, p, 1, &second.run);
    struct kvm_mp_state state = { KVM_MP_STATE_RUNNABLE };
    CALL(second.vcpu, KVM_SET_MP_STATE, &state);
    machine_load(&second, p, code, sizeof code);
    machine_run(&second, p, KVM_EXIT_IO, __FILE__, __LINE__);
    CHECK_EQ(second.run->io.port, 0x10);
}

/* ---- dirty logs ---- */

static void dirty_log_cleared_by_client(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    uint64_t bits[2], some[2] = { 1ull << 0x20, 0 };
    struct kvm_dirty_log log = { .slot = 0, .dirty_bitmap = bits };
    struct kvm_clear_dirty_log clear = { .slot = 0, .num_pages = 64, .first_page = 0, .dirty_bitmap = some };
    struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { 1 } };
    CALL(m.vm, KVM_ENABLE_CAP, &cap);
    CHECK_ERRNO(m.vm, KVM_CLEAR_DIRTY_LOG, &clear, ENOENT);
    machine_set_slot(&m, p, 0, KVM_MEM_LOG_DIRTY_PAGES, 0, RAM_BYTES, m.ram);
    LOAD(touch);
    const uint16_t pages[] = { 0x20, 0x7e, 0 };
    memcpy(m.ram + DATA_AT, pages, sizeof pages);
    RUN_TO(KVM_EXIT_HLT);
    for (unsigned i = 0; i < 2; i++) { /* looking does not clear */
        CALL(m.vm, KVM_GET_DIRTY_LOG, &log);
        CHECK_EQ(bits[0] & ~7ull, 1ull << 0x20);
        CHECK_EQ(bits[1], 1ull << 0x3e);
    }
    CALL(m.vm, KVM_CLEAR_DIRTY_LOG, &clear);
    CALL(m.vm, KVM_GET_DIRTY_LOG, &log);
    CHECK_EQ(bits[0] & ~7ull, 0);
    CHECK_EQ(bits[1], 1ull << 0x3e);
    LOAD(touch);
    RUN_TO(KVM_EXIT_HLT);
    CALL(m.vm, KVM_GET_DIRTY_LOG, &log);
    CHECK_EQ(bits[0] & ~7ull, 1ull << 0x20);
    clear.first_page = 1;
    CHECK_ERRNO(m.vm, KVM_CLEAR_DIRTY_LOG, &clear, EINVAL);
    clear.first_page = 64;
    clear.num_pages = 65;
    CHECK_ERRNO(m.vm, KVM_CLEAR_DIRTY_LOG, &clear, EINVAL);
    clear.slot = 5;
    clear.num_pages = 64;
    CHECK_ERRNO(m.vm, KVM_CLEAR_DIRTY_LOG, &clear, ENOENT);
}

/* What is not offered is refused as a kernel without it does. */
static void unknown_calls(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    const unsigned long none = _IO(KVMIO, 0xfe);
    CHECK_ERRNO(m.dev, none, 0, EINVAL);
    CHECK_ERRNO(m.vm, none, 0, ENOTTY);
    CHECK_ERRNO(m.vcpu, none, 0, EINVAL);
    CHECK_ERRNO(m.vm, KVM_RUN, 0, ENOTTY);
    CHECK_ERRNO(m.dev, KVM_RUN, 0, EINVAL);
    CHECK_ERRNO(m.vcpu, KVM_CREATE_VCPU, 1, EINVAL);
}

const struct conform_case cases_today_exits[] = {
    { "port_input", port_input },
    { "string_port_io", string_port_io },
    { "memory_holes", memory_holes },
    { "interrupt_window_today", interrupt_window_today },
    { "triple_fault", triple_fault },
    { "init_and_sipi", init_and_sipi },
    { "started_by_client", started_by_client },
    { "dirty_log_cleared_by_client", dirty_log_cleared_by_client },
    { "unknown_calls", unknown_calls },
};
const size_t n_cases_today_exits = sizeof cases_today_exits / sizeof *cases_today_exits;
