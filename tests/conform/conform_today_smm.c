/* SPDX-License-Identifier: MIT */
/*
 * What an SMI and RSM do to a vCPU: the state that the handler finds, the save area byte by byte in both layouts, from real, protected and long mode, what
 * comes back, and what is refused (SDM vol. 3C, "System Management Mode"; AMD APM vol. 2, "System-Management Mode"). When SMIs come is in conform_today_smi.c.
 */
#include "tests/conform/machine_smm.h"

#include <stdlib.h>
#include <string.h>

#define LOAD_BYTES(code) machine_load(&s.m, p, code, sizeof code)

static const uint8_t two_ports[] = { 0xe6, 0x10, 0x40, 0xe6, 0x11, 0xf4 }; /* out 0x10, al; inc ax; out 0x11, al; hlt */

static uint64_t msr_get(struct smm_machine *s, const struct peer *p, uint32_t index)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msr = { .head.nmsrs = 1, .entry.index = index };
    CHECK_EQ(CALL(s->m.vcpu, KVM_GET_MSRS, &msr), 1);
    return msr.entry.data;
}

static int msr_set(struct smm_machine *s, const struct peer *p, uint32_t index, uint64_t value)
{
    struct {
        struct kvm_msrs head;
        struct kvm_msr_entry entry;
    } msr = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };
    return CALL(s->m.vcpu, KVM_SET_MSRS, &msr);
}

/* Supported CPUID, with or without long mode. */
static void set_cpuid(struct smm_machine *s, const struct peer *p, bool has_long_mode)
{
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + 256 * sizeof c->entries[0]);
    REQUIRE(c);
    c->nent = 256;
    CALL(s->m.dev, KVM_GET_SUPPORTED_CPUID, c);
    for (unsigned i = 0; i < c->nent; i++)
        if (c->entries[i].function == 0x80000001 && !has_long_mode)
            c->entries[i].edx &= ~(1u << 29);
    CALL(s->m.vcpu, KVM_SET_CPUID2, c);
    free(c);
}

static void check_entry_state(struct smm_machine *s, const struct peer *p, uint32_t smbase)
{
    struct kvm_sregs r;
    CALL(s->m.vcpu, KVM_GET_SREGS, &r);
    CHECK_EQ(r.cs.base, smbase);
    CHECK_EQ(r.cs.selector, smbase >> 4 & 0xffff);
    CHECK_EQ(r.cs.limit, 0xffffffff);
    const struct kvm_segment *const data[] = { &r.ds, &r.es, &r.fs, &r.gs, &r.ss };
    for (unsigned i = 0; i < 5; i++) {
        CHECK_EQ(data[i]->selector, 0);
        CHECK_EQ(data[i]->base, 0);
        CHECK_EQ(data[i]->limit, 0xffffffff);
        CHECK(data[i]->present && data[i]->s && !data[i]->db && !data[i]->dpl);
    }
    CHECK_EQ(r.idt.limit, 0);
    CHECK_EQ(r.cr0 & 0x8000000d, 0); /* PG TS EM PE */
    CHECK_EQ(r.cr4, 0);
    struct kvm_debugregs d;
    CALL(s->m.vcpu, KVM_GET_DEBUGREGS, &d);
    CHECK_EQ(d.dr7, 0x400);
    struct kvm_regs g = machine_regs(&s->m, p);
    CHECK_EQ(g.rflags, 2);
    CHECK(g.rip == HANDLER_AT + 2 || g.rip == HANDLER_AT); /* the OUT is over, or will be at the next run */
    struct kvm_vcpu_events e = smm_events(s, p);
    CHECK_EQ(e.smi.smm, 1);
    CHECK_EQ(e.smi.pending, 0);
    CHECK_EQ(e.nmi.masked, 1);
}

/* ---- real mode, the 32-bit layout ---- */

static void smm_from_real_mode(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, 0);
    LOAD_BYTES(two_ports);
    struct kvm_regs before = machine_regs(&s.m, p), after;
    before.rax = 0x12345678, before.rcx = 0xc1, before.rdx = 0xd1, before.rbx = 0xb1, before.rbp = 0xb9, before.rsi = 0x51, before.rdi = 0xd9;
    before.rflags = 0x897; /* OF SF AF PF CF */
    CALL(s.m.vcpu, KVM_SET_REGS, &before);
    struct kvm_sregs sregs, back;
    CALL(s.m.vcpu, KVM_GET_SREGS, &sregs);
    sregs.ds.base = 0x12340, sregs.ds.selector = 0x1234, sregs.es.base = 0x23450, sregs.es.selector = 0x2345;
    sregs.gdt.base = 0x11000, sregs.gdt.limit = 0x57, sregs.idt.base = 0x12000, sregs.idt.limit = 0x3ff;
    CALL(s.m.vcpu, KVM_SET_SREGS, &sregs);
    CALL(s.m.vcpu, KVM_SMI, 0);
    CHECK_EQ(smm_events(&s, p).smi.pending, 1);
    RUN_TO_HANDLER();
    check_entry_state(&s, p, SMBASE);
    static const uint32_t gpr[8] = { 0x12345678, 0xc1, 0xd1, 0xb1, 0x7000, 0xb9, 0x51, 0xd9 };
    CHECK_BYTES(s.smram + 0xffd0, gpr, sizeof gpr);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfff0, 4), CODE_AT);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfff4, 4), 0x897);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfff8, 4), sregs.cr3);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfffc, 4), sregs.cr0);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff14, 4), sregs.cr4);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfef8, 4), SMBASE);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfefc, 4) & 0x20000, 0x20000);
    CHECK_EQ(smm_field(&s, SMBASE, 0xffa8, 4), 0x2345); /* ES CS SS DS */
    CHECK_EQ(smm_field(&s, SMBASE, 0xffac, 4), 0);
    CHECK_EQ(smm_field(&s, SMBASE, 0xffb4, 4), 0x1234);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff34, 4), 0x12340); /* DS base, after attributes and limit */
    CHECK_EQ(smm_field(&s, SMBASE, 0xff30, 4), 0xffff);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff2c, 4) & 0xf000, 0x9000); /* present, a segment */
    CHECK_EQ(smm_field(&s, SMBASE, 0xff70, 4), 0x57);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff74, 4), 0x11000);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff54, 4), 0x3ff);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff58, 4), 0x12000);
    CHECK_EQ(smm_field(&s, SMBASE, 0xffc8, 4), 0x400);
    CHECK_EQ(smm_field(&s, SMBASE, 0xffcc, 4), 0xffff0ff0);
    RUN_TO_PORT(0x10);
    CHECK_EQ(smm_events(&s, p).smi.smm, 0);
    CHECK_EQ(smm_events(&s, p).nmi.masked, 0);
    CALL(s.m.vcpu, KVM_GET_SREGS, &back);
    CHECK_BYTES(&back, &sregs, offsetof(struct kvm_sregs, interrupt_bitmap));
    after = machine_regs(&s.m, p);
    after.rip = before.rip; /* which side of the OUT it shows is not asked here */
    CHECK_BYTES(&after, &before, sizeof before);
    RUN_TO_PORT(0x11);
    RUN_SMM_TO(KVM_EXIT_HLT);
}

/* The handler changes what was saved, and where the next SMI goes. */
static void smm_changes_state(const struct peer *p)
{
    static const uint8_t second[] = { 0xe6, 0x52, 0x0f, 0xaa };
    struct smm_machine s;
    smm_create(&s, p, 0);
    LOAD_BYTES(two_ports);
    smm_set_handler(&s, 0x40000, second, sizeof second);
    CHECK_EQ(msr_get(&s, p, 0x9e), SMBASE);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    smm_set_field(&s, SMBASE, 0xfff0, 4, CODE_AT + 3);
    smm_set_field(&s, SMBASE, 0xffd0, 4, 0x77);
    smm_set_field(&s, SMBASE, 0xfef8, 4, 0x40000);
    RUN_TO_PORT(0x11);
    CHECK_EQ(machine_regs(&s.m, p).rax, 0x77);
    CHECK_EQ(msr_get(&s, p, 0x9e), 0x40000);
    CHECK_EQ(msr_get(&s, p, 0x34), 1);
    CALL(s.m.vcpu, KVM_SMI, 0);
    smm_run_to_port(&s, p, 0x52, true, __FILE__, __LINE__);
    struct kvm_sregs sregs;
    CALL(s.m.vcpu, KVM_GET_SREGS, &sregs);
    CHECK_EQ(sregs.cs.base, 0x40000);
    CHECK_EQ(sregs.cs.selector, 0x4000);
    CHECK_EQ(smm_field(&s, 0x40000, 0xfef8, 4), 0x40000);
    RUN_SMM_TO(KVM_EXIT_HLT);
    CHECK_EQ(msr_get(&s, p, 0x34), 2);
    /* The client moves it too. */
    CHECK_EQ(msr_set(&s, p, 0x9e, SMBASE), 1);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
}

/* A handler goes on beyond 64 KiB from its base, as its limit is 4 GiB. */
static void smm_handler_far_away(const struct peer *p)
{
    static const uint8_t jump[] = { 0x66, 0xbd, 0, 0x50, 2, 0, 0x66, 0xff, 0xe5 };          /* mov ebp, 0x25000; jmp ebp */
    static const uint8_t there[] = { 0xb0, 7, 0xe6, HANDLER_PORT, 0xfe, 0xc0, 0x0f, 0xaa }; /* mov al, 7; out; inc al; rsm */
    struct smm_machine s;
    smm_create(&s, p, 0);
    LOAD_BYTES(two_ports);
    smm_set_handler(&s, SMBASE, jump, sizeof jump);
    memcpy(s.m.ram + SMBASE + 0x25000, there, sizeof there);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    CHECK_EQ(machine_regs(&s.m, p).rip >> 8, 0x250);
    RUN_TO_PORT(0x10);
}

/* ---- protected mode ---- */

static void enter_protected(struct smm_machine *s, const struct peer *p)
{
    struct kvm_sregs r;
    CALL(s->m.vcpu, KVM_GET_SREGS, &r);
    r.cs = (struct kvm_segment){ .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1 };
    r.ds = r.es = r.fs = r.gs = r.ss = (struct kvm_segment){ .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1 };
    r.cr0 |= 1;
    CALL(s->m.vcpu, KVM_SET_SREGS, &r);
}

static const uint8_t ports_32[] = { 0xe6, 0x10, 0xb8, 0x78, 0x56, 0x34, 0x12, 0xe6, 0x11, 0xf4 }; /* out 0x10, al; mov eax, 0x12345678; out 0x11, al; hlt */

static void smm_from_protected_mode(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, 0);
    set_cpuid(&s, p, false);
    LOAD_BYTES(ports_32);
    enter_protected(&s, p);
    /* With paging: two-level tables at 0x10000, one page of 4 MiB. */
    struct kvm_sregs sregs, back;
    uint32_t entry = 0x87;
    memcpy(s.m.ram + 0x10000, &entry, 4);
    CALL(s.m.vcpu, KVM_GET_SREGS, &sregs);
    sregs.cr3 = 0x10000;
    sregs.cr4 = 0x10;
    sregs.cr0 |= 1u << 31;
    CALL(s.m.vcpu, KVM_SET_SREGS, &sregs);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    check_entry_state(&s, p, SMBASE);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfefc, 4), 0x20000);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfffc, 4), sregs.cr0);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfff8, 4), 0x10000);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff14, 4), 0x10);
    CHECK_EQ(smm_field(&s, SMBASE, 0xffac, 4), 8);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff90, 4) & 0xf09e00, 0xc09a00); /* CS: G D, present, code */
    RUN_TO_PORT(0x10);
    CALL(s.m.vcpu, KVM_GET_SREGS, &back);
    CHECK_BYTES(&back, &sregs, offsetof(struct kvm_sregs, interrupt_bitmap));
    RUN_TO_PORT(0x11);
    CHECK_EQ(machine_regs(&s.m, p).rax, 0x12345678);
    RUN_SMM_TO(KVM_EXIT_HLT);
}

/* ---- long mode, AMD64's layout ---- */

static void enter_long(struct smm_machine *s, const struct peer *p)
{
    static const uint64_t entry[3] = { 0x11027, 0x12027, 0xe7 }; /* PML4 at 0x10000, PDPT, PD: 2 MiB */
    for (unsigned i = 0; i < 3; i++)
        memcpy(s->m.ram + 0x10000 + i * 0x1000, &entry[i], 8);
    enter_protected(s, p);
    struct kvm_sregs r;
    CALL(s->m.vcpu, KVM_GET_SREGS, &r);
    r.cs.db = 0;
    r.cs.l = 1;
    r.cr3 = 0x10000;
    r.cr4 = 0x20;
    r.cr0 |= 1u << 31;
    r.efer = 0x500;
    r.fs.base = 0x1122334455667788 & 0x7fffffffffff;
    CALL(s->m.vcpu, KVM_SET_SREGS, &r);
}

/* out 0x10, al; mov r15, r14; out 0x11, al; hlt */
static const uint8_t ports_64[] = { 0xe6, 0x10, 0x4d, 0x89, 0xf7, 0xe6, 0x11, 0xf4 };

static void smm_from_long_mode(const struct peer *p)
{
    struct smm_machine s;
    smm_create(&s, p, 0);
    set_cpuid(&s, p, true);
    LOAD_BYTES(ports_64);
    enter_long(&s, p);
    uint64_t reversed[16] = { 0xf000000000000015, 14, 13, 12, 11, 10, 9, 0xf000000000000008, 7, 6, 5, 0x7000, 3, 2, 1, 0xf000000000000000 };
    struct kvm_regs before = {
        .rax = reversed[15], .rcx = 1, .rdx = 2, .rbx = 3, .rsp = 0x7000, .rbp = 5, .rsi = 6, .rdi = 7, .rip = CODE_AT, .rflags = 0x246
    };
    before.r8 = reversed[7], before.r9 = 9, before.r10 = 10, before.r11 = 11, before.r12 = 12, before.r13 = 13, before.r14 = 14, before.r15 = reversed[0];
    CALL(s.m.vcpu, KVM_SET_REGS, &before);
    struct kvm_sregs sregs, back;
    CALL(s.m.vcpu, KVM_GET_SREGS, &sregs);
    CALL(s.m.vcpu, KVM_SMI, 0);
    RUN_TO_HANDLER();
    check_entry_state(&s, p, SMBASE);
    CALL(s.m.vcpu, KVM_GET_SREGS, &back);
    CHECK_EQ(back.efer, 0);
    CHECK_BYTES(s.smram + 0xff80, reversed, sizeof reversed);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff78, 8), CODE_AT);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff70, 8), 0x246);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff68, 8), 0xffff0ff0);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff60, 8), 0x400);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff58, 8), sregs.cr0);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff50, 8), 0x10000);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff48, 8), 0x20);
    CHECK_EQ(smm_field(&s, SMBASE, 0xff00, 4), SMBASE);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfefc, 4), 0x20064);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfed0, 8), 0x500);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfe10, 2), 8);               /* CS */
    CHECK_EQ(smm_field(&s, SMBASE, 0xfe12, 2) & 0xf09e, 0xa09a); /* G L, present, code */
    CHECK_EQ(smm_field(&s, SMBASE, 0xfe14, 4), 0xffffffff);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfe40, 2), 16); /* FS */
    CHECK_EQ(smm_field(&s, SMBASE, 0xfe48, 8), sregs.fs.base);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfe64, 2), sregs.gdt.limit);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfe88, 8), sregs.idt.base);
    CHECK_EQ(smm_field(&s, SMBASE, 0xfe92, 2) & 0x80, 0x80);  /* TR is present */
    smm_set_field(&s, SMBASE, 0xff88, 8, 0x123456789abcdef0); /* R14 */
    RUN_TO_PORT(0x10);
    CALL(s.m.vcpu, KVM_GET_SREGS, &back);
    CHECK_BYTES(&back, &sregs, offsetof(struct kvm_sregs, interrupt_bitmap));
    RUN_TO_PORT(0x11);
    struct kvm_regs after = machine_regs(&s.m, p);
    CHECK_EQ(after.r15, 0x123456789abcdef0);
    CHECK_EQ(after.rax, before.rax);
    CHECK_EQ(after.rflags, 0x246);
}

/* ---- what is refused ---- */

static void rsm_outside_smm(const struct peer *p)
{
    static const uint8_t rsm[] = { 0x0f, 0xaa, 0xf4 }, on_ud[] = { 0xe6, 0x66, 0xf4 };
    struct smm_machine s;
    smm_create(&s, p, 0);
    LOAD_BYTES(rsm);
    memcpy(s.m.ram + 0x1100, on_ud, sizeof on_ud);
    memcpy(s.m.ram + 6 * 4, "\0\x11\0\0", 4);
    RUN_TO_PORT(0x66);
}

static const struct {
    unsigned offset, bytes;
    uint64_t value;
} impossible[] = {
    { 0xff58, 8, 0x80000010 },         /* CR0: paging without protection */
    { 0xff58, 8, 0x20000011 },         /* NW without CD */
    { 0xff58, 8, 0x100000011 },        /* CR0 has 32 bits */
    { 0xff48, 8, 1ull << 40 },         /* CR4 that does not exist */
    { 0xff48, 8, 1ull << 17 },         /* PCIDs outside of long mode */
    { 0xfed0, 8, 1ull << 40 },         /* EFER */
    { 0xff60, 8, 1ull << 32 | 0x400 }, /* DR7 */
    { 0xff50, 8, 1ull << 60 },         /* CR3 */
};

static void rsm_to_impossible_state(const struct peer *p)
{
    for (size_t i = 0; i < sizeof impossible / sizeof *impossible; i++) {
        struct smm_machine s;
        smm_create(&s, p, 0);
        set_cpuid(&s, p, true);
        LOAD_BYTES(two_ports);
        CALL(s.m.vcpu, KVM_SMI, 0);
        RUN_TO_HANDLER();
        smm_set_field(&s, SMBASE, impossible[i].offset, impossible[i].bytes, impossible[i].value);
        RUN_SMM_TO(KVM_EXIT_SHUTDOWN);
    }
}

const struct conform_case cases_today_smm[] = {
    { "smm_from_real_mode", smm_from_real_mode },           { "smm_changes_state", smm_changes_state },   { "smm_handler_far_away", smm_handler_far_away },
    { "smm_from_protected_mode", smm_from_protected_mode }, { "smm_from_long_mode", smm_from_long_mode }, { "rsm_outside_smm", rsm_outside_smm },
    { "rsm_to_impossible_state", rsm_to_impossible_state },
};
const size_t n_cases_today_smm = sizeof cases_today_smm / sizeof *cases_today_smm;
