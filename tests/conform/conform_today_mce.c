/* SPDX-License-Identifier: MIT */
/*
 * Machine checks that the client raises: banks, the exception in the guest, and what is refused. payload_mce waits at an OUT; its handler copies the registers.
 */
#include "tests/conform/machine_today.h"

#include <string.h>

PAYLOAD(mce);
extern const uint8_t payload_mce_handler[];

#define MCI_VAL (1ull << 63)
#define MCI_OVER (1ull << 62)
#define MCI_UC (1ull << 61)
#define MCI_EN (1ull << 60)
#define BANKS 10u

/* A vCPU in real mode with CR4.MCE, BANKS banks and a #MC handler, stopped at its OUT. */
static void mce_machine(struct machine *m, const struct peer *p, bool is_enabled)
{
    uint64_t cap;
    machine_create(m, p, 0);
    CALL(m->dev, KVM_X86_GET_MCE_CAP_SUPPORTED, &cap);
    CHECK_EQ(cap & (1u << 8), 1u << 8);
    cap = (cap & (1u << 8)) | BANKS;
    CALL(m->vcpu, KVM_X86_SETUP_MCE, &cap);
    machine_load(m, p, payload_mce, PAYLOAD_BYTES(mce));
    const uint16_t handler[] = { (uint16_t)(CODE_AT + (payload_mce_handler - payload_mce)), 0 };
    memcpy(m->ram + 18 * 4, handler, sizeof handler);
    memset(m->ram + DATA_AT, 0, 0x100);
    struct kvm_sregs s;
    CALL(m->vcpu, KVM_GET_SREGS, &s);
    s.cr4 |= is_enabled ? 1u << 6 : 0;
    CALL(m->vcpu, KVM_SET_SREGS, &s);
    machine_run(m, p, KVM_EXIT_IO, __FILE__, __LINE__);
}

static void mce_reaches_guest(const struct peer *p)
{
    struct machine m;
    mce_machine(&m, p, true);
    CHECK_EQ(machine_msr(&m, p, 0x179), 1u << 8 | BANKS);
    CHECK_EQ(machine_msr(&m, p, 0x17b), ~0ull);
    CHECK_EQ(machine_msr(&m, p, 0x408), ~0ull);
    struct kvm_x86_mce e = { .status = MCI_VAL | MCI_UC | MCI_EN | 0x134, .addr = 0x12345678, .misc = 0x8c, .mcg_status = 5, .bank = 2 };
    CALL(m.vcpu, KVM_X86_SET_MCE, &e);
    RUN_TO(KVM_EXIT_HLT);
    const uint64_t want[] = { 5, ~0ull, e.status, e.addr, e.misc };
    CHECK_BYTES(m.ram + DATA_AT, want, sizeof want);
    CHECK_EQ(machine_msr(&m, p, 0x17a), 0); /* the handler cleared them */
    CHECK_EQ(machine_msr(&m, p, 0x409), 0);
    CHECK_EQ(machine_msr(&m, p, 0x40a), e.addr);
}

static void mce_corrected(const struct peer *p)
{
    struct machine m;
    mce_machine(&m, p, true);
    struct kvm_x86_mce e = { .status = MCI_VAL | MCI_EN | 1, .addr = 1, .misc = 2, .bank = 2 };
    CALL(m.vcpu, KVM_X86_SET_MCE, &e); /* noted without an exception */
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(machine_msr(&m, p, 0x409), e.status);
    e.addr = 3;
    CALL(m.vcpu, KVM_X86_SET_MCE, &e);
    CHECK_EQ(machine_msr(&m, p, 0x409), e.status | MCI_OVER);
    CHECK_EQ(machine_msr(&m, p, 0x40a), 3);
    CHECK_EQ(machine_msr(&m, p, 0x40b), 2);
    CHECK_EQ(machine_msr(&m, p, 0x17a), 0);
}

static void mce_refused(const struct peer *p)
{
    struct machine m;
    mce_machine(&m, p, true);
    struct kvm_x86_mce e = { .status = MCI_VAL | MCI_UC | MCI_EN, .bank = BANKS };
    CHECK_ERRNO(m.vcpu, KVM_X86_SET_MCE, &e, EINVAL);
    CHECK_ERRNO(m.vcpu, KVM_X86_SET_MCE, 8, EFAULT);
    e.bank = 2;
    e.status = MCI_UC;
    CHECK_ERRNO(m.vcpu, KVM_X86_SET_MCE, &e, EINVAL);
    static const uint64_t caps[] = { 0, 33, 0xff, 1ull << 40 | 1 };
    for (unsigned i = 0; i < 4; i++) {
        uint64_t cap = caps[i];
        CHECK_ERRNO(m.vcpu, KVM_X86_SETUP_MCE, &cap, EINVAL);
    }
    CHECK_ERRNO(m.vcpu, KVM_X86_SETUP_MCE, 8, EFAULT);
    CHECK_EQ(machine_msr(&m, p, 0x179), 1u << 8 | BANKS);
    RUN_TO(KVM_EXIT_IO); /* nothing came of it */
}

/* A guest that is not prepared, or still busy with one, shuts down. */
static void mce_without_handler(const struct peer *p)
{
    struct machine m;
    struct kvm_x86_mce e = { .status = MCI_VAL | MCI_UC | MCI_EN, .mcg_status = 5, .bank = 2 };
    mce_machine(&m, p, false);
    CALL(m.vcpu, KVM_X86_SET_MCE, &e);
    RUN_TO(KVM_EXIT_SHUTDOWN);
    mce_machine(&m, p, true);
    CALL(m.vcpu, KVM_X86_SET_MCE, &e);
    CALL(m.vcpu, KVM_X86_SET_MCE, &e);
    RUN_TO(KVM_EXIT_SHUTDOWN);
}

const struct conform_case cases_today_mce[] = {
    { "mce_reaches_guest", mce_reaches_guest },
    { "mce_corrected", mce_corrected },
    { "mce_refused", mce_refused },
    { "mce_without_handler", mce_without_handler },
};
const size_t n_cases_today_mce = sizeof cases_today_mce / sizeof *cases_today_mce;
