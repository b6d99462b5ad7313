/* SPDX-License-Identifier: MIT */
/*
 * The client's debugging of the guest: what an exit says, watchpoints, exceptions given to the guest, events kept from it. The simplest cases are in
 * conform_today_run.c.
 */
#include "tests/conform/machine_today.h"

#include <string.h>

#define HANDLER_AT 0x1100u
#define DR6_START 0xffff0ff0u
#define WATCH(kind, bytes_code) (0x402u | (kind) << 16 | (bytes_code) << 18)

static const uint8_t touch[] = { 0xff, 0x06, 0x00, 0x20, 0xa1, 0x00, 0x20, 0xf4 }; /* incw 0x2000; mov 0x2000, %ax; hlt */
static const uint8_t idle[] = { 0x90, 0x90, 0x90, 0xf4 };

static void set_handler(struct machine *m, unsigned vector)
{
    const uint16_t at[] = { HANDLER_AT, 0 };
    memcpy(m->ram + 4 * vector, at, sizeof at);
    m->ram[HANDLER_AT] = 0xf4;
}

static void debug(struct machine *m, const struct peer *p, uint32_t control, uint64_t dr0, uint64_t dr7)
{
    struct kvm_guest_debug d = { .control = control, .arch.debugreg = { [0] = dr0, [7] = dr7 } };
    CALL(m->vcpu, KVM_SET_GUEST_DEBUG, &d);
}

#define CHECK_DEBUG(vector, at, hits)                  \
    do {                                               \
        CHECK_EQ(m.run->debug.arch.exception, vector); \
        CHECK_EQ(m.run->debug.arch.pc, at);            \
        CHECK_EQ(m.run->debug.arch.dr6, hits);         \
    } while (0)

static void debug_exit_fields(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    machine_load(&m, p, touch, sizeof touch);
    debug(&m, p, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP, 0, 0);
    RUN_TO(KVM_EXIT_DEBUG);
    CHECK_DEBUG(1, CODE_AT + 4, DR6_START | 0x4000);
    CHECK_EQ(machine_regs(&m, p).rip, CODE_AT + 4);
    CHECK_EQ(machine_regs(&m, p).rflags & 0x100, 0); /* the client's trap flag is not the guest's */
    debug(&m, p, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, CODE_AT + 7, 0x402);
    RUN_TO(KVM_EXIT_DEBUG);
    CHECK_DEBUG(1, CODE_AT + 7, DR6_START | 1);
    debug(&m, p, 0, 0, 0);
    RUN_TO(KVM_EXIT_HLT);
}

static void debug_watchpoints(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    machine_load(&m, p, touch, sizeof touch);
    debug(&m, p, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 0x2000, WATCH(1u, 1u));
    RUN_TO(KVM_EXIT_DEBUG); /* after the write */
    CHECK_DEBUG(1, CODE_AT + 4, DR6_START | 1);
    CHECK_EQ(m.run->debug.arch.dr7, WATCH(1u, 1u));
    CHECK_EQ(m.ram[0x2000], 1);
    RUN_TO(KVM_EXIT_HLT); /* reading is something else */
    machine_load(&m, p, touch, sizeof touch);
    debug(&m, p, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP, 0x2001, WATCH(3u, 0u));
    RUN_TO(KVM_EXIT_DEBUG);
    CHECK_EQ(m.run->debug.arch.pc, CODE_AT + 4);
    RUN_TO(KVM_EXIT_DEBUG);
    CHECK_EQ(m.run->debug.arch.pc, CODE_AT + 7);
    RUN_TO(KVM_EXIT_HLT);
    struct kvm_debugregs d;
    CALL(m.vcpu, KVM_GET_DEBUGREGS, &d); /* the guest's own are as they were */
    CHECK_EQ(d.dr6, DR6_START);
    CHECK_EQ(d.dr7, 0x400);
    CHECK_EQ(d.db[0], 0);
}

static void check_injected(struct machine *m, const struct peer *p, unsigned pushed)
{
    uint16_t ip;
    machine_run(m, p, KVM_EXIT_HLT, __FILE__, __LINE__);
    struct kvm_regs r = machine_regs(m, p);
    CHECK_EQ(r.rip, HANDLER_AT + 1);
    memcpy(&ip, m->ram + r.rsp, 2);
    CHECK_EQ(ip, pushed);
}

static void debug_injects_db(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    machine_load(&m, p, idle, sizeof idle);
    set_handler(&m, 1);
    debug(&m, p, KVM_GUESTDBG_INJECT_DB, 0, 0);
    struct kvm_guest_debug again = { .control = KVM_GUESTDBG_INJECT_DB };
    CHECK_ERRNO(m.vcpu, KVM_SET_GUEST_DEBUG, &again, EBUSY);
    CHECK_ERRNO(m.vcpu, KVM_SET_GUEST_DEBUG, 8, EFAULT);
    check_injected(&m, p, CODE_AT);
}

/* What its INT3 raised, given back: the handler returns behind the instruction. */
static void debug_injects_bp(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    machine_load(&m, p, idle, sizeof idle);
    m.ram[CODE_AT + 1] = 0xcc;
    set_handler(&m, 3);
    debug(&m, p, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP, 0, 0);
    RUN_TO(KVM_EXIT_DEBUG);
    CHECK_EQ(m.run->debug.arch.exception, 3);
    CHECK_EQ(m.run->debug.arch.pc, CODE_AT + 1);
    debug(&m, p, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP | KVM_GUESTDBG_INJECT_BP, 0, 0);
    check_injected(&m, p, CODE_AT + 2);
    /* The other way, which QEMU takes. */
    machine_load(&m, p, idle, sizeof idle);
    m.ram[CODE_AT + 1] = 0xcc;
    RUN_TO(KVM_EXIT_DEBUG);
    struct kvm_vcpu_events e;
    CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &e);
    CHECK_EQ(e.exception.injected, 0);
    e.exception.injected = 1;
    e.exception.nr = 3;
    CALL(m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    check_injected(&m, p, CODE_AT + 2);
}

static void debug_blocks_events(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    if (!(NEED(KVM_CAP_SET_GUEST_DEBUG2) & KVM_GUESTDBG_BLOCKIRQ))
        conform_skip("no KVM_GUESTDBG_BLOCKIRQ");
    machine_load(&m, p, idle, sizeof idle);
    set_handler(&m, 2);
    CALL(m.vcpu, KVM_NMI, 0);
    debug(&m, p, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ, 0, 0);
    for (unsigned i = 1; i <= 2; i++) {
        RUN_TO(KVM_EXIT_DEBUG);
        CHECK_EQ(m.run->debug.arch.pc, CODE_AT + i);
    }
    struct kvm_vcpu_events e;
    CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &e);
    CHECK_EQ(e.nmi.pending | e.nmi.injected, 1);
    debug(&m, p, 0, 0, 0);
    check_injected(&m, p, CODE_AT + 2);
}

const struct conform_case cases_today_debug[] = {
    { "debug_exit_fields", debug_exit_fields }, { "debug_watchpoints", debug_watchpoints },     { "debug_injects_db", debug_injects_db },
    { "debug_injects_bp", debug_injects_bp },   { "debug_blocks_events", debug_blocks_events },
};
const size_t n_cases_today_debug = sizeof cases_today_debug / sizeof *cases_today_debug;
