/* SPDX-License-Identifier: MIT */
/*
 * The Microsoft hypervisor's guest interface: what is offered, its MSRs for clients and guests, hypercall page, reference time, hypercalls' registers and
 * statuses, requests for reset and of a crashed guest.
 */
#include "tests/conform/machine_today.h"

#include <stdlib.h>
#include <string.h>

PAYLOAD(msrs);
PAYLOAD(hypercall);

#define HV_OS_ID 0x40000000u
#define HV_CALL_PAGE 0x40000001u
#define HV_VP_INDEX 0x40000002u
#define HV_RESET 0x40000003u
#define HV_TIME 0x40000020u
#define HV_TSC_PAGE 0x40000021u
#define HV_TSC_FREQUENCY 0x40000022u
#define HV_CRASH_P0 0x40000100u
#define HV_CRASH_CTL 0x40000105u
#define MSR_TSC 0x10u
#define PAGE_AT 0x3000u
#define READ_AT 0x2010u
#define WRITE_AT 0x2020u
#define FAULTS_AT 0x2030u
#define LEAVES_MAX 32u

struct leaves {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 e[LEAVES_MAX];
};

static const struct kvm_cpuid_entry2 *leaf(const struct leaves *l, uint32_t function)
{
    for (uint32_t i = 0; i < l->head.nent; i++)
        if (l->e[i].function == function)
            return &l->e[i];
    return NULL;
}

static bool is_listed(const struct peer *p, int dev, uint32_t index)
{
    struct {
        uint32_t n, index[512];
    } list = { .n = 512 };
    CALL(dev, KVM_GET_MSR_INDEX_LIST, &list);
    for (uint32_t i = 0; i < list.n; i++)
        if (list.index[i] == index)
            return true;
    return false;
}

static int set_msr(struct machine *m, const struct peer *p, uint32_t index, uint64_t value)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry e[1];
    } msr = { { .nmsrs = 1 }, { { .index = index, .data = value } } };
    return CALL(m->vcpu, KVM_SET_MSRS, &msr);
}

static void show_to_guest(struct machine *m, const struct peer *p)
{
    struct leaves l = { .head.nent = LEAVES_MAX };
    CALL(m->vcpu, KVM_GET_SUPPORTED_HV_CPUID, &l);
    CALL(m->vcpu, KVM_SET_CPUID2, &l);
}

/* One RDMSR and one WRMSR by the guest: how many of them faulted. */
static unsigned by_guest(struct machine *m, const struct peer *p, uint32_t read, uint32_t write, uint64_t value)
{
    memset(m->ram + DATA_AT, 0, 0x100);
    machine_load(m, p, payload_msrs, PAYLOAD_BYTES(msrs));
    memcpy(m->ram + DATA_AT, &read, 4);
    memcpy(m->ram + DATA_AT + 4, &write, 4);
    memcpy(m->ram + WRITE_AT, &value, 8);
    machine_run(m, p, KVM_EXIT_HLT, __FILE__, __LINE__);
    return m->ram[FAULTS_AT];
}

static uint64_t read_by_guest(const struct machine *m)
{
    uint64_t value;
    memcpy(&value, m->ram + READ_AT, 8);
    return value;
}

static void hv_cpuid(const struct peer *p)
{
    /* Bits of leaf 0x40000003 EAX, and an MSR that each promises. */
    static const struct {
        unsigned bit;
        uint32_t index;
    } promises[] = {
        { 0, 0x40000010 }, { 1, HV_TIME }, { 5, HV_CALL_PAGE }, { 6, HV_VP_INDEX }, { 7, HV_RESET }, { 9, HV_TSC_PAGE }, { 11, HV_TSC_FREQUENCY }
    };
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    NEED(KVM_CAP_HYPERV_CPUID);
    struct leaves l = { .head.nent = 1 };
    CHECK_ERRNO(m.vcpu, KVM_GET_SUPPORTED_HV_CPUID, &l, E2BIG);
    l.head.nent = LEAVES_MAX;
    CALL(m.vcpu, KVM_GET_SUPPORTED_HV_CPUID, &l);
    const struct kvm_cpuid_entry2 *first = leaf(&l, 0x40000000), *interface = leaf(&l, 0x40000001), *privileges = leaf(&l, 0x40000003);
    REQUIRE(first && interface && privileges);
    CHECK(first->eax >= 0x40000005);
    CHECK_EQ(interface->eax, 0x31237648);
    for (unsigned i = 0; i < sizeof promises / sizeof *promises; i++)
        if (privileges->eax >> promises[i].bit & 1) {
            CHECK(is_listed(p, m.dev, promises[i].index));
            machine_msr(&m, p, promises[i].index);
        }
    CHECK(privileges->eax >> 5 & 1);
    CHECK(privileges->eax >> 6 & 1);
    if (CALL(m.dev, KVM_CHECK_EXTENSION, KVM_CAP_SYS_HYPERV_CPUID)) {
        l.head.nent = LEAVES_MAX;
        CALL(m.dev, KVM_GET_SUPPORTED_HV_CPUID, &l);
        CHECK(leaf(&l, 0x40000001) && leaf(&l, 0x40000001)->eax == 0x31237648);
    }
}

static void hv_msrs_of_client(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    NEED(KVM_CAP_HYPERV);
    NEED(KVM_CAP_HYPERV_VP_INDEX);
    CHECK_EQ(machine_msr(&m, p, HV_VP_INDEX), 0);
    CHECK_EQ(set_msr(&m, p, HV_VP_INDEX, 3), 1);
    CHECK_EQ(machine_msr(&m, p, HV_VP_INDEX), 3);
    CHECK_EQ(set_msr(&m, p, HV_VP_INDEX, 1u << 20), 0);
    for (uint32_t i = 0; i < 5; i++)
        CHECK_EQ(set_msr(&m, p, HV_CRASH_P0 + i, 0x1111 * i), 1);
    for (uint32_t i = 0; i < 5; i++)
        CHECK_EQ(machine_msr(&m, p, HV_CRASH_P0 + i), 0x1111 * i);
    CHECK_EQ(set_msr(&m, p, HV_CRASH_CTL, ~0ull), 1);
    CHECK_EQ(machine_msr(&m, p, HV_CRASH_CTL), 1ull << 63);
    CHECK_EQ(set_msr(&m, p, HV_TIME, 5), 1); /* taken and forgotten */
    CHECK_EQ(set_msr(&m, p, HV_RESET, 1), 1);
    CHECK_EQ(machine_msr(&m, p, HV_RESET), 0);
    uint64_t hz = machine_msr(&m, p, HV_TSC_FREQUENCY);
    CHECK_EQ(hz / 1000, CALL(m.vcpu, KVM_GET_TSC_KHZ, 0));
    /* No identity, no page. */
    CHECK_EQ(set_msr(&m, p, HV_CALL_PAGE, PAGE_AT | 1), 1);
    CHECK_EQ(machine_msr(&m, p, HV_CALL_PAGE), 0);
    CHECK_EQ(set_msr(&m, p, HV_OS_ID, 0x8100ull << 48), 1);
    CHECK_EQ(set_msr(&m, p, HV_CALL_PAGE, PAGE_AT | 1), 1);
    CHECK_EQ(machine_msr(&m, p, HV_CALL_PAGE), PAGE_AT | 1);
    CHECK_BYTES(m.ram + PAGE_AT, "\x0f\x01", 2);
    CHECK_EQ(m.ram[PAGE_AT + 3], 0xc3);
    CHECK_EQ(set_msr(&m, p, HV_OS_ID, 0), 1);
    CHECK_EQ(machine_msr(&m, p, HV_CALL_PAGE), PAGE_AT);
}

static void hv_msrs_of_guest(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_HYPERV);
    NEED(KVM_CAP_HYPERV_CPUID);
    CHECK_EQ(by_guest(&m, p, HV_VP_INDEX, HV_CRASH_P0, 7), 2); /* its CPUID has no such thing */
    show_to_guest(&m, p);
    CHECK_EQ(set_msr(&m, p, HV_VP_INDEX, 3), 1);
    CHECK_EQ(by_guest(&m, p, HV_VP_INDEX, HV_CRASH_P0, 7), 0);
    CHECK_EQ(read_by_guest(&m), 3);
    CHECK_EQ(machine_msr(&m, p, HV_CRASH_P0), 7);
    CHECK_EQ(by_guest(&m, p, HV_TIME, HV_TIME, 7), 1);
    CHECK_EQ(by_guest(&m, p, HV_TIME, HV_VP_INDEX, 3), 1);
    CHECK_EQ(by_guest(&m, p, HV_TSC_FREQUENCY, HV_TSC_FREQUENCY, 3), 1);
    CHECK_EQ(by_guest(&m, p, HV_TIME, HV_OS_ID, 0x8100ull << 48), 0);
    CHECK_EQ(by_guest(&m, p, HV_TIME, HV_CALL_PAGE, PAGE_AT | 1), 0);
    CHECK_BYTES(m.ram + PAGE_AT, "\x0f\x01", 2);
    CHECK_EQ(by_guest(&m, p, HV_TIME, HV_CALL_PAGE, 1ull << 40 | 1), 1); /* no memory there */
    CHECK_EQ(machine_msr(&m, p, HV_CALL_PAGE), PAGE_AT | 1);
}

static void hv_asks_for_reset(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_HYPERV);
    show_to_guest(&m, p);
    for (unsigned i = 0; i < 2; i++) {
        const uint32_t read = HV_TIME, write = i ? HV_CRASH_CTL : HV_RESET;
        const uint64_t value = i ? 1ull << 63 : 1;
        machine_load(&m, p, payload_msrs, PAYLOAD_BYTES(msrs));
        memcpy(m.ram + DATA_AT, &read, 4);
        memcpy(m.ram + DATA_AT + 4, &write, 4);
        memcpy(m.ram + WRITE_AT, &value, 8);
        RUN_TO(KVM_EXIT_SYSTEM_EVENT);
        CHECK_EQ(m.run->system_event.type, i ? KVM_SYSTEM_EVENT_CRASH : KVM_SYSTEM_EVENT_RESET);
        CHECK_EQ(m.run->system_event.flags, 0);
        RUN_TO(KVM_EXIT_HLT);
    }
}

/* What the guest would compute from its page lies between two reads of the MSR, and follows the client's clock. */
static void hv_reference_time(const struct peer *p)
{
    struct machine m;
    struct {
        uint32_t sequence, reserved;
        uint64_t scale;
        int64_t offset;
    } page;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_HYPERV_TIME);
    show_to_guest(&m, p);
    CHECK_EQ(by_guest(&m, p, HV_TIME, HV_TSC_PAGE, PAGE_AT | 1), 0);
    for (unsigned i = 0; i < 2; i++) {
        memcpy(&page, m.ram + PAGE_AT, sizeof page);
        uint64_t before = machine_msr(&m, p, HV_TIME), tsc = machine_msr(&m, p, MSR_TSC), after = machine_msr(&m, p, HV_TIME);
        CHECK(before <= after);
        if (page.sequence) {
            uint64_t now = (uint64_t)((unsigned __int128)tsc * page.scale >> 64) + (uint64_t)page.offset;
            CHECK(before <= now && now <= after);
        }
        struct kvm_clock_data clock = { .clock = 3600000000000ull };
        if (i) {
            CHECK(before >= 36000000000ull && before < 72000000000ull);
            break;
        }
        CALL(m.vm, KVM_SET_CLOCK, &clock);
        CHECK_EQ(by_guest(&m, p, HV_TIME, HV_CRASH_P0, 0), 0);
    }
}

/* In 16-bit protected mode the registers are those of 32-bit code. */
static void enter_protected_as_it_is(struct machine *m, const struct peer *p)
{
    struct kvm_sregs s;
    CHECK_EQ(set_msr(m, p, HV_OS_ID, 0x8100ull << 48), 1);
    machine_load(m, p, payload_hypercall, PAYLOAD_BYTES(hypercall));
    CALL(m->vcpu, KVM_GET_SREGS, &s);
    s.cr0 |= 1;
    s.cs.selector = 8;
    s.cs.type = 11;
    s.ss.selector = s.ds.selector = s.es.selector = 16;
    CALL(m->vcpu, KVM_SET_SREGS, &s);
}

static void enter_protected(struct machine *m, const struct peer *p)
{
    show_to_guest(m, p);
    enter_protected_as_it_is(m, p);
}

static uint64_t call(struct machine *m, const struct peer *p, uint32_t control, uint32_t reps, uint32_t first, uint32_t second)
{
    struct kvm_regs r = machine_regs(m, p);
    r.rip = CODE_AT;
    r.rax = control;
    r.rdx = reps;
    r.rcx = first;
    r.rsi = second;
    r.rbx = r.rdi = 0;
    CALL(m->vcpu, KVM_SET_REGS, &r);
    machine_run(m, p, KVM_EXIT_IO, __FILE__, __LINE__);
    r = machine_regs(m, p);
    return r.rdx << 32 | r.rax;
}

static void hv_calls(const struct peer *p)
{
    static const struct {
        uint32_t control, reps, status;
    } calls[] = { { 0x8, 0, 0 }, { 0x8 | 1u << 16, 0, 0 }, { 0x8, 1, 3 }, { 0x8 | 1u << 17, 0, 3 }, { 0x7777, 0, 2 } };
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    NEED(KVM_CAP_HYPERV_SPIN);
    enter_protected(&m, p);
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++)
        CHECK_EQ(call(&m, p, calls[i].control, calls[i].reps, 0, 0), calls[i].status);
}

/* Each bit that is taken away takes its MSR, or its call, and no other. */
static void hv_enforced(const struct peer *p)
{
    static const struct {
        uint32_t bit, index;
    } msrs[] = { { 1, HV_TIME }, { 5, HV_OS_ID }, { 6, HV_VP_INDEX }, { 7, HV_RESET }, { 9, HV_TSC_PAGE }, { 11, HV_TSC_FREQUENCY } };
    const unsigned n = sizeof msrs / sizeof *msrs;
    struct machine m;
    struct leaves l = { .head.nent = LEAVES_MAX };
    struct kvm_enable_cap cap = { .cap = KVM_CAP_HYPERV_ENFORCE_CPUID, .args = { 1 } };
    machine_create(&m, p, 0);
    NEED(KVM_CAP_HYPERV_ENFORCE_CPUID);
    CALL(m.vcpu, KVM_GET_SUPPORTED_HV_CPUID, &l);
    struct kvm_cpuid_entry2 *features = (struct kvm_cpuid_entry2 *)leaf(&l, 0x40000003), *recommended = (struct kvm_cpuid_entry2 *)leaf(&l, 0x40000004);
    REQUIRE(features && recommended);
    CALL(m.vcpu, KVM_ENABLE_CAP, &cap);
    for (unsigned taken = 0; taken <= n; taken++) {
        uint32_t all = features->eax;
        features->eax &= taken < n ? ~(1u << msrs[taken].bit) : ~0u;
        CALL(m.vcpu, KVM_SET_CPUID2, &l);
        for (unsigned i = 0; i < n; i++)
            CHECK_EQ(by_guest(&m, p, msrs[i].index, HV_CRASH_P0, 0), i == taken);
        features->eax = all;
    }
    machine_msr(&m, p, HV_OS_ID); /* the client may always */
    recommended->eax = 0;
    recommended->ebx = ~0u;
    CALL(m.vcpu, KVM_SET_CPUID2, &l);
    enter_protected_as_it_is(&m, p);
    static const uint32_t controls[] = { 0x2, 0x13, 0x8, 0xb | 1u << 16 };
    for (unsigned i = 0; i < sizeof controls / sizeof *controls; i++)
        CHECK_EQ(call(&m, p, controls[i], 0, 0, 0), 6);
    cap.args[0] = 0;
    CALL(m.vcpu, KVM_ENABLE_CAP, &cap);
    CHECK_EQ(call(&m, p, 0x8, 0, 0, 0), 0);
}

static uint32_t irr_of(const struct peer *p, int vcpu, unsigned vector)
{
    struct kvm_lapic_state s;
    uint32_t word;
    CALL(vcpu, KVM_GET_LAPIC, &s);
    memcpy(&word, s.regs + 0x200 + vector / 32 * 16, 4);
    return word >> vector % 32 & 1;
}

/* To the vCPU whose index the client chose, by a fast call; a flush of both by one in memory. */
static void hv_calls_on_others(const struct peer *p)
{
    struct machine m;
    struct kvm_run *run;
    struct kvm_lapic_state apic;
    machine_create(&m, p, WITH_IRQCHIP);
    NEED(KVM_CAP_HYPERV_SEND_IPI);
    NEED(KVM_CAP_HYPERV_TLBFLUSH);
    struct machine other = m;
    other.vcpu = machine_add_vcpu(&m, p, 1, &run);
    struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
    CALL(other.vcpu, KVM_SET_MP_STATE, &runnable);
    CALL(other.vcpu, KVM_GET_LAPIC, &apic);
    apic.regs[0xf1] = 1;
    CALL(other.vcpu, KVM_SET_LAPIC, &apic);
    CHECK_EQ(set_msr(&other, p, HV_VP_INDEX, 5), 1);
    enter_protected(&m, p);
    CHECK_EQ(call(&m, p, 0xb | 1u << 16, 0, 0x41, 1u << 1), 0);
    CHECK_EQ(irr_of(p, other.vcpu, 0x41), 0);
    CHECK_EQ(call(&m, p, 0xb | 1u << 16, 0, 0x41, 1u << 5), 0);
    CHECK_EQ(irr_of(p, other.vcpu, 0x41), 1);
    CHECK_EQ(call(&m, p, 0xb | 1u << 16, 0, 0xf, 1u << 5), 3);
    const uint64_t flush[4] = { 0, 0, 1 | 1u << 5, 0x1000 };
    memcpy(m.ram + DATA_AT, flush, sizeof flush);
    CHECK_EQ(call(&m, p, 2, 0, DATA_AT, 0), 0);
    CHECK_EQ(call(&m, p, 3, 1, DATA_AT, 0), 1ull << 32);
    CHECK_EQ(call(&m, p, 3, 0, DATA_AT, 0), 3);
}

const struct conform_case cases_today_hv[] = {
    { "hv_cpuid", hv_cpuid },
    { "hv_msrs_of_client", hv_msrs_of_client },
    { "hv_msrs_of_guest", hv_msrs_of_guest },
    { "hv_asks_for_reset", hv_asks_for_reset },
    { "hv_reference_time", hv_reference_time },
    { "hv_calls", hv_calls },
    { "hv_enforced", hv_enforced },
    { "hv_calls_on_others", hv_calls_on_others },
};
const size_t n_cases_today_hv = sizeof cases_today_hv / sizeof *cases_today_hv;
