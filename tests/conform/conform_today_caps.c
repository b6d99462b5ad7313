/* SPDX-License-Identifier: MIT */
/*
 * Smaller capabilities, and what must be refused where a capability is not offered.
 */
#include "tests/conform/machine_today.h"

#include <string.h>
#include <sys/mman.h>

#include "abi/kvm_later.h"

PAYLOAD(msrs);

static void enable(struct machine *m, const struct peer *p, uint32_t cap, uint64_t arg)
{
    struct kvm_enable_cap e = { .cap = cap, .args = { arg } };
    CALL(m->vm, KVM_ENABLE_CAP, &e);
}

static void triple_fault_event(const struct peer *p)
{
    struct machine m;
    struct kvm_vcpu_events e;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_X86_TRIPLE_FAULT_EVENT);
    CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &e);
    CHECK_EQ(e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT, 0);
    e.flags = KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    CHECK_ERRNO(m.vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
    enable(&m, p, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
    CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &e);
    CHECK_EQ(e.flags & KVM_VCPUEVENT_VALID_TRIPLE_FAULT, KVM_VCPUEVENT_VALID_TRIPLE_FAULT);
    CHECK_EQ(e.triple_fault.pending, 0);
    static const uint8_t hlt[] = { 0xf4 };
    machine_load(&m, p, hlt, sizeof hlt);
    e.triple_fault.pending = 1;
    CALL(m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &e);
    CHECK_EQ(e.triple_fault.pending, 1);
    e.triple_fault.pending = 0; /* taken back */
    CALL(m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    RUN_TO(KVM_EXIT_HLT);
    e.triple_fault.pending = 1;
    CALL(m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    RUN_TO(KVM_EXIT_SHUTDOWN);
    CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &e);
    CHECK_EQ(e.triple_fault.pending, 0);
}

/* What exceptions bring along, where the client may say it: CR2 and DR6 change when they are delivered, not before. */
static void exception_payload(const struct peer *p)
{
    struct machine m;
    static const uint8_t idle[] = { 0x90, 0xf4 };
    struct kvm_vcpu_events e = { .flags = KVM_VCPUEVENT_VALID_PAYLOAD, .exception = { .pending = 1, .nr = 14 } }, back;
    struct kvm_debugregs d;
    struct kvm_sregs s;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_EXCEPTION_PAYLOAD);
    CHECK_ERRNO(m.vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
    enable(&m, p, KVM_CAP_EXCEPTION_PAYLOAD, 1);
    e.exception.nr = 2;
    CHECK_ERRNO(m.vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
    e.exception.nr = 32;
    CHECK_ERRNO(m.vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
    e.exception.nr = 14;
    e.exception_has_payload = 1;
    e.exception_payload = 0x123456;
    machine_load(&m, p, idle, sizeof idle);
    memcpy(m.ram + 14 * 4, "\1\x10\0\0", 4); /* handlers of #PF and #DB: the HLT */
    memcpy(m.ram + 1 * 4, "\1\x10\0\0", 4);
    e.exception.injected = 1; /* pending goes before */
    CALL(m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    e.exception.injected = 0;
    CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &back);
    CHECK_EQ(back.flags & KVM_VCPUEVENT_VALID_PAYLOAD, KVM_VCPUEVENT_VALID_PAYLOAD);
    CHECK_BYTES(&back.exception, &e.exception, sizeof e.exception);
    CHECK_EQ(back.exception_has_payload, 1);
    CHECK_EQ(back.exception_payload, 0x123456);
    CALL(m.vcpu, KVM_GET_SREGS, &s);
    CHECK_EQ(s.cr2, 0);
    RUN_TO(KVM_EXIT_HLT);
    CALL(m.vcpu, KVM_GET_SREGS, &s);
    CHECK_EQ(s.cr2, 0x123456);

    machine_load(&m, p, idle, sizeof idle);
    e.exception.nr = 1;
    e.exception_payload = 0x4001;
    CALL(m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    CALL(m.vcpu, KVM_GET_DEBUGREGS, &d);
    CHECK_EQ(d.dr6, 0xffff0ff0);
    RUN_TO(KVM_EXIT_HLT);
    CALL(m.vcpu, KVM_GET_DEBUGREGS, &d);
    CHECK_EQ(d.dr6, 0xffff4ff1);
}

/* Without a payload the client has set the registers itself. */
static void exception_without_payload(const struct peer *p)
{
    struct machine m;
    static const uint8_t idle[] = { 0x90, 0xf4 };
    struct kvm_vcpu_events e, back;
    struct kvm_debugregs d;
    for (unsigned has_cap = 0; has_cap < 2; has_cap++) {
        machine_create(&m, p, 0);
        NEED(KVM_CAP_EXCEPTION_PAYLOAD);
        enable(&m, p, KVM_CAP_EXCEPTION_PAYLOAD, has_cap);
        machine_load(&m, p, idle, sizeof idle);
        memcpy(m.ram + 1 * 4, "\1\x10\0\0", 4);
        CALL(m.vcpu, KVM_GET_DEBUGREGS, &d);
        d.dr6 = 0xffff0ff2;
        CALL(m.vcpu, KVM_SET_DEBUGREGS, &d);
        CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &e);
        e.exception.injected = 1;
        e.exception.nr = 1;
        CALL(m.vcpu, KVM_SET_VCPU_EVENTS, &e);
        CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &back);
        CHECK_EQ(back.exception.injected, 1);
        CHECK_EQ(back.exception.pending, 0);
        CHECK_EQ(back.exception.nr, 1);
        struct kvm_regs r = machine_regs(&m, p);
        CALL(m.vcpu, KVM_SET_REGS, &r); /* drops only what is queued */
        RUN_TO(KVM_EXIT_HLT);
        CHECK_EQ(machine_regs(&m, p).rsp, 0x7000 - 6);
        CALL(m.vcpu, KVM_GET_DEBUGREGS, &d);
        CHECK_EQ(d.dr6, 0xffff0ff2);
        CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &back);
        CHECK_EQ(back.exception.injected | back.exception.pending, 0);
        struct kvm_guest_debug g = { .control = KVM_GUESTDBG_INJECT_DB };
        CALL(m.vcpu, KVM_SET_GUEST_DEBUG, &g);
        CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &back);
        CHECK_EQ(back.exception.injected, !has_cap);
        CHECK_EQ(back.exception.pending, 1);
        CHECK_EQ(back.exception.nr, 1);
        CALL(m.vcpu, KVM_SET_REGS, &r);
        CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &back);
        CHECK_EQ(back.exception.injected | back.exception.pending, 0);
    }
}

static void tsc_offset(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    uint64_t offset, back;
    struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset };
    NEED(KVM_CAP_VCPU_ATTRIBUTES);
    CHECK_ERRNO(m.vcpu, KVM_HAS_DEVICE_ATTR, &a, 0);
    CHECK_ERRNO(m.vcpu, KVM_GET_DEVICE_ATTR, &a, 0);
    offset += 1ull << 40;
    uint64_t before = machine_msr(&m, p, 0x10);
    CHECK_ERRNO(m.vcpu, KVM_SET_DEVICE_ATTR, &a, 0);
    uint64_t after = machine_msr(&m, p, 0x10);
    CHECK(after - before >= 1ull << 40 && after - before < 1ull << 41);
    a.addr = (uintptr_t)&back;
    CHECK_ERRNO(m.vcpu, KVM_GET_DEVICE_ATTR, &a, 0);
    CHECK_EQ(back, offset);
    a.addr = 8;
    CHECK_ERRNO(m.vcpu, KVM_GET_DEVICE_ATTR, &a, EFAULT);
    CHECK_ERRNO(m.vcpu, KVM_SET_DEVICE_ATTR, &a, EFAULT);
    CHECK_ERRNO(m.vcpu, KVM_SET_DEVICE_ATTR, 8, EFAULT);
    a.attr = 77;
    CHECK_ERRNO(m.vcpu, KVM_HAS_DEVICE_ATTR, &a, ENXIO);
    CHECK_ERRNO(m.vcpu, KVM_GET_DEVICE_ATTR, &a, ENXIO);
    CHECK_ERRNO(m.vcpu, KVM_SET_DEVICE_ATTR, &a, ENXIO);
    a.attr = KVM_VCPU_TSC_OFFSET;
    a.group = 77;
    CHECK_ERRNO(m.vcpu, KVM_HAS_DEVICE_ATTR, &a, ENXIO);
}

static void feature_msrs(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_GET_MSR_FEATURES);
    struct {
        uint32_t n, index[256];
    } list = { 0 };
    CHECK_ERRNO(m.dev, KVM_GET_MSR_FEATURE_INDEX_LIST, &list, E2BIG);
    REQUIRE(list.n && list.n <= 256);
    CHECK_ERRNO(m.dev, KVM_GET_MSR_FEATURE_INDEX_LIST, &list, 0);
    CHECK_ERRNO(m.dev, KVM_GET_MSR_FEATURE_INDEX_LIST, 8, EFAULT);
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry e[2];
    } two = { .head.nmsrs = 2, .e = { { .index = list.index[0] }, { .index = 0x0bad } } };
    for (uint32_t i = 0; i < list.n; i++) {
        two.e[0].index = list.index[i];
        CHECK_EQ(CALL(m.dev, KVM_GET_MSRS, &two), 1); /* stops at the one that there is not */
    }
    two.head.nmsrs = 300;
    CHECK_ERRNO(m.dev, KVM_GET_MSRS, &two, E2BIG);
    CHECK_ERRNO(m.dev, KVM_GET_MSRS, 8, EFAULT);
    CHECK_ERRNO(m.vcpu, KVM_GET_MSRS, 8, EFAULT);
    CHECK_ERRNO(m.vcpu, KVM_SET_MSRS, 8, EFAULT);
}

static void platform_info(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_MSR_PLATFORM_INFO);
    const uint32_t index[] = { 0xce, 0xce };
    for (unsigned i = 0; i < 2; i++) {
        enable(&m, p, KVM_CAP_MSR_PLATFORM_INFO, !i);
        machine_load(&m, p, payload_msrs, PAYLOAD_BYTES(msrs));
        memcpy(m.ram + DATA_AT, index, sizeof index);
        memset(m.ram + DATA_AT + 0x30, 0, 2);
        RUN_TO(KVM_EXIT_HLT);
        CHECK_EQ(m.ram[DATA_AT + 0x30], 1 + i); /* writing faults always */
    }
}

static void max_vcpu_id(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    int most = NEED(KVM_CAP_MAX_VCPU_ID);
    m.vm = CALL(m.dev, KVM_CREATE_VM, 0);
    struct kvm_enable_cap e = { .cap = KVM_CAP_MAX_VCPU_ID, .args = { (uint64_t)most + 1 } };
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &e, EINVAL);
    enable(&m, p, KVM_CAP_MAX_VCPU_ID, 3);
    enable(&m, p, KVM_CAP_MAX_VCPU_ID, 3);
    e.args[0] = 4;
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &e, EINVAL);
    CHECK_ERRNO(m.vm, KVM_CREATE_VCPU, 3, EINVAL);
    CHECK_ERRNO(m.vm, KVM_CREATE_VCPU, 2, 0);
}

static void memory_region2(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    machine_need(&m, p, KVM_CAP_USER_MEMORY2, "KVM_CAP_USER_MEMORY2");
    uint8_t *at = pages_of_client(0x2000);
    struct kvmlater_memory_region2 r = { .slot = 1, .guest_phys_addr = 0x90000, .memory_size = 0x2000, .userspace_addr = (uintptr_t)at };
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION2, &r, 0);
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION2, &r, 0);
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION2, 8, EFAULT);
    static const uint8_t store[] = { 0xb8, 0x00, 0x90, 0x8e, 0xd8, 0xc6, 0x06, 0x05, 0x10, 0x77, 0xf4 }; /* 0x9000:0x1005 */
    machine_load(&m, p, store, sizeof store);
    RUN_TO(KVM_EXIT_HLT);
    CHECK_EQ(at[0x1005], 0x77);
    r.memory_size = 0x1000;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION2, &r, EINVAL); /* a change of size */
    r.flags = 1u << 2;                                          /* guest_memfd, which this kind of VM does not have or of which there is none */
    r.slot = 2;
    r.guest_memfd = ~0u;
    CHECK(p->port->ioctl(m.vm, KVM_SET_USER_MEMORY_REGION2, &r) < 0);
    r = (struct kvmlater_memory_region2){ .slot = 1 };
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION2, &r, 0);
    machine_load(&m, p, store, sizeof store);
    RUN_TO(KVM_EXIT_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0x91005);
}

static void memory_fault_info(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    machine_need(&m, p, KVM_CAP_MEMORY_FAULT_INFO, "KVM_CAP_MEMORY_FAULT_INFO");
    uint8_t *at = pages_of_client(0x2000);
    machine_set_slot(&m, p, 1, 0, 0x90000, 0x2000, at);
    static const uint8_t load[] = { 0xb8, 0x00, 0x90, 0x8e, 0xd8, 0xa0, 0x05, 0x10, 0xf4 }; /* 0x9000:0x1005 */
    machine_load(&m, p, load, sizeof load);
    munmap(at + 0x1000, 0x1000);
    CHECK_ERRNO(m.vcpu, KVM_RUN, 0, EFAULT);
    CHECK_EQ(m.run->exit_reason, KVM_EXIT_MEMORY_FAULT);
    struct kvmlater_run_memory_fault f;
    memcpy(&f, &m.run->io, sizeof f);
    CHECK_EQ(f.flags, 0);
    CHECK_EQ(f.gpa, 0x91000);
    CHECK_EQ(f.size, 0x1000);
}

/* ---- what is not offered --------------------------------------------------------------------------------------------------------------------- */

static void not_offered(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    static const uint32_t caps[] = {
        KVM_CAP_DISABLE_QUIRKS,           KVM_CAP_X86_DISABLE_EXITS,       KVM_CAP_NESTED_STATE,  KVM_CAP_HALT_POLL,      KVM_CAP_EXIT_HYPERCALL,
        KVM_CAP_DISABLE_QUIRKS2,          KVM_CAP_X86_NOTIFY_VMEXIT,       KVM_CAP_SGX_ATTRIBUTE, KVM_CAP_PMU_CAPABILITY, KVM_CAP_XEN_HVM,
        KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, KVM_CAP_VM_DISABLE_NX_HUGE_PAGES
    };
    for (unsigned i = 0; i < sizeof caps / sizeof *caps; i++) {
        struct kvm_enable_cap e = { .cap = caps[i] };
        if (!p->port->ioctl(m.vm, KVM_CHECK_EXTENSION, (void *)(uintptr_t)caps[i]))
            CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &e, EINVAL);
    }
    struct {
        struct kvm_nested_state head;
        uint8_t more[8192];
    } nested = { .head.size = sizeof nested };
    if (p->port->ioctl(m.vm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_NESTED_STATE))
        return;
    CHECK_ERRNO(m.vcpu, KVM_GET_NESTED_STATE, &nested, EINVAL);
    CHECK_ERRNO(m.vcpu, KVM_SET_NESTED_STATE, &nested, EINVAL);
    struct kvm_cpuid2 *c = machine_supported_cpuid(p, m.dev);
    for (unsigned i = 0; i < c->nent; i++) { /* no VMX, no SVM */
        const struct kvm_cpuid_entry2 *e = &c->entries[i];
        if (e->function == 1)
            CHECK_EQ(e->ecx & 1u << 5, 0);
        if (e->function == 0x80000001)
            CHECK_EQ(e->ecx & 1u << 2, 0);
    }
}

const struct conform_case cases_today_caps[] = {
    { "triple_fault_event", triple_fault_event },
    { "exception_payload", exception_payload },
    { "exception_without_payload", exception_without_payload },
    { "tsc_offset", tsc_offset },
    { "feature_msrs", feature_msrs },
    { "platform_info", platform_info },
    { "max_vcpu_id", max_vcpu_id },
    { "memory_region2", memory_region2 },
    { "memory_fault_info", memory_fault_info },
    { "not_offered", not_offered },
};
const size_t n_cases_today_caps = sizeof cases_today_caps / sizeof *cases_today_caps;
