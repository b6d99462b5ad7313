/* SPDX-License-Identifier: MIT */
/*
 * Protected mode, paging and long mode through the calls of 2007, and memory that the client changes between runs.
 */
#include "tests/conform/machine2007.h"

#include <string.h>

PAYLOAD(to_protected);
PAYLOAD(paged32);
PAYLOAD(fault32);
PAYLOAD(long);
PAYLOAD(syscall);
PAYLOAD(syscall_entry);
PAYLOAD(cpuid);
PAYLOAD(msr);
PAYLOAD(mmio64);
PAYLOAD(steps);
PAYLOAD(store_xmm);
PAYLOAD(mmio_vector);

#define LOAD(name) machine_load(&m, p, payload_##name, PAYLOAD_BYTES(name))
#define TABLES_AT 0x10000u /* page tables */
#define IDT_AT 0x6000u
#define GDT_AT 0x6800u

static void put64(struct machine *m, uint32_t at, uint64_t value)
{
    memcpy(m->ram + at, &value, 8);
}
static void put32(struct machine *m, uint32_t at, uint32_t value)
{
    memcpy(m->ram + at, &value, 4);
}

static void to_protected(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(to_protected);
    RUN_TO(X_HLT);
    struct regs r = machine_regs(&m, p);
    CHECK_EQ(r.rax, 0x12345678);
    CHECK_EQ(r.rcx, 8);
    CHECK_EQ(r.rdx, 0x30000005);
    CHECK_BYTES(m.ram + DATA_AT, "\x78\x56\x34\x12", 4);
    struct sregs s;
    CALL(m.vcpu, GET_SREGS, &s);
    CHECK_EQ(s.cr0 & 1, 1);
    CHECK_EQ(s.cs.selector, 8);
    CHECK_EQ(s.cs.limit, 0xffffffff);
    CHECK_EQ(s.cs.db, 1);
    CHECK_EQ(s.cs.type, 11);
    CHECK_EQ(s.ds.type, 3);
    CHECK_EQ(s.gdt.limit, 23);
}

/* Two-level tables: the first 4 MiB map to themselves, 0x400000 maps to 0x20000, 0x500000 is not present. */
static void tables_32(struct machine *m)
{
    put32(m, TABLES_AT, TABLES_AT + 0x1007);
    for (unsigned i = 0; i < RAM_BYTES / 4096; i++)
        put32(m, TABLES_AT + 0x1000 + 4 * i, i * 4096 + 7);
    put32(m, TABLES_AT + 4, TABLES_AT + 0x2007);
    put32(m, TABLES_AT + 0x2000, 0x20007);
}

static void descriptors_32(struct machine *m, const struct peer *p)
{
    put64(m, GDT_AT + 8, 0x00cf9b000000ffff);
    put64(m, GDT_AT + 16, 0x00cf93000000ffff);
    put64(m, GDT_AT + 24, 0x00008b0050000067);
    put64(m, IDT_AT + 14 * 8, 0x00008e0000080000 | 0x1100);
    memcpy(m->ram + 0x1100, payload_fault32, PAYLOAD_BYTES(fault32));
    struct sregs s;
    CALL(m->vcpu, GET_SREGS, &s);
    s.gdt = (struct dtable){ .base = GDT_AT, .limit = 31 };
    s.idt = (struct dtable){ .base = IDT_AT, .limit = 0x7ff };
    CALL(m->vcpu, SET_SREGS, &s);
}

static void paging_32(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(paged32);
    tables_32(&m);
    descriptors_32(&m, p);
    machine_flat(&m, p, 32, TABLES_AT);
    put32(&m, 0x20000, 0xcafe);
    put32(&m, 0x20004, 41);
    RUN_TO(X_HLT);
    struct regs r = machine_regs(&m, p);
    CHECK_EQ(r.rax, 0xcafe);
    CHECK_EQ(m.ram[0x20004], 42);
    CHECK_EQ(r.rdx, TABLES_AT);
    CHECK_EQ(r.rbx, 2); /* a write, by the supervisor, to a page that is not present */
    CHECK_EQ(r.rcx, 0x500010);
    CHECK_EQ(r.rsp, 0x7000 - 12);
    CHECK_EQ(m.ram[TABLES_AT + 0x2000] & 0x60, 0x60); /* accessed, dirty */
    struct translation_2007 t = { .linear = 0x400abc };
    CALL(m.vcpu, TRANSLATE, &t);
    CHECK_EQ(t.valid, 1);
    CHECK_EQ(t.physical, 0x20abc);
    t.linear = 0x500000;
    CALL(m.vcpu, TRANSLATE, &t);
    CHECK_EQ(t.valid, 0);
}

/* Four levels, 2 MiB pages: the first identity, linear 0x40000000 to the hole at 0x200000; 0xffff800000000000 to 0. */
static void tables_64(struct machine *m)
{
    put64(m, TABLES_AT, TABLES_AT + 0x1007);
    put64(m, TABLES_AT + 8 * 256, TABLES_AT + 0x1007);
    put64(m, TABLES_AT + 0x1000, TABLES_AT + 0x2007);
    put64(m, TABLES_AT + 0x1008, TABLES_AT + 0x3007);
    put64(m, TABLES_AT + 0x2000, 0x87);
    put64(m, TABLES_AT + 0x3000, 0x200087);
}

static void enter_64(struct machine *m, const struct peer *p)
{
    tables_64(m);
    put64(m, GDT_AT + 8, 0x00af9b000000ffff);
    put64(m, GDT_AT + 16, 0x00cf93000000ffff);
    struct sregs s;
    CALL(m->vcpu, GET_SREGS, &s);
    s.gdt = (struct dtable){ .base = GDT_AT, .limit = 63 };
    s.idt = (struct dtable){ .base = IDT_AT, .limit = 0x7ff };
    CALL(m->vcpu, SET_SREGS, &s);
    machine_flat(m, p, 64, TABLES_AT);
}

static void long_mode(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(long);
    enter_64(&m, p);
    RUN_TO(X_HLT);
    struct regs r = machine_regs(&m, p);
    CHECK_EQ(r.r8, 0x369d0369d0369cd0);
    CHECK_EQ(r.rdx, 0);
    CHECK_EQ(r.r9, 0x400c000000000000);
    CHECK_EQ(r.r10, 0x77);
    CHECK_EQ(r.rsp, 0x7000);
    struct fpu f;
    CALL(m.vcpu, GET_FPU, &f);
    CHECK_BYTES(f.xmm[1], "\0\0\0\0\0\0\x1c\x40\0\0\0\0\0\0\0\0", 16);     /* 7.0 */
    CHECK_BYTES(f.fpr[0], "\x35\xc2\x68\x21\xa2\xda\x0f\xc9\x00\x40", 10); /* pi */
    CHECK_EQ(f.ftwx, 0x80);
    CHECK_EQ(f.fsw & 0x3800, 0x3800);
    struct translation_2007 t = { .linear = 0xffff800000001234 };
    CALL(m.vcpu, TRANSLATE, &t);
    CHECK_EQ(t.valid, 1);
    CHECK_EQ(t.physical, 0x1234);
}

static void syscall_64(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(syscall);
    memcpy(m.ram + 0x1100, payload_syscall_entry, PAYLOAD_BYTES(syscall_entry));
    enter_64(&m, p);
    struct {
        uint32_t n, pad;
        struct msr_entry e[3];
    } msrs = { 3, 0, { { 0xc0000081, 0, 0x0023000800000000 }, { 0xc0000082, 0, 0x1100 }, { 0xc0000084, 0, 0x200 } } };
    CHECK_EQ(CALL(m.vcpu, SET_MSRS, &msrs), 3);
    struct regs r = machine_regs(&m, p);
    r.rflags = 0x202;
    machine_set_regs(&m, p, &r);
    RUN_TO(X_HLT);
    r = machine_regs(&m, p);
    CHECK_EQ(r.rax, CODE_AT + 7);
    CHECK_EQ(r.rbx, 0x202);
    CHECK_EQ(r.rsi, 8);
    CHECK_EQ(r.rflags & 0x200, 0);
}

static void mmio_64(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(mmio64);
    enter_64(&m, p);
    struct regs r = machine_regs(&m, p);
    r.rax = 0x1122334455667788;
    r.rbx = 0x40000000;
    r.rdx = 5;
    machine_set_regs(&m, p, &r);
    RUN_TO(X_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0x200000);
    CHECK_EQ(m.run->mmio.len, 8);
    CHECK_EQ(m.run->mmio.is_write, 1);
    CHECK_BYTES(m.run->mmio.data, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
    RUN_TO(X_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0x200008);
    CHECK_EQ(m.run->mmio.is_write, 0);
    CHECK_EQ(m.run->mmio.len, 8);
    memcpy(m.run->mmio.data, "\1\2\3\4\5\6\7\x08", 8);
    RUN_TO(X_MMIO);
    CHECK_EQ(machine_regs(&m, p).rcx, 0x0807060504030201);
    CHECK_EQ(m.run->mmio.phys_addr, 0x200020);
    CHECK_EQ(m.run->mmio.is_write, 0);
    memcpy(m.run->mmio.data, "\x10\0\0\0", 4);
    RUN_TO(X_MMIO);
    CHECK_EQ(m.run->mmio.is_write, 1);
    CHECK_BYTES(m.run->mmio.data, "\x15\0\0\0", 4);
    RUN_TO(X_HLT);
    CHECK_EQ(machine_regs(&m, p).rdx, 0x10);
}

/* A 16-byte store leaves twice, lower half first. */
static void mmio_vector(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(mmio_vector);
    enter_64(&m, p);
    struct regs r = machine_regs(&m, p);
    r.rax = 0x1122334455667788;
    r.rbx = 0x40000000;
    machine_set_regs(&m, p, &r);
    RUN_TO(X_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0x200010);
    CHECK_EQ(m.run->mmio.len, 8);
    CHECK_BYTES(m.run->mmio.data, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
    RUN_TO(X_MMIO);
    CHECK_EQ(m.run->mmio.phys_addr, 0x200018);
    CHECK_BYTES(m.run->mmio.data, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
    RUN_TO(X_HLT);
}

static void set_fpu_reaches_guest(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(store_xmm);
    enter_64(&m, p);
    struct fpu f;
    CALL(m.vcpu, GET_FPU, &f);
    memcpy(f.xmm[0], "0123456789abcdef", 16);
    CALL(m.vcpu, SET_FPU, &f);
    RUN_TO(X_HLT);
    CHECK_BYTES(m.ram + DATA_AT, "0123456789abcdef", 16);
}

static void cpuid_values(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    struct {
        uint32_t n, pad;
        struct cpuid_entry_2007 e[3];
    } c = { 3, 0, { { 0, 1, 0x11111111, 0x22222222, 0x33333333, 0 }, { 1, 0x600, 0, 0, 0x07800011 | 1 << 6, 0 }, { 0x80000000, 0x80000001, 0, 0, 0, 0 } } };
    CALL(m.vcpu, SET_CPUID, &c);
    LOAD(cpuid);
    machine_flat(&m, p, 32, 0);
    RUN_TO(X_HLT);
    struct regs r = machine_regs(&m, p);
    CHECK_EQ(r.rax, 1);
    CHECK_EQ(r.rbx, 0x11111111);
    CHECK_EQ(r.rcx, 0x22222222);
    CHECK_EQ(r.rdx, 0x33333333);
}

static void msr_by_guest(const struct peer *p)
{
    struct machine m;
    machine_create(&m, p);
    LOAD(msr);
    machine_flat(&m, p, 32, 0);
    struct regs r = machine_regs(&m, p);
    r.rcx = 0x175;
    r.rax = 0x12345000;
    machine_set_regs(&m, p, &r);
    RUN_TO(X_HLT);
    CHECK_EQ(machine_regs(&m, p).rax, 0x12345000);
    struct msrs g = { 1, 0, { { 0x175, 0, 0 } } };
    CHECK_EQ(CALL(m.vcpu, GET_MSRS, &g), 1);
    CHECK_EQ(g.entry[0].data, 0x12345000);
}

/* Code that the client writes between two runs is what runs, with paging and without. */
static void client_changes_code(const struct peer *p)
{
    struct machine m;
    for (unsigned bits = 16; bits <= 64; bits *= 2) {
        machine_create(&m, p);
        for (unsigned value = 1; value <= 3; value++) {
            machine_load(&m, p, (const uint8_t *)"\xb0\x00\xb3\x07\xf4", 5); /* mov $value,%al; mov $7,%bl; hlt */
            m.ram[CODE_AT + 1] = (uint8_t)value;
            if (bits == 64)
                enter_64(&m, p);
            else if (bits == 32)
                machine_flat(&m, p, 32, 0);
            RUN_TO(X_HLT);
            CHECK_EQ(machine_regs(&m, p).rax & 0xff, value);
        }
        /* The same without any call that could hint at it but SET_REGS. */
        if (bits != 64) {
            m.ram[CODE_AT + 1] = 9;
            struct regs r = machine_regs(&m, p);
            r.rip = CODE_AT;
            machine_set_regs(&m, p, &r);
            RUN_TO(X_HLT);
            CHECK_EQ(machine_regs(&m, p).rax & 0xff, 9);
        }
        p->port->close(m.vcpu);
        p->port->close(m.vm);
        p->port->close(m.dev);
    }
}

/* State saved from one machine goes on in another. */
static void migrate(const struct peer *p)
{
    struct machine m, a;
    machine_create(&a, p);
    machine_load(&a, p, payload_steps, PAYLOAD_BYTES(steps));
    machine_create(&m, p);
    struct regs r = machine_regs(&a, p);
    struct sregs s;
    struct fpu f;
    CALL(a.vcpu, GET_SREGS, &s);
    CALL(a.vcpu, GET_FPU, &f);
    memcpy(m.ram, a.ram, RAM_BYTES);
    CALL(m.vcpu, SET_SREGS, &s);
    CALL(m.vcpu, SET_REGS, &r);
    CALL(m.vcpu, SET_FPU, &f);
    RUN_TO(X_HLT);
    CHECK_EQ(machine_regs(&m, p).rax, 3);
}

const struct conform_case cases_2007_modes[] = {
    { "to_protected", to_protected },
    { "paging_32", paging_32 },
    { "long_mode", long_mode },
    { "syscall_64", syscall_64 },
    { "mmio_64", mmio_64 },
    { "mmio_vector", mmio_vector },
    { "set_fpu_reaches_guest", set_fpu_reaches_guest },
    { "cpuid_values", cpuid_values },
    { "msr_by_guest", msr_by_guest },
    { "client_changes_code", client_changes_code },
    { "migrate", migrate },
};
const size_t n_cases_2007_modes = sizeof cases_2007_modes / sizeof *cases_2007_modes;
