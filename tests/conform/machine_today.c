/* SPDX-License-Identifier: MIT */
/*
 * Building today's machine.
 */
#include "tests/conform/machine_today.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

void *pages_of_client(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(at != MAP_FAILED);
    return at;
}

void machine_set_slot(struct machine *m, const struct peer *p, uint32_t slot, uint32_t flags, uint64_t gpa, uint64_t bytes, void *at)
{
    struct kvm_userspace_memory_region region = { .slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = bytes, .userspace_addr = (uintptr_t)at };
    CALL(m->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

int machine_add_vcpu(struct machine *m, const struct peer *p, unsigned id, struct kvm_run **run)
{
    int fd = CALL(m->vm, KVM_CREATE_VCPU, (unsigned long)id);
    int bytes = CALL(m->dev, KVM_GET_VCPU_MMAP_SIZE, 0);
    *run = p->port->mmap((size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REQUIRE((void *)*run != MAP_FAILED);
    return fd;
}

void machine_create(struct machine *m, const struct peer *p, unsigned with)
{
    memset(m, 0, sizeof *m);
    m->dev = p->port->open("/dev/kvm");
    REQUIRE(m->dev >= 0);
    m->vm = CALL(m->dev, KVM_CREATE_VM, 0);
    if (with & WITH_IRQCHIP)
        CALL(m->vm, KVM_CREATE_IRQCHIP, 0);
    if (with & WITH_SPLIT) {
        struct kvm_enable_cap cap = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { 24 } };
        CALL(m->vm, KVM_ENABLE_CAP, &cap);
    }
    if (with & WITH_PIT) {
        struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
        CALL(m->vm, KVM_CREATE_PIT2, &pit);
    }
    m->ram = pages_of_client(RAM_BYTES);
    machine_set_slot(m, p, 0, 0, 0, RAM_BYTES, m->ram);
    m->vcpu = machine_add_vcpu(m, p, 0, &m->run);
}

void machine_load(struct machine *m, const struct peer *p, const uint8_t *code, size_t bytes)
{
    memcpy(m->ram + CODE_AT, code, bytes);
    struct kvm_sregs s;
    CALL(m->vcpu, KVM_GET_SREGS, &s);
    s.cs.base = 0;
    s.cs.selector = 0;
    CALL(m->vcpu, KVM_SET_SREGS, &s);
    struct kvm_regs r = { .rip = CODE_AT, .rsp = 0x7000, .rflags = 2 };
    CALL(m->vcpu, KVM_SET_REGS, &r);
}

void machine_set_ds(struct machine *m, const struct peer *p, uint16_t selector)
{
    struct kvm_sregs s;
    CALL(m->vcpu, KVM_GET_SREGS, &s);
    s.ds.selector = selector;
    s.ds.base = (uint32_t)selector << 4;
    CALL(m->vcpu, KVM_SET_SREGS, &s);
}

void machine_run(struct machine *m, const struct peer *p, uint32_t want_exit, const char *file, int line)
{
    int got = p->port->ioctl(m->vcpu, KVM_RUN, 0);
    if (got < 0) {
        conform_fail(file, line, "KVM_RUN: %s", strerrorname_np(errno));
        conform_stop();
    }
    if (m->run->exit_reason != want_exit) {
        struct kvm_regs r = machine_regs(m, p);
        conform_fail(file, line, "exit %u at rip %#llx, want exit %u", m->run->exit_reason, r.rip, want_exit);
        conform_stop();
    }
}

struct kvm_regs machine_regs(struct machine *m, const struct peer *p)
{
    struct kvm_regs r;
    CALL(m->vcpu, KVM_GET_REGS, &r);
    return r;
}

int machine_need(struct machine *m, const struct peer *p, unsigned capability, const char *name)
{
    int got = p->port->ioctl(m->dev, KVM_CHECK_EXTENSION, (void *)(uintptr_t)capability);
    if (got <= 0)
        conform_skip("%s is not offered", name);
    return got;
}

struct kvm_cpuid2 *machine_supported_cpuid(const struct peer *p, int dev)
{
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + 256 * sizeof c->entries[0]);
    c->nent = 256;
    CALL(dev, KVM_GET_SUPPORTED_CPUID, c);
    return c;
}

uint64_t machine_msr(struct machine *m, const struct peer *p, uint32_t index)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry e;
    } one = { { .nmsrs = 1 }, { .index = index } };
    CHECK_EQ(CALL(m->vcpu, KVM_GET_MSRS, &one), 1);
    return one.e.data;
}
