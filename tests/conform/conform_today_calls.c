/* SPDX-License-Identifier: MIT */
/*
 * Today's calls on the device, the VM's memory and the vCPU's state, without running a guest.
 */
#include "tests/conform/machine_today.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void capabilities(const struct peer *p)
{
    int dev = p->port->open("/dev/kvm");
    REQUIRE(dev >= 0);
    const unsigned must[] = { KVM_CAP_IRQCHIP,
                              KVM_CAP_USER_MEMORY,
                              KVM_CAP_DESTROY_MEMORY_REGION_WORKS,
                              KVM_CAP_JOIN_MEMORY_REGIONS_WORKS,
                              KVM_CAP_SET_TSS_ADDR,
                              KVM_CAP_EXT_CPUID,
                              KVM_CAP_MP_STATE,
                              KVM_CAP_PIT2,
                              KVM_CAP_PIT_STATE2,
                              KVM_CAP_IRQ_ROUTING,
                              KVM_CAP_IRQ_INJECT_STATUS,
                              KVM_CAP_IRQFD,
                              KVM_CAP_IOEVENTFD,
                              KVM_CAP_SIGNAL_MSI,
                              KVM_CAP_SYNC_MMU,
                              KVM_CAP_ADJUST_CLOCK,
                              KVM_CAP_VCPU_EVENTS,
                              KVM_CAP_DEBUGREGS,
                              KVM_CAP_XSAVE,
                              KVM_CAP_XCRS,
                              KVM_CAP_SET_GUEST_DEBUG,
                              KVM_CAP_IMMEDIATE_EXIT,
                              KVM_CAP_READONLY_MEM,
                              KVM_CAP_GET_TSC_KHZ,
                              KVM_CAP_COALESCED_MMIO };
    for (size_t i = 0; i < sizeof must / sizeof *must; i++)
        if (CALL(dev, KVM_CHECK_EXTENSION, (unsigned long)must[i]) <= 0)
            conform_fail(__FILE__, __LINE__, "capability %u is missing", must[i]);
    CHECK(CALL(dev, KVM_CHECK_EXTENSION, KVM_CAP_NR_MEMSLOTS) >= 32);
    CHECK(CALL(dev, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS) >= 1);
    CHECK(CALL(dev, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS) >= CALL(dev, KVM_CHECK_EXTENSION, KVM_CAP_NR_VCPUS));
    CHECK_EQ(CALL(dev, KVM_CHECK_EXTENSION, KVM_CAP_S390_PSW), 0);
    CHECK_EQ(CALL(dev, KVM_CHECK_EXTENSION, KVM_CAP_PPC_PAPR), 0);
    int vm = CALL(dev, KVM_CREATE_VM, 0);
    if (CALL(dev, KVM_CHECK_EXTENSION, KVM_CAP_CHECK_EXTENSION_VM) > 0)
        CHECK_EQ(CALL(vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP), CALL(dev, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP));
}

static void file_descriptors(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    CHECK_EQ(fcntl(m.vcpu, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    int copy = dup(m.vcpu);
    REQUIRE(copy >= 0);
    struct kvm_regs r;
    CHECK_ERRNO(copy, KVM_GET_REGS, &r, 0);
    CHECK_EQ(p->port->close(m.vcpu), 0);
    CHECK_ERRNO(copy, KVM_GET_REGS, &r, 0);
    CHECK_ERRNO(m.vm, KVM_GET_REGS, &r, ENOTTY);
    CHECK_ERRNO(m.dev, KVM_GET_REGS, &r, EINVAL);
    CHECK_ERRNO(copy, KVM_CREATE_VCPU, 1, EINVAL);
    /* The fds are closed on exec. */
    CHECK_EQ(fcntl(m.vm, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

static void user_memory(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    uint8_t *more = pages_of_client(0x40000);
    struct kvm_userspace_memory_region r = { .slot = 1, .guest_phys_addr = 0x100000, .memory_size = 0x20000, .userspace_addr = (uintptr_t)more };
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &r, 0);
    struct kvm_userspace_memory_region bad = r;
    bad.slot = 2;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EEXIST);
    bad.guest_phys_addr = 0x300001;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EINVAL);
    bad.guest_phys_addr = 0x300000;
    bad.memory_size = 0x1001;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EINVAL);
    bad.memory_size = 0x1000;
    bad.userspace_addr += 1;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EINVAL);
    bad.userspace_addr -= 1;
    bad.slot = 0x7fff;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EINVAL);
    bad.slot = 2;
    bad.flags = 0x80000000;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EINVAL);
    bad.flags = 0;
    bad.guest_phys_addr = 0xfffffffffffff000;
    bad.memory_size = 0x2000;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EINVAL);
    bad = (struct kvm_userspace_memory_region){ .slot = 5 };
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EINVAL);
    /* A slot cannot change its size or its memory; it can change flags and move. */
    bad = r;
    bad.memory_size = 0x10000;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EINVAL);
    bad = r;
    bad.userspace_addr += 0x1000;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &bad, EINVAL);
    r.guest_phys_addr = 0x200000;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &r, 0);
    r.flags = KVM_MEM_LOG_DIRTY_PAGES;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &r, 0);
    uint64_t bits[1];
    struct kvm_dirty_log log = { .slot = 1, .dirty_bitmap = bits };
    CHECK_ERRNO(m.vm, KVM_GET_DIRTY_LOG, &log, 0);
    r.flags = KVM_MEM_READONLY;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &r, EINVAL);
    r.flags = 0;
    r.memory_size = 0;
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, &r, 0);
    CHECK_ERRNO(m.vm, KVM_GET_DIRTY_LOG, &log, ENOENT);
    CHECK_ERRNO(m.vm, KVM_SET_USER_MEMORY_REGION, 8, EFAULT);
}

static void cpuid2(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + 256 * sizeof c->entries[0]);
    c->nent = 1;
    CHECK_ERRNO(m.dev, KVM_GET_SUPPORTED_CPUID, c, E2BIG);
    free(c);
    c = machine_supported_cpuid(p, m.dev);
    CHECK(c->nent > 10);
    const struct kvm_cpuid_entry2 *leaf1 = NULL;
    for (unsigned i = 0; i < c->nent; i++)
        if (c->entries[i].function == 1)
            leaf1 = &c->entries[i];
    REQUIRE(leaf1);
    CHECK_EQ(leaf1->edx & 0x07808111, 0x07808111 & leaf1->edx);
    CHECK_EQ(leaf1->edx >> 25 & 3, 3); /* SSE, SSE2 */
    CHECK_ERRNO(m.vcpu, KVM_SET_CPUID2, c, 0);
    struct kvm_cpuid2 *back = calloc(1, sizeof *back + 256 * sizeof back->entries[0]);
    back->nent = 1;
    CHECK_ERRNO(m.vcpu, KVM_GET_CPUID2, back, E2BIG);
    c->nent = 100000;
    CHECK_ERRNO(m.vcpu, KVM_SET_CPUID2, c, E2BIG);
}

static void get_cpuid2_count(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    struct kvm_cpuid2 *c = machine_supported_cpuid(p, m.dev);
    CALL(m.vcpu, KVM_SET_CPUID2, c);
    struct kvm_cpuid2 *back = calloc(1, sizeof *back + 256 * sizeof back->entries[0]);
    back->nent = 1;
    CHECK_ERRNO(m.vcpu, KVM_GET_CPUID2, back, E2BIG);
    CHECK_EQ(back->nent, c->nent);
    back->nent = 256;
    CHECK_ERRNO(m.vcpu, KVM_GET_CPUID2, back, 0);
    CHECK_EQ(back->nent, c->nent);
}

/* Whatever the lists and GET_MSRS report is accepted back: QEMU aborts otherwise. */
static void msrs_accept_what_they_report(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    CALL(m.vcpu, KVM_SET_CPUID2, machine_supported_cpuid(p, m.dev));
    struct {
        uint32_t n, index[1024];
    } *list = calloc(1, sizeof *list);
    list->n = 1024;
    CALL(m.dev, KVM_GET_MSR_INDEX_LIST, list);
    for (uint32_t i = 0; i < list->n; i++) {
        struct {
            struct kvm_msrs head;
            struct kvm_msr_entry e;
        } one = { { .nmsrs = 1 }, { .index = list->index[i] } };
        if (CALL(m.vcpu, KVM_GET_MSRS, &one) != 1)
            continue; /* in the list for other CPUs */
        if (CALL(m.vcpu, KVM_SET_MSRS, &one) != 1)
            conform_fail(__FILE__, __LINE__, "MSR %#x reports %#llx and refuses it", list->index[i], one.e.data);
    }
}

static void mp_state(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    struct kvm_run *run;
    int second = machine_add_vcpu(&m, p, 1, &run);
    struct kvm_mp_state s;
    CALL(m.vcpu, KVM_GET_MP_STATE, &s);
    CHECK_EQ(s.mp_state, KVM_MP_STATE_RUNNABLE);
    CALL(second, KVM_GET_MP_STATE, &s);
    CHECK_EQ(s.mp_state, KVM_MP_STATE_UNINITIALIZED);
    s.mp_state = KVM_MP_STATE_RUNNABLE;
    CHECK_ERRNO(second, KVM_SET_MP_STATE, &s, 0);
    CALL(second, KVM_GET_MP_STATE, &s);
    CHECK_EQ(s.mp_state, KVM_MP_STATE_RUNNABLE);
    s.mp_state = 77;
    CHECK_ERRNO(second, KVM_SET_MP_STATE, &s, EINVAL);
}

static void vcpu_events(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, WITH_IRQCHIP);
    struct kvm_vcpu_events e, back;
    CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &e);
    CHECK_EQ(e.nmi.pending, 0);
    CHECK_EQ(e.exception.injected, 0);
    e.nmi.pending = 1;
    e.nmi.masked = 1;
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    e.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
    CALL(m.vcpu, KVM_SET_VCPU_EVENTS, &e);
    CALL(m.vcpu, KVM_GET_VCPU_EVENTS, &back);
    CHECK_EQ(back.nmi.pending, 1);
    CHECK_EQ(back.nmi.masked, 1);
    e.flags = 0x80000000;
    CHECK_ERRNO(m.vcpu, KVM_SET_VCPU_EVENTS, &e, EINVAL);
}

static void debug_registers(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    struct kvm_debugregs d, back;
    CALL(m.vcpu, KVM_GET_DEBUGREGS, &d);
    CHECK_EQ(d.dr6, 0xffff0ff0);
    CHECK_EQ(d.dr7, 0x400);
    d.db[0] = 0x1000;
    d.db[3] = 0x401234;
    d.dr7 = 0x403;
    CALL(m.vcpu, KVM_SET_DEBUGREGS, &d);
    CALL(m.vcpu, KVM_GET_DEBUGREGS, &back);
    CHECK_BYTES(&back, &d, sizeof d);
    d.flags = 1;
    CHECK_ERRNO(m.vcpu, KVM_SET_DEBUGREGS, &d, EINVAL);
}

static void xsave_and_xcrs(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    CALL(m.vcpu, KVM_SET_CPUID2, machine_supported_cpuid(p, m.dev));
    struct kvm_xcrs x;
    CALL(m.vcpu, KVM_GET_XCRS, &x);
    if (x.nr_xcrs) {
        CHECK_EQ(x.xcrs[0].xcr, 0);
        CHECK_EQ(x.xcrs[0].value, 1);
        x.xcrs[0].value = 3;
        CHECK_ERRNO(m.vcpu, KVM_SET_XCRS, &x, 0);
        x.xcrs[0].value = 2; /* x87 cannot be off */
        CHECK_ERRNO(m.vcpu, KVM_SET_XCRS, &x, EINVAL);
    }
    struct kvm_xsave *a = calloc(1, sizeof *a), *b = calloc(1, sizeof *b);
    CALL(m.vcpu, KVM_GET_XSAVE, a);
    uint8_t *image = (uint8_t *)a->region;
    uint64_t in_use;
    memcpy(&in_use, image + 512, 8);
    in_use |= 3;
    memcpy(image + 512, &in_use, 8);
    memcpy(image + 24, "\x80\x1f\0\0", 4);
    memset(image + 160, 0x5c, 16); /* XMM0 */
    CALL(m.vcpu, KVM_SET_XSAVE, a);
    CALL(m.vcpu, KVM_GET_XSAVE, b);
    CHECK_BYTES((uint8_t *)b->region + 160, image + 160, 32);
    struct kvm_fpu f;
    CALL(m.vcpu, KVM_GET_FPU, &f);
    CHECK_BYTES(f.xmm[0], image + 160, 16);
    /* A component that the CPU does not have is refused. */
    in_use |= 1ull << 60;
    memcpy(image + 512, &in_use, 8);
    CHECK_ERRNO(m.vcpu, KVM_SET_XSAVE, a, EINVAL);
}

static void sregs2(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_SREGS2);
    struct kvm_sregs2 s, back;
    CALL(m.vcpu, KVM_GET_SREGS2, &s);
    CHECK_EQ(s.cs.base, 0xffff0000);
    s.fs.base = 0x1234;
    CALL(m.vcpu, KVM_SET_SREGS2, &s);
    CALL(m.vcpu, KVM_GET_SREGS2, &back);
    CHECK_BYTES(&back, &s, sizeof s);
}

static void lapic_state(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    struct kvm_lapic_state s;
    CHECK_ERRNO(m.vcpu, KVM_GET_LAPIC, &s, EINVAL);
    struct machine c;
    machine_create(&c, p, WITH_IRQCHIP);
    CALL(c.vcpu, KVM_GET_LAPIC, &s);
    CHECK_EQ((uint8_t)s.regs[0x30], 0x14);
    CHECK_EQ((uint8_t)s.regs[0x20 + 3], 0); /* id 0 */
    s.regs[0x80] = 0x20;
    struct kvm_lapic_state back;
    CALL(c.vcpu, KVM_SET_LAPIC, &s);
    CALL(c.vcpu, KVM_GET_LAPIC, &back);
    CHECK_EQ(back.regs[0x80], 0x20);
    uint32_t irq = 0x30;
    CHECK_ERRNO(c.vcpu, KVM_INTERRUPT, &irq, ENXIO);
}

static void tsc_khz(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    NEED(KVM_CAP_GET_TSC_KHZ);
    CHECK(CALL(m.vcpu, KVM_GET_TSC_KHZ, 0) > 100000);
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry e;
    } one = { { .nmsrs = 1 }, { .index = 0x10 } };
    CHECK_EQ(CALL(m.vcpu, KVM_GET_MSRS, &one), 1);
    uint64_t first = one.e.data;
    CHECK_EQ(CALL(m.vcpu, KVM_GET_MSRS, &one), 1);
    CHECK(one.e.data > first);
}

static void vm_clock(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    struct kvm_clock_data c = { .clock = 0 };
    CALL(m.vm, KVM_GET_CLOCK, &c);
    struct kvm_clock_data set = { .clock = 5000000000000ull };
    CHECK_ERRNO(m.vm, KVM_SET_CLOCK, &set, 0);
    CALL(m.vm, KVM_GET_CLOCK, &c);
    CHECK(c.clock >= set.clock && c.clock < set.clock + 10000000000ull);
    set.flags = 0x80000000;
    CHECK_ERRNO(m.vm, KVM_SET_CLOCK, &set, EINVAL);
}

static void set_up_calls_of_qemu(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p, 0);
    CHECK_ERRNO(m.vm, KVM_SET_TSS_ADDR, 0xfeffd000, 0);
    int dev = p->port->open("/dev/kvm");
    int vm = CALL(dev, KVM_CREATE_VM, 0);
    uint64_t at = 0xfeffc000;
    CHECK_ERRNO(vm, KVM_SET_IDENTITY_MAP_ADDR, &at, 0);
    CHECK_ERRNO(vm, KVM_CREATE_IRQCHIP, 0, 0);
    CHECK_ERRNO(vm, KVM_CREATE_IRQCHIP, 0, EEXIST);
    CHECK_ERRNO(m.vm, KVM_CREATE_IRQCHIP, 0, EINVAL); /* a vCPU is there already */
    uint64_t mce = 0;
    CHECK_ERRNO(dev, KVM_X86_GET_MCE_CAP_SUPPORTED, &mce, 0);
    mce = (mce & ~0xffull) | 10;
    CHECK_ERRNO(m.vcpu, KVM_X86_SETUP_MCE, &mce, 0);
    mce = 0xff;
    CHECK_ERRNO(m.vcpu, KVM_X86_SETUP_MCE, &mce, EINVAL);
    struct kvm_enable_cap cap = { .cap = 0x7fff };
    CHECK_ERRNO(m.vm, KVM_ENABLE_CAP, &cap, EINVAL);
}

const struct conform_case cases_today_calls[] = {
    { "capabilities", capabilities },
    { "file_descriptors", file_descriptors },
    { "user_memory", user_memory },
    { "cpuid2", cpuid2 },
    { "get_cpuid2_count", get_cpuid2_count },
    { "msrs_accept_what_they_report", msrs_accept_what_they_report },
    { "mp_state", mp_state },
    { "vcpu_events", vcpu_events },
    { "debug_registers", debug_registers },
    { "xsave_and_xcrs", xsave_and_xcrs },
    { "sregs2", sregs2 },
    { "lapic_state", lapic_state },
    { "tsc_khz", tsc_khz },
    { "vm_clock", vm_clock },
    { "set_up_calls_of_qemu", set_up_calls_of_qemu },
};
const size_t n_cases_today_calls = sizeof cases_today_calls / sizeof *cases_today_calls;
