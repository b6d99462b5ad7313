/* SPDX-License-Identifier: MIT */
/*
 * The calls of 2007 without running a guest: return codes, errno, structs that come back as they went in.
 */
#include "tests/conform/machine2007.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void device_calls(const struct peer *p)
{
    int dev = p->port->open("/dev/kvm");
    REQUIRE(dev >= 0);
    CHECK_EQ(CALL(dev, GET_API_VERSION, 0), 12);
    CHECK_ERRNO(dev, GET_API_VERSION, 1, EINVAL);
    CHECK(CALL(dev, GET_VCPU_MMAP_SIZE, 0) >= 4096);
    CHECK_ERRNO(dev, GET_VCPU_MMAP_SIZE, 1, EINVAL);
    CHECK_EQ(CALL(dev, CHECK_EXTENSION, 0x7fff), 0);
    CHECK_ERRNO(dev, CREATE_VM, 0x12345, EINVAL);
    CHECK_ERRNO(dev, 0xaeff, 0, EINVAL);
    CHECK_ERRNO(dev, RUN, 0, EINVAL);
    CHECK_EQ(p->port->close(dev), 0);
}

static void msr_index_list(const struct peer *p)
{
    int dev = p->port->open("/dev/kvm");
    REQUIRE(dev >= 0);
    struct {
        uint32_t n, index[1024];
    } *list = calloc(1, sizeof *list);
    list->n = 0;
    CHECK_ERRNO(dev, GET_MSR_INDEX_LIST, list, E2BIG);
    uint32_t n = list->n;
    CHECK(n > 10 && n < 1024);
    list->n = 1024;
    CALL(dev, GET_MSR_INDEX_LIST, list);
    CHECK_EQ(list->n, n);
    const uint32_t must[] = { 0x174, 0x175, 0x176, 0xc0000081, 0xc0000082, 0xc0000084, 0xc0000102, 0x10 };
    for (size_t i = 0; i < sizeof must / sizeof *must; i++) {
        bool found = false;
        for (uint32_t k = 0; k < n; k++)
            found |= list->index[k] == must[i];
        if (!found)
            conform_fail(__FILE__, __LINE__, "MSR %#x is not in the list", must[i]);
    }
    CHECK_ERRNO(dev, GET_MSR_INDEX_LIST, 8, EFAULT);
}

static void vm_calls(const struct peer *p)
{
    int dev = p->port->open("/dev/kvm");
    int vm = CALL(dev, CREATE_VM, 0);
    int vcpu = CALL(vm, CREATE_VCPU, 0);
    CHECK_ERRNO(vm, CREATE_VCPU, 0, EEXIST);
    CHECK_ERRNO(vm, CREATE_VCPU, 0x7fffffff, EINVAL);
    CHECK_ERRNO(vm, 0xaeff, 0, ENOTTY);
    CHECK_ERRNO(vcpu, 0xaeff, 0, EINVAL);
    CHECK_ERRNO(vcpu, RUN, 1, EINVAL);
    /* The VM lives while a vCPU fd does. */
    CHECK_EQ(p->port->close(vm), 0);
    CHECK_EQ(p->port->close(dev), 0);
    struct regs r;
    CHECK_ERRNO(vcpu, GET_REGS, &r, 0);
    CHECK_EQ(p->port->close(vcpu), 0);
    CHECK_ERRNO(vcpu, GET_REGS, &r, EBADF);
}

static void memory_region(const struct peer *p)
{
    int dev = p->port->open("/dev/kvm");
    int vm = CALL(dev, CREATE_VM, 0);
    struct memory_region a = { .slot = 0, .memory_size = 0x10000 };
    if (p->port->ioctl(vm, SET_MEMORY_REGION, &a) < 0) {
        if (p->is_host)
            conform_skip("this kernel has no KVM_SET_MEMORY_REGION (%s)", strerrorname_np(errno));
        conform_fail(__FILE__, __LINE__, "SET_MEMORY_REGION: %s", strerrorname_np(errno));
        conform_stop();
    }
    struct memory_region high = { .slot = 1, .guest_phys_addr = 0x100000, .memory_size = 0x20000 };
    CHECK_ERRNO(vm, SET_MEMORY_REGION, &high, 0);
    struct memory_region overlap = { .slot = 2, .guest_phys_addr = 0x110000, .memory_size = 0x20000 };
    CHECK_ERRNO(vm, SET_MEMORY_REGION, &overlap, EEXIST);
    struct memory_region odd = { .slot = 2, .guest_phys_addr = 0x200010, .memory_size = 0x1000 };
    CHECK_ERRNO(vm, SET_MEMORY_REGION, &odd, EINVAL);
    odd = (struct memory_region){ .slot = 2, .guest_phys_addr = 0x200000, .memory_size = 0x1001 };
    CHECK_ERRNO(vm, SET_MEMORY_REGION, &odd, EINVAL);
    odd = (struct memory_region){ .slot = 0x7fffffff, .guest_phys_addr = 0x200000, .memory_size = 0x1000 };
    CHECK_ERRNO(vm, SET_MEMORY_REGION, &odd, EINVAL);
    odd = (struct memory_region){ .slot = 2, .guest_phys_addr = 0xfffffffffffff000, .memory_size = 0x2000 };
    CHECK_ERRNO(vm, SET_MEMORY_REGION, &odd, EINVAL);
    CHECK_ERRNO(vm, SET_MEMORY_REGION, 8, EFAULT);

    /* The VM fd's offsets are guest-physical addresses; both mappings are the same memory. */
    uint8_t *low = p->port->mmap(0x10000, PROT_READ | PROT_WRITE, MAP_SHARED, vm, 0);
    uint8_t *up = p->port->mmap(0x20000, PROT_READ | PROT_WRITE, MAP_SHARED, vm, 0x100000);
    uint8_t *again = p->port->mmap(0x1000, PROT_READ | PROT_WRITE, MAP_SHARED, vm, 0x101000);
    REQUIRE(low != MAP_FAILED && up != MAP_FAILED && again != MAP_FAILED);
    CHECK_EQ(low[0x5000], 0);
    up[0x1234] = 0xab;
    CHECK_EQ(again[0x234], 0xab);

    /* Deleting frees the range for another slot, whose memory is zero. */
    high.memory_size = 0;
    CHECK_ERRNO(vm, SET_MEMORY_REGION, &high, 0);
    CHECK_ERRNO(vm, SET_MEMORY_REGION, &overlap, 0);
    uint8_t *fresh = p->port->mmap(0x20000, PROT_READ | PROT_WRITE, MAP_SHARED, vm, 0x110000);
    REQUIRE(fresh != MAP_FAILED);
    CHECK_EQ(fresh[0], 0);
}

static void memory_alias_errors(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct memory_alias a = { .slot = 0, .guest_phys_addr = 0xa0000, .memory_size = 0x8000, .target_phys_addr = 0x10000 };
    if (p->port->ioctl(m.vm, SET_MEMORY_ALIAS, &a) < 0) {
        if (p->is_host)
            conform_skip("this kernel has no KVM_SET_MEMORY_ALIAS (%s)", strerrorname_np(errno));
        conform_fail(__FILE__, __LINE__, "SET_MEMORY_ALIAS: %s", strerrorname_np(errno));
        conform_stop();
    }
    a.slot = 4;
    CHECK_ERRNO(m.vm, SET_MEMORY_ALIAS, &a, EINVAL);
    a.slot = 1;
    a.guest_phys_addr = 0xb0001;
    CHECK_ERRNO(m.vm, SET_MEMORY_ALIAS, &a, EINVAL);
    a.guest_phys_addr = 0xb0000;
    a.memory_size = 0x801;
    CHECK_ERRNO(m.vm, SET_MEMORY_ALIAS, &a, EINVAL);
    a.memory_size = 0x2000;
    a.guest_phys_addr = 0xfffffffffffff000;
    CHECK_ERRNO(m.vm, SET_MEMORY_ALIAS, &a, EINVAL);
    a.guest_phys_addr = 0xb0000;
    a.target_phys_addr = 0xfffffffffffff000;
    CHECK_ERRNO(m.vm, SET_MEMORY_ALIAS, &a, EINVAL);
    a = (struct memory_alias){ .slot = 0 };
    CHECK_ERRNO(m.vm, SET_MEMORY_ALIAS, &a, 0);
}

static void regs_round_trip(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct regs r = machine_regs(&m, p);
    CHECK_EQ(r.rip, 0xfff0);
    CHECK_EQ(r.rflags, 2);
    uint64_t *word = (uint64_t *)&r;
    for (unsigned i = 0; i < 17; i++)
        word[i] = 0x1111111111111111ull * (i + 1) >> 1;
    r.rip = 0x1000;
    r.rflags = 0x246;
    CALL(m.vcpu, SET_REGS, &r);
    struct regs back = machine_regs(&m, p);
    CHECK_BYTES(&back, &r, sizeof r);
    CHECK_ERRNO(m.vcpu, SET_REGS, 8, EFAULT);
    CHECK_ERRNO(m.vcpu, GET_REGS, 8, EFAULT);
}

static void sregs_reset_and_round_trip(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct sregs s, back;
    CALL(m.vcpu, GET_SREGS, &s);
    CHECK_EQ(s.cs.base, 0xffff0000);
    CHECK_EQ(s.cs.selector, 0xf000);
    CHECK_EQ(s.cs.limit, 0xffff);
    CHECK_EQ(s.ds.base, 0);
    CHECK_EQ(s.cr0, 0x60000010);
    CHECK_EQ(s.efer, 0);
    CHECK_EQ(s.cr4, 0);
    CHECK_EQ(s.idt.limit, 0xffff);
    CHECK_EQ(s.gdt.limit, 0xffff);
    CHECK_EQ(s.apic_base & ~0xfffull & ~0ull, 0xfee00000);
    CHECK_EQ(s.tr.present, 1);
    s.gdt = (struct dtable){ .base = 0x6000, .limit = 0x7f };
    s.idt = (struct dtable){ .base = 0x6800, .limit = 0x3ff };
    s.cr2 = 0xdeadbeef000;
    s.cr8 = 5;
    s.fs.base = 0x12345;
    s.fs.selector = 0x50;
    CALL(m.vcpu, SET_SREGS, &s);
    CALL(m.vcpu, GET_SREGS, &back);
    CHECK_BYTES(&back, &s, sizeof s);
    /* Long mode needs PAE. */
    struct sregs bad = s;
    bad.cr0 = 0x80000011;
    bad.efer = 0x500;
    bad.cr4 = 0;
    CHECK_ERRNO(m.vcpu, SET_SREGS, &bad, EINVAL);
}

static void fpu_round_trip(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct fpu f, back;
    CALL(m.vcpu, GET_FPU, &f);
    CHECK_EQ(f.fcw, 0x37f);
    for (unsigned i = 0; i < 8; i++)
        for (unsigned k = 0; k < 10; k++)
            f.fpr[i][k] = (uint8_t)(i * 16 + k);
    for (unsigned i = 0; i < 16; i++)
        memset(f.xmm[i], 0x40 + (int)i, 16);
    f.fcw = 0x27f;
    f.fsw = 0x3800;
    f.ftwx = 0xf0;
    f.mxcsr = 0x1fa0;
    f.last_opcode = 0x123;
    f.last_ip = 0x1234567;
    f.last_dp = 0x7654321;
    CALL(m.vcpu, SET_FPU, &f);
    CALL(m.vcpu, GET_FPU, &back);
    /* The kernel has never transferred MXCSR by this call, whatever the struct promises: both ways are right, but no third. */
    CHECK(back.mxcsr == 0 || back.mxcsr == f.mxcsr);
    f.mxcsr = back.mxcsr;
    f.pad1 = back.pad1;
    f.pad2 = back.pad2;
    CHECK_BYTES(&back, &f, sizeof f);
}

static void msrs_calls(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct {
        uint32_t n, pad;
        struct msr_entry e[4];
    } s = { 4, 0, { { 0x174, 0, 0x10 }, { 0xc0000081, 0, 0x0023001000000000 }, { 0xc0000102, 0, 0x7fff12345000 }, { 0xc0000082, 0, 0x401000 } } }, g;
    CHECK_EQ(CALL(m.vcpu, SET_MSRS, &s), 4);
    memset(&g, 0, sizeof g);
    g.n = 4;
    for (unsigned i = 0; i < 4; i++)
        g.e[i].index = s.e[i].index;
    CHECK_EQ(CALL(m.vcpu, GET_MSRS, &g), 4);
    CHECK_BYTES(&g, &s, sizeof s);
    /* Stops at the first that it does not know; says how many were done. */
    g.e[2].index = 0x4fffff00;
    CHECK_EQ(CALL(m.vcpu, GET_MSRS, &g), 2);
    /* A non-canonical base faults in the guest, so it is refused here. */
    s.e[2].data = 0x8000000000000000;
    CHECK_EQ(CALL(m.vcpu, SET_MSRS, &s), 2);
    s.n = 0x7fffffff;
    CHECK_ERRNO(m.vcpu, SET_MSRS, &s, E2BIG);
    CHECK_ERRNO(m.vcpu, GET_MSRS, &s, E2BIG);
}

static void cpuid_limits(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct {
        uint32_t n, pad;
        struct cpuid_entry_2007 e[2];
    } c = { 2, 0, { { 0, 1, 0x72746976, 0x2e656e69, 0x20656e69, 0 }, { 1, 0x600, 0, 0, 0x1 << 0, 0 } } };
    CHECK_ERRNO(m.vcpu, SET_CPUID, &c, 0);
    c.n = 0x10000;
    CHECK_ERRNO(m.vcpu, SET_CPUID, &c, E2BIG);
    c.n = 0;
    CHECK_ERRNO(m.vcpu, SET_CPUID, &c, 0);
}

static void signal_mask_errors(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct {
        uint32_t len;
        uint8_t set[8];
    } mask = { 4, { 0 } };
    CHECK_ERRNO(m.vcpu, SET_SIGNAL_MASK, &mask, EINVAL);
    mask.len = 8;
    CHECK_ERRNO(m.vcpu, SET_SIGNAL_MASK, &mask, 0);
    CHECK_ERRNO(m.vcpu, SET_SIGNAL_MASK, NULL, 0);
}

static void dirty_log_errors(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    uint64_t bits[RAM_BYTES / 4096 / 64];
    struct dirty_log log = { .slot = 3, .bitmap = bits };
    CHECK_ERRNO(m.vm, GET_DIRTY_LOG, &log, ENOENT);
    log.slot = 0x7fff;
    CHECK_ERRNO(m.vm, GET_DIRTY_LOG, &log, EINVAL);
    log.slot = 0;
    CHECK_ERRNO(m.vm, GET_DIRTY_LOG, &log, 0);
    if (!m.has_2007_slot)
        return;
    struct memory_region plain = { .slot = 1, .guest_phys_addr = 0x100000, .memory_size = 0x10000 };
    CALL(m.vm, SET_MEMORY_REGION, &plain);
    log.slot = 1;
    int got = p->port->ioctl(m.vm, GET_DIRTY_LOG, &log);
    CHECK(got < 0 && (errno == EINVAL || errno == ENOENT));
}

static void translate_real_mode(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct translation_2007 t = { .linear = 0x12345 };
    CALL(m.vcpu, TRANSLATE, &t);
    CHECK_EQ(t.valid, 1);
    CHECK_EQ(t.physical, 0x12345);
}

const struct conform_case cases_2007_calls[] = {
    { "device_calls", device_calls },
    { "msr_index_list", msr_index_list },
    { "vm_calls", vm_calls },
    { "memory_region", memory_region },
    { "memory_alias_errors", memory_alias_errors },
    { "regs_round_trip", regs_round_trip },
    { "sregs_reset_and_round_trip", sregs_reset_and_round_trip },
    { "fpu_round_trip", fpu_round_trip },
    { "msrs_calls", msrs_calls },
    { "cpuid_limits", cpuid_limits },
    { "signal_mask_errors", signal_mask_errors },
    { "dirty_log_errors", dirty_log_errors },
    { "translate_real_mode", translate_real_mode },
};
const size_t n_cases_2007_calls = sizeof cases_2007_calls / sizeof *cases_2007_calls;
