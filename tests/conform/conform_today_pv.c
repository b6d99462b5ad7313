/* SPDX-License-Identifier: MIT */
/*
 * What paravirtual guests use: hypercalls, kicks, steal time, features by CPUID; TPR reporting and the virtual APIC page.
 */
#include "tests/conform/machine_today.h"

#include <string.h>

#include <asm/kvm_para.h>
#include <linux/kvm_para.h>

PAYLOAD(hypercall);
PAYLOAD(halt);
PAYLOAD(steal);
PAYLOAD(tpr);
PAYLOAD(vapic);
extern const uint8_t payload_tpr_write[], payload_tpr_read[];
#define LOAD(name) machine_load(&m, p, payload_##name, PAYLOAD_BYTES(name))

#define LAPIC_TPR 0x80
#define LAPIC_SVR 0xf0
#define LAPIC_ISR 0x100
#define LAPIC_IRR 0x200

static uint32_t apic_get(const struct peer *p, int vcpu, unsigned reg)
{
    struct kvm_lapic_state s;
    uint32_t value;
    CALL(vcpu, KVM_GET_LAPIC, &s);
    memcpy(&value, s.regs + reg, 4);
    return value;
}

static void apic_set(const struct peer *p, int vcpu, unsigned reg, uint32_t value)
{
    struct kvm_lapic_state s;
    CALL(vcpu, KVM_GET_LAPIC, &s);
    memcpy(s.regs + reg, &value, 4);
    CALL(vcpu, KVM_SET_LAPIC, &s);
}

static int32_t hypercall(struct machine *m, const struct peer *p, uint32_t nr, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3)
{
    struct kvm_regs r = machine_regs(m, p);
    r.rip = CODE_AT;
    r.rax = nr;
    r.rbx = a0;
    r.rcx = a1;
    r.rdx = a2;
    r.rsi = a3;
    CALL(m->vcpu, KVM_SET_REGS, &r);
    machine_run(m, p, KVM_EXIT_IO, __FILE__, __LINE__);
    return (int32_t)machine_regs(m, p).rax;
}

static int add_runnable(struct machine *m, const struct peer *p, struct kvm_run **run)
{
    int vcpu = machine_add_vcpu(m, p, 1, run);
    struct kvm_mp_state state = { .mp_state = KVM_MP_STATE_RUNNABLE };
    CALL(vcpu, KVM_SET_MP_STATE, &state);
    apic_set(p, vcpu, LAPIC_SVR, 0x1ff);
    return vcpu;
}

static void pv_calls(const struct peer *p)
{
    struct machine m;
    struct kvm_run *run;
    machine_create(&m, p, WITH_IRQCHIP);
    int other = add_runnable(&m, p, &run);
    LOAD(hypercall);
    CHECK_EQ(hypercall(&m, p, 99, 0, 0, 0, 0), -KVM_ENOSYS);
    CHECK_EQ(hypercall(&m, p, KVM_HC_VAPIC_POLL_IRQ, 0, 0, 0, 0), 0);
    CHECK_EQ(hypercall(&m, p, KVM_HC_SCHED_YIELD, 1, 0, 0, 0), 0);
    CHECK_EQ(hypercall(&m, p, KVM_HC_KICK_CPU, 0, 77, 0, 0), 0);
    CHECK_EQ(hypercall(&m, p, KVM_HC_SEND_IPI, 2, 0, 0, 0x4041), 1);
    CHECK_EQ(apic_get(p, other, LAPIC_IRR + 0x20), 2);
    CHECK_EQ(hypercall(&m, p, KVM_HC_SEND_IPI, 1, 0, 1, 0x4042), 1); /* bits count from the third argument */
    CHECK_EQ(apic_get(p, other, LAPIC_IRR + 0x20), 6);
    CHECK_EQ(hypercall(&m, p, KVM_HC_SEND_IPI, 0, 1, 0, 0x4043), 0); /* nobody is 32 */
    CHECK_EQ(hypercall(&m, p, KVM_HC_SEND_IPI, 2, 0, 0, 0xc4041), -KVM_EINVAL);
}

/* A kick that comes before the HLT ends it all the same, once. */
static void pv_kick(const struct peer *p)
{
    struct machine m;
    struct kvm_run *run;
    struct kvm_mp_state state = { .mp_state = KVM_MP_STATE_HALTED };
    machine_create(&m, p, WITH_IRQCHIP);
    int other = add_runnable(&m, p, &run), first = m.vcpu;
    m.vcpu = other;
    LOAD(halt); /* both share the memory: after the first call the code is in nobody's way */
    m.vcpu = first;
    uint8_t *code = m.ram + CODE_AT;
    uint8_t kept[16];
    memcpy(kept, code, sizeof kept);
    LOAD(hypercall);
    CHECK_EQ(hypercall(&m, p, KVM_HC_KICK_CPU, 0, 1, 0, 0), 0);
    memcpy(code, kept, sizeof kept);
    struct machine w = m;
    w.vcpu = other;
    w.run = run;
    machine_run(&w, p, KVM_EXIT_IO, __FILE__, __LINE__);
    CHECK_EQ(run->io.port, 0x12);
    CALL(other, KVM_SET_MP_STATE, &state);
    CALL(other, KVM_GET_MP_STATE, &state);
    CHECK_EQ(state.mp_state, KVM_MP_STATE_HALTED);
    LOAD(hypercall);
    CHECK_EQ(hypercall(&m, p, KVM_HC_KICK_CPU, 0, 1, 0, 0), 0);
    CALL(other, KVM_GET_MP_STATE, &state);
    CHECK_EQ(state.mp_state, KVM_MP_STATE_RUNNABLE);
}

static void set_features(struct machine *m, const struct peer *p, uint32_t features)
{
    struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 e[2];
    } c = { { .nent = 2 },
            { { .function = KVM_CPUID_SIGNATURE + 0x100, .eax = KVM_CPUID_FEATURES + 0x100, .ebx = 0x4b4d564b, .ecx = 0x564b4d56, .edx = 0x4d },
              { .function = KVM_CPUID_FEATURES + 0x100, .eax = features } } };
    CALL(m->vcpu, KVM_SET_CPUID2, &c);
}

static int get_msr(struct machine *m, const struct peer *p, uint32_t index)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry e[1];
    } msr = { { .nmsrs = 1 }, { { .index = index } } };
    return CALL(m->vcpu, KVM_GET_MSRS, &msr);
}

static int set_msr(struct machine *m, const struct peer *p, uint32_t index, uint64_t value)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry e[1];
    } msr = { { .nmsrs = 1 }, { { .index = index, .data = value } } };
    return CALL(m->vcpu, KVM_SET_MSRS, &msr);
}

/* With KVM_CAP_ENFORCE_PV_FEATURE_CPUID the guest has what its CPUID says, wherever the leaves are, and no more. */
static void pv_features_enforced(const struct peer *p)
{
    static const struct {
        uint32_t msr, feature;
    } of[] = { { MSR_KVM_WALL_CLOCK, KVM_FEATURE_CLOCKSOURCE },      { MSR_KVM_SYSTEM_TIME, KVM_FEATURE_CLOCKSOURCE },
               { MSR_KVM_WALL_CLOCK_NEW, KVM_FEATURE_CLOCKSOURCE2 }, { MSR_KVM_SYSTEM_TIME_NEW, KVM_FEATURE_CLOCKSOURCE2 },
               { MSR_KVM_STEAL_TIME, KVM_FEATURE_STEAL_TIME },       { MSR_KVM_PV_EOI_EN, KVM_FEATURE_PV_EOI },
               { MSR_KVM_POLL_CONTROL, KVM_FEATURE_POLL_CONTROL } };
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    NEED(KVM_CAP_ENFORCE_PV_FEATURE_CPUID);
    struct kvm_enable_cap cap = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = { 1 } };
    set_features(&m, p, 0);
    for (unsigned i = 0; i < sizeof of / sizeof *of; i++)
        CHECK_EQ(get_msr(&m, p, of[i].msr), 1);
    CHECK_ERRNO(m.vcpu, KVM_ENABLE_CAP, &cap, 0);
    for (unsigned i = 0; i < sizeof of / sizeof *of; i++) {
        set_features(&m, p, 0);
        CHECK_EQ(get_msr(&m, p, of[i].msr), 1); /* a client saves and restores all that is listed */
        CHECK_EQ(set_msr(&m, p, of[i].msr, 0), 1);
        CHECK_EQ(set_msr(&m, p, of[i].msr, 1), 0);
        set_features(&m, p, 1u << of[i].feature);
        CHECK_EQ(get_msr(&m, p, of[i].msr), 1);
        CHECK_EQ(set_msr(&m, p, of[i].msr, 0), 1);
        CHECK_EQ(set_msr(&m, p, of[i].msr, 1), 1);
    }
    CHECK_EQ(set_msr(&m, p, MSR_KVM_POLL_CONTROL, 2), 0);
    cap.cap = KVM_CAP_X2APIC_API;
    CHECK_ERRNO(m.vcpu, KVM_ENABLE_CAP, &cap, EINVAL);
}

static void pv_calls_enforced(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    NEED(KVM_CAP_ENFORCE_PV_FEATURE_CPUID);
    struct kvm_enable_cap cap = { .cap = KVM_CAP_ENFORCE_PV_FEATURE_CPUID, .args = { 1 } };
    CHECK_ERRNO(m.vcpu, KVM_ENABLE_CAP, &cap, 0);
    set_features(&m, p, 0);
    LOAD(hypercall);
    CHECK_EQ(hypercall(&m, p, KVM_HC_KICK_CPU, 0, 0, 0, 0), -KVM_ENOSYS);
    CHECK_EQ(hypercall(&m, p, KVM_HC_SEND_IPI, 1, 0, 0, 0x4041), -KVM_ENOSYS);
    CHECK_EQ(hypercall(&m, p, KVM_HC_SCHED_YIELD, 0, 0, 0, 0), -KVM_ENOSYS);
    set_features(&m, p, 1u << KVM_FEATURE_PV_UNHALT);
    CHECK_EQ(hypercall(&m, p, KVM_HC_KICK_CPU, 0, 0, 0, 0), 0);
    CHECK_EQ(hypercall(&m, p, KVM_HC_SEND_IPI, 1, 0, 0, 0x4041), -KVM_ENOSYS);
}

/* A CPU that runs, or is out with its client in the middle of an instruction, is not preempted. */
static void pv_steal_time(const struct peer *p)
{
    struct machine m;
    struct kvm_steal_time *page;
    machine_create(&m, p, WITH_IRQCHIP);
    page = (struct kvm_steal_time *)(m.ram + DATA_AT);
    CHECK_EQ(set_msr(&m, p, MSR_KVM_STEAL_TIME, DATA_AT | 2), 0); /* reserved */
    page->preempted = KVM_VCPU_PREEMPTED | KVM_VCPU_FLUSH_TLB;
    CHECK_EQ(set_msr(&m, p, MSR_KVM_STEAL_TIME, DATA_AT | KVM_MSR_ENABLED), 1);
    LOAD(steal);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x13);
    CHECK_EQ(((uint8_t *)m.run)[m.run->io.data_offset], 0);
    CHECK_EQ(page->preempted, 0);
    CHECK_EQ(page->version & 1, 0);
    CHECK_EQ(set_msr(&m, p, MSR_KVM_STEAL_TIME, 0), 1);
    page->preempted = KVM_VCPU_PREEMPTED;
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(((uint8_t *)m.run)[m.run->io.data_offset], KVM_VCPU_PREEMPTED); /* nobody's page any more */
}

static void tpr_reports(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    NEED(KVM_CAP_VAPIC);
    struct kvm_tpr_access_ctl ctl = { .enabled = 1, .flags = 1 };
    CHECK_ERRNO(m.vcpu, KVM_TPR_ACCESS_REPORTING, &ctl, EINVAL);
    ctl.flags = 0;
    CHECK_ERRNO(m.vcpu, KVM_TPR_ACCESS_REPORTING, &ctl, 0);
    LOAD(tpr);
    RUN_TO(KVM_EXIT_TPR_ACCESS);
    CHECK_EQ(m.run->tpr_access.rip, CODE_AT + (payload_tpr_write - payload_tpr));
    CHECK_EQ(m.run->tpr_access.is_write, 1);
    CHECK_EQ(machine_regs(&m, p).rip, CODE_AT + (payload_tpr_read - payload_tpr));
    CHECK_EQ(apic_get(p, m.vcpu, LAPIC_TPR), 0x20);
    RUN_TO(KVM_EXIT_TPR_ACCESS);
    CHECK_EQ(m.run->tpr_access.rip, CODE_AT + (payload_tpr_read - payload_tpr));
    CHECK_EQ(m.run->tpr_access.is_write, 0);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x14);
    CHECK_EQ(((uint8_t *)m.run)[m.run->io.data_offset], 0x20);
    ctl.enabled = 0;
    CHECK_ERRNO(m.vcpu, KVM_TPR_ACCESS_REPORTING, &ctl, 0);
    LOAD(tpr);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x14);
}

/* The TPR that the guest keeps in the page counts, and the page says what is in service and what waits. */
static void vapic_page(const struct peer *p)
{
    struct machine m, w;
    machine_create(&w, p, 0);
    struct kvm_vapic_addr at = { .vapic_addr = DATA_AT };
    CHECK_ERRNO(w.vcpu, KVM_SET_VAPIC_ADDR, &at, EINVAL);
    machine_create(&m, p, WITH_IRQCHIP);
    NEED(KVM_CAP_VAPIC);
    at.vapic_addr = 0x10000000;
    CHECK_ERRNO(m.vcpu, KVM_SET_VAPIC_ADDR, &at, EINVAL);
    at.vapic_addr = DATA_AT;
    CHECK_ERRNO(m.vcpu, KVM_SET_VAPIC_ADDR, &at, 0);
    apic_set(p, m.vcpu, LAPIC_SVR, 0x1ff);
    apic_set(p, m.vcpu, LAPIC_TPR, 0xf0);
    LOAD(vapic);
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x41 };
    CHECK_EQ(CALL(m.vm, KVM_SIGNAL_MSI, &msi), 1);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x15);
    CHECK_EQ(m.ram[DATA_AT + 0x41], 0);
    CHECK_EQ(apic_get(p, m.vcpu, LAPIC_TPR), 0x10);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.run->io.port, 0x16);
    CHECK_EQ(m.ram[DATA_AT + 0x41], 1);
    CHECK_EQ(apic_get(p, m.vcpu, LAPIC_TPR), 0xf0);
    CHECK_EQ(apic_get(p, m.vcpu, LAPIC_ISR + 0x20), 2);
    msi.data = 0x42;
    CHECK_EQ(CALL(m.vm, KVM_SIGNAL_MSI, &msi), 1);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.ram[DATA_AT + 1], 0x40);
    CHECK_EQ(m.ram[DATA_AT + 3], 0x42);
    at.vapic_addr = 0;
    CHECK_ERRNO(m.vcpu, KVM_SET_VAPIC_ADDR, &at, 0);
    RUN_TO(KVM_EXIT_IO);
    CHECK_EQ(m.ram[DATA_AT], 0xf0);
    CHECK_EQ(apic_get(p, m.vcpu, LAPIC_TPR), 0x10); /* as it was when the page was taken away */
}

const struct conform_case cases_today_pv[] = {
    { "pv_calls", pv_calls },
    { "pv_kick", pv_kick },
    { "pv_features_enforced", pv_features_enforced },
    { "pv_calls_enforced", pv_calls_enforced },
    { "pv_steal_time", pv_steal_time },
    { "tpr_reports", tpr_reports },
    { "vapic_page", vapic_page },
};
const size_t n_cases_today_pv = sizeof cases_today_pv / sizeof *cases_today_pv;
