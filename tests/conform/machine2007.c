/* SPDX-License-Identifier: MIT */
/*
 * Building the 2007 machine. A peer without KVM_SET_MEMORY_REGION (today's kernels) gets its memory by the call that replaced it, so that everything else of
 * the old ABI can still be compared.
 */
#include "tests/conform/machine2007.h"

#include <string.h>
#include <sys/mman.h>

/* Only for such peers; a program of 2007 does not know it. */
#define SET_USER_MEMORY_REGION 0x4020ae46ul

static void machine_add_ram(struct machine *m, const struct peer *p)
{
    struct memory_region region = { .slot = 0, .flags = LOG_DIRTY_PAGES, .memory_size = RAM_BYTES };
    m->has_2007_slot = p->port->ioctl(m->vm, SET_MEMORY_REGION, &region) == 0;
    if (m->has_2007_slot) {
        m->ram = p->port->mmap(RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->vm, 0);
        REQUIRE(m->ram != MAP_FAILED);
        return;
    }
    REQUIRE(p->is_host);
    m->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(m->ram != MAP_FAILED);
    struct {
        uint32_t slot, flags;
        uint64_t gpa, bytes, hva;
    } user = { 0, LOG_DIRTY_PAGES, 0, RAM_BYTES, (uintptr_t)m->ram };
    CALL(m->vm, SET_USER_MEMORY_REGION, &user);
}

void machine_create(struct machine *m, const struct peer *p)
{
    memset(m, 0, sizeof *m);
    m->dev = p->port->open("/dev/kvm");
    REQUIRE(m->dev >= 0);
    REQUIRE_EQ(CALL(m->dev, GET_API_VERSION, 0), 12);
    m->vm = CALL(m->dev, CREATE_VM, 0);
    machine_add_ram(m, p);
    m->vcpu = CALL(m->vm, CREATE_VCPU, 0);
    int bytes = CALL(m->dev, GET_VCPU_MMAP_SIZE, 0);
    REQUIRE(bytes >= (int)sizeof(struct run));
    m->run = p->port->mmap((size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
    REQUIRE((void *)m->run != MAP_FAILED);
}

void machine_load(struct machine *m, const struct peer *p, const uint8_t *code, size_t bytes)
{
    memcpy(m->ram + CODE_AT, code, bytes);
    struct sregs s;
    CALL(m->vcpu, GET_SREGS, &s);
    s.cs.base = 0;
    s.cs.selector = 0;
    CALL(m->vcpu, SET_SREGS, &s);
    struct regs r = { .rip = CODE_AT, .rsp = 0x7000, .rflags = 2 };
    CALL(m->vcpu, SET_REGS, &r);
}

static void segment_flat(struct segment_2007 *s, uint16_t selector, bool is_code, unsigned bits)
{
    *s = (struct segment_2007){ .limit = 0xffffffff,
                                .selector = selector,
                                .type = is_code ? 11 : 3,
                                .present = 1,
                                .s = 1,
                                .g = 1,
                                .db = !(is_code && bits == 64),
                                .l = is_code && bits == 64 };
}

void machine_flat(struct machine *m, const struct peer *p, unsigned bits, uint64_t cr3)
{
    struct sregs s;
    CALL(m->vcpu, GET_SREGS, &s);
    segment_flat(&s.cs, 8, true, bits);
    struct segment_2007 *data[] = { &s.ds, &s.es, &s.fs, &s.gs, &s.ss };
    for (size_t i = 0; i < sizeof data / sizeof *data; i++)
        segment_flat(data[i], 16, false, bits);
    s.tr = (struct segment_2007){ .base = 0x5000, .limit = 0x67, .selector = 24, .type = 11, .present = 1 };
    s.cr0 = 0x31 | (cr3 ? 0x80010000 : 0);
    s.cr3 = cr3;
    if (bits == 64) {
        s.cr4 = 0x620; /* PAE, OSFXSR, OSXMMEXCPT */
        s.efer = 0x501;
    }
    CALL(m->vcpu, SET_SREGS, &s);
}

void machine_run(struct machine *m, const struct peer *p, uint32_t want_exit, const char *file, int line)
{
    int got = p->port->ioctl(m->vcpu, RUN, 0);
    if (got < 0) {
        conform_fail(file, line, "RUN: %s", strerrorname_np(errno));
        conform_stop();
    }
    if (m->run->exit_reason != want_exit) {
        struct regs r = machine_regs(m, p);
        conform_fail(file, line, "exit %u at rip %#llx, want exit %u", m->run->exit_reason, (unsigned long long)r.rip, want_exit);
        conform_stop();
    }
}

struct regs machine_regs(struct machine *m, const struct peer *p)
{
    struct regs r;
    CALL(m->vcpu, GET_REGS, &r);
    return r;
}

void machine_set_regs(struct machine *m, const struct peer *p, const struct regs *r)
{
    CALL(m->vcpu, SET_REGS, r);
}

uint8_t *machine_io_data(struct machine *m)
{
    return (uint8_t *)m->run + m->run->io.data_offset;
}
