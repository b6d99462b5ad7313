/* SPDX-License-Identifier: MIT */
/*
 * The client's single steps over instructions that leave for it and over halts; an interrupt of its own while it keeps others away. More of debugging is in
 * conform_today_debug.c.
 */
#include "tests/conform/machine_today.h"

PAYLOAD(in);
PAYLOAD(interrupt);
PAYLOAD(mmio);
PAYLOAD(out);
PAYLOAD(steps);

#define LOAD(name) machine_load(&m, p, payload_##name, PAYLOAD_BYTES(name))

static void debug_with(struct machine *m, const struct peer *p, uint32_t flags)
{
    struct kvm_guest_debug d = { .control = flags ? KVM_GUESTDBG_ENABLE | flags : 0 };
    CALL(m->vcpu, KVM_SET_GUEST_DEBUG, &d);
}

/* Each of these is one step, though the client answers in the middle. */
static void step_over_output(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(out);
    debug_with(&m, p, KVM_GUESTDBG_SINGLESTEP);
    const unsigned at[] = { 3, 5, 6, 9, 11, 17, 19 };
    for (unsigned i = 0; i < 7; i++) {
        if (i == 2 || i == 4 || i == 6)
            RUN_TO(KVM_EXIT_IO);
        RUN_TO(KVM_EXIT_DEBUG);
        CHECK_EQ(m.run->debug.arch.pc, CODE_AT + at[i]);
        CHECK_EQ(m.run->debug.arch.dr6 & 0x4000, 0x4000);
    }
    debug_with(&m, p, 0);
    RUN_TO(KVM_EXIT_HLT);
}

static void step_over_input(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(in);
    debug_with(&m, p, KVM_GUESTDBG_SINGLESTEP);
    RUN_TO(KVM_EXIT_DEBUG);
    RUN_TO(KVM_EXIT_IO);
    *((uint8_t *)m.run + m.run->io.data_offset) = 0x5a;
    RUN_TO(KVM_EXIT_DEBUG);
    CHECK_EQ(m.run->debug.arch.pc, CODE_AT + 4);
    CHECK_EQ(machine_regs(&m, p).rax & 0xff, 0x5a);
}

/* What is not stepped any more owes nothing. */
static void step_ends_at_output(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(out);
    debug_with(&m, p, KVM_GUESTDBG_SINGLESTEP);
    RUN_TO(KVM_EXIT_DEBUG);
    RUN_TO(KVM_EXIT_DEBUG);
    RUN_TO(KVM_EXIT_IO);
    debug_with(&m, p, 0);
    RUN_TO(KVM_EXIT_IO);
    RUN_TO(KVM_EXIT_IO);
    RUN_TO(KVM_EXIT_HLT);
}

static void step_over_mmio(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    LOAD(mmio);
    machine_set_ds(&m, p, 0xd000);
    debug_with(&m, p, KVM_GUESTDBG_SINGLESTEP);
    const unsigned at[] = { 5, 11, 20 };
    for (unsigned i = 0; i < 3; i++) {
        RUN_TO(KVM_EXIT_MMIO);
        CHECK_EQ(m.run->mmio.is_write, 1);
        RUN_TO(KVM_EXIT_DEBUG);
        CHECK_EQ(m.run->debug.arch.pc, CODE_AT + at[i]);
    }
}

/* With an in-kernel irqchip HLT is no exit, and a step over it is one. */
static void step_over_halt(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    LOAD(steps);
    debug_with(&m, p, KVM_GUESTDBG_SINGLESTEP);
    for (unsigned i = 0; i < 6; i++)
        RUN_TO(KVM_EXIT_DEBUG);
    CHECK_EQ(m.run->debug.arch.pc, CODE_AT + 13);
    struct kvm_mp_state state;
    CALL(m.vcpu, KVM_GET_MP_STATE, &state);
    CHECK_EQ(state.mp_state, KVM_MP_STATE_HALTED);
}

static void injected_interrupt_is_not_blocked(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    if (!(NEED(KVM_CAP_SET_GUEST_DEBUG2) & KVM_GUESTDBG_BLOCKIRQ))
        conform_skip("KVM_GUESTDBG_BLOCKIRQ is not offered");
    LOAD(interrupt);
    RUN_TO(KVM_EXIT_IO);
    struct kvm_regs r = machine_regs(&m, p);
    r.rflags |= 0x200;
    CALL(m.vcpu, KVM_SET_REGS, &r);
    struct kvm_interrupt irq = { 0x20 };
    CALL(m.vcpu, KVM_INTERRUPT, &irq);
    struct kvm_guest_debug d = { .control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_BLOCKIRQ };
    CALL(m.vcpu, KVM_SET_GUEST_DEBUG, &d);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.ram[DATA_AT], 1);
}

const struct conform_case cases_today_steps[] = {
    { "step_over_output", step_over_output },       { "step_over_input", step_over_input },
    { "step_ends_at_output", step_ends_at_output }, { "step_over_mmio", step_over_mmio },
    { "step_over_halt", step_over_halt },           { "injected_interrupt_is_not_blocked", injected_interrupt_is_not_blocked },
};
const size_t n_cases_today_steps = sizeof cases_today_steps / sizeof *cases_today_steps;
