/* SPDX-License-Identifier: MIT */
/*
 * MSRs that the client answers in the kernel's place, and filters. payload_msrs reads one MSR and writes one; its #GP handler counts.
 */
#include "tests/conform/machine_today.h"

#include <string.h>

PAYLOAD(msrs);

#define MSR_UNKNOWN 0x0badu
#define MSR_STAR 0xc0000081u
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MSR_X2APIC_TPR 0x808u
#define READ_AT 0x2010u
#define WRITE_AT 0x2020u
#define FAULTS_AT 0x2030u

static void load(struct machine *m, const struct peer *p, uint32_t read, uint32_t write, uint64_t value)
{
    machine_load(m, p, payload_msrs, PAYLOAD_BYTES(msrs));
    memset(m->ram + DATA_AT, 0, 0x100);
    memcpy(m->ram + DATA_AT, &read, 4);
    memcpy(m->ram + DATA_AT + 4, &write, 4);
    memcpy(m->ram + WRITE_AT, &value, 8);
}

static uint64_t word_at(struct machine *m, unsigned at)
{
    uint64_t value;
    memcpy(&value, m->ram + at, 8);
    return value;
}

static void set_reasons(struct machine *m, const struct peer *p, uint64_t reasons)
{
    struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR, .args = { reasons } };
    CALL(m->vm, KVM_ENABLE_CAP, &cap);
}

#define CHECK_MSR(index_, reason_, data_)     \
    do {                                      \
        CHECK_EQ(m.run->msr.index, index_);   \
        CHECK_EQ(m.run->msr.reason, reason_); \
        CHECK_EQ(m.run->msr.data, data_);     \
        CHECK_EQ(m.run->msr.error, 0);        \
    } while (0)

static void msr_exits(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_X86_USER_SPACE_MSR);
    struct kvm_enable_cap cap = { .cap = KVM_CAP_X86_USER_SPACE_MSR, .args = { 8 } };
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &cap, EINVAL);

    load(&m, p, MSR_UNKNOWN, MSR_UNKNOWN, 5); /* nobody asked: two faults */
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(word_at(&m, FAULTS_AT), 2);

    set_reasons(&m, p, KVM_MSR_EXIT_REASON_UNKNOWN);
    load(&m, p, MSR_UNKNOWN, MSR_UNKNOWN, 0x1122334455667788);
    RUN_TO(KVM_EXIT_X86_RDMSR);
    CHECK_MSR(MSR_UNKNOWN, KVM_MSR_EXIT_REASON_UNKNOWN, 0);
    uint64_t rip = machine_regs(&m, p).rip;
    CHECK_BYTES(m.ram + rip, "\x0f\x32", 2); /* the instruction is not over */
    m.run->msr.data = 0xaabbccdd00112233;
    RUN_TO(KVM_EXIT_X86_WRMSR);
    CHECK_MSR(MSR_UNKNOWN, KVM_MSR_EXIT_REASON_UNKNOWN, 0x1122334455667788);
    CHECK_EQ(word_at(&m, READ_AT), 0xaabbccdd00112233);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(word_at(&m, FAULTS_AT), 0);

    load(&m, p, MSR_UNKNOWN, MSR_UNKNOWN, 1); /* the client says that they fault */
    RUN_TO(KVM_EXIT_X86_RDMSR);
    m.run->msr.error = 1;
    RUN_TO(KVM_EXIT_X86_WRMSR);
    CHECK_EQ(word_at(&m, FAULTS_AT), 1);
    CHECK_EQ(m.run->msr.error, 0);
    m.run->msr.error = 1;
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(word_at(&m, FAULTS_AT), 2);

    load(&m, p, MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE, 2); /* 2 is no memory type; reading is fine */
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(word_at(&m, FAULTS_AT), 1);
    set_reasons(&m, p, KVM_MSR_EXIT_REASON_INVAL);
    load(&m, p, MSR_MTRR_DEF_TYPE, MSR_MTRR_DEF_TYPE, 2);
    RUN_TO(KVM_EXIT_X86_WRMSR);
    CHECK_MSR(MSR_MTRR_DEF_TYPE, KVM_MSR_EXIT_REASON_INVAL, 2);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(word_at(&m, FAULTS_AT), 0);
}

/* immediate_exit completes the access and runs no further. */
static void msr_exit_is_completed(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_X86_USER_SPACE_MSR);
    set_reasons(&m, p, KVM_MSR_EXIT_REASON_UNKNOWN);
    load(&m, p, MSR_UNKNOWN, MSR_UNKNOWN, 0);
    RUN_TO(KVM_EXIT_X86_RDMSR);
    uint64_t rip = machine_regs(&m, p).rip;
    m.run->msr.data = 0x1234;
    m.run->immediate_exit = 1;
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EINTR);
    m.run->immediate_exit = 0;
    struct kvm_regs r = machine_regs(&m, p);
    CHECK_EQ(r.rip, rip + 2);
    CHECK_EQ(r.rax, 0x1234);
    RUN_TO(KVM_EXIT_X86_WRMSR);
    RUN_TO(KVM_EXIT_HLT);
}

static void msr_filter(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_X86_MSR_FILTER);
    uint8_t none[8] = { 0 }, first[8] = { 1 };
    struct kvm_msr_filter f = { .ranges = { { .flags = KVM_MSR_FILTER_READ, .nmsrs = 2, .base = MSR_STAR, .bitmap = none } } };
    CALL(m.vm, KVM_X86_SET_MSR_FILTER, &f);
    load(&m, p, MSR_STAR, MSR_STAR, 0x77); /* reads are denied, writes are not; without the exit it is #GP */
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(word_at(&m, FAULTS_AT), 1);
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry e;
    } one = { { .nmsrs = 1 }, { .index = MSR_STAR } };
    CHECK_EQ(CALL(m.vcpu, KVM_GET_MSRS, &one), 1); /* no filter for the client */
    CHECK_EQ(one.e.data, 0x77);

    set_reasons(&m, p, KVM_MSR_EXIT_REASON_FILTER);
    load(&m, p, MSR_STAR, MSR_STAR, 0x78);
    RUN_TO(KVM_EXIT_X86_RDMSR);
    CHECK_MSR(MSR_STAR, KVM_MSR_EXIT_REASON_FILTER, 0);
    m.run->msr.data = 9;
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(word_at(&m, READ_AT), 9);

    /* All but reading STAR is denied; the first range that speaks of an access decides. */
    struct kvm_msr_filter deny = { .flags = KVM_MSR_FILTER_DEFAULT_DENY,
                                   .ranges = { { .flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = MSR_STAR, .bitmap = first },
                                               { .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, .nmsrs = 1, .base = MSR_STAR, .bitmap = none } } };
    CALL(m.vm, KVM_X86_SET_MSR_FILTER, &deny);
    load(&m, p, MSR_STAR, MSR_STAR, 0x79);
    RUN_TO(KVM_EXIT_X86_WRMSR);
    CHECK_MSR(MSR_STAR, KVM_MSR_EXIT_REASON_FILTER, 0x79);
    CHECK_EQ(word_at(&m, READ_AT), 0x78);
    RUN_TO(KVM_EXIT_HLT);
    load(&m, p, MSR_MTRR_DEF_TYPE, MSR_STAR, 0);
    RUN_TO(KVM_EXIT_X86_RDMSR);
    CHECK_MSR(MSR_MTRR_DEF_TYPE, KVM_MSR_EXIT_REASON_FILTER, 0);

    struct kvm_msr_filter open = { 0 };
    CALL(m.vm, KVM_X86_SET_MSR_FILTER, &open);
    load(&m, p, MSR_STAR, MSR_STAR, 0x7a);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(word_at(&m, FAULTS_AT), 0);
}

/* What is refused changes nothing. */
static void msr_filter_refused(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_X86_MSR_FILTER);
    uint8_t none[0x600] = { 0 };
    struct kvm_msr_filter f = { .ranges = { { .flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = MSR_STAR, .bitmap = none } } };
    CALL(m.vm, KVM_X86_SET_MSR_FILTER, &f);
    CHECK_ERRNO(m.vm, KVM_X86_SET_MSR_FILTER, 8, EFAULT);
    struct kvm_msr_filter bad = { .flags = KVM_MSR_FILTER_DEFAULT_DENY };
    CHECK_ERRNO(m.vm, KVM_X86_SET_MSR_FILTER, &bad, EINVAL);
    bad.flags = 2;
    CHECK_ERRNO(m.vm, KVM_X86_SET_MSR_FILTER, &bad, EINVAL);
    bad = f;
    bad.ranges[0].flags = 0;
    CHECK_ERRNO(m.vm, KVM_X86_SET_MSR_FILTER, &bad, EINVAL);
    bad.ranges[0].flags = 4;
    CHECK_ERRNO(m.vm, KVM_X86_SET_MSR_FILTER, &bad, EINVAL);
    bad = f;
    bad.ranges[0].bitmap = (void *)8;
    CHECK_ERRNO(m.vm, KVM_X86_SET_MSR_FILTER, &bad, EFAULT);
    bad = f;
    bad.ranges[0].nmsrs = 0x600 * 8 + 1;
    CHECK_ERRNO(m.vm, KVM_X86_SET_MSR_FILTER, &bad, EINVAL);
    load(&m, p, MSR_STAR, MSR_STAR, 1);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(word_at(&m, FAULTS_AT), 1); /* the first one stands */
    bad.ranges[0].nmsrs = 0x600 * 8;
    CHECK_ERRNO(m.vm, KVM_X86_SET_MSR_FILTER, &bad, 0);
}

static void msr_filter_spares_x2apic(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    NEED(KVM_CAP_X86_MSR_FILTER);
    struct kvm_cpuid2 *c = machine_supported_cpuid(p, m.dev);
    CALL(m.vcpu, KVM_SET_CPUID2, c);
    struct kvm_sregs s;
    CALL(m.vcpu, KVM_GET_SREGS, &s);
    s.apic_base |= 0xc00;
    CALL(m.vcpu, KVM_SET_SREGS, &s);
    uint8_t none[32] = { 0 };
    struct kvm_msr_filter f = { .ranges = { { .flags = KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE, .nmsrs = 256, .base = 0x800, .bitmap = none } } };
    CALL(m.vm, KVM_X86_SET_MSR_FILTER, &f);
    set_reasons(&m, p, KVM_MSR_EXIT_REASON_FILTER);
    load(&m, p, MSR_X2APIC_TPR, MSR_X2APIC_TPR, 0x20);
    for (unsigned i = 0; i < PAYLOAD_BYTES(msrs); i++)
        if (m.ram[CODE_AT + i] == 0xf4)
            m.ram[CODE_AT + i] = 0xec; /* HLT would sleep: IN leaves */
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(word_at(&m, FAULTS_AT), 0);
    CALL(m.vcpu, KVM_GET_SREGS, &s);
    CHECK_EQ(s.cr8, 2);
}

const struct conform_case cases_today_msr[] = {
    { "msr_exits", msr_exits },
    { "msr_exit_is_completed", msr_exit_is_completed },
    { "msr_filter", msr_filter },
    { "msr_filter_refused", msr_filter_refused },
    { "msr_filter_spares_x2apic", msr_filter_spares_x2apic },
};
const size_t n_cases_today_msr = sizeof cases_today_msr / sizeof *cases_today_msr;
