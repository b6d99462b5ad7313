/* SPDX-License-Identifier: MIT */
/*
 * The notes of an ELF core: for each vCPU its registers as gdb reads them (Linux's <sys/procfs.h>: NT_PRSTATUS, NT_FPREGSET, NT_X86_XSTATE) and with system
 * registers as crash does (the note "QEMU" of QEMU's dump-guest-memory); once what Linux tells dumps about itself (VMCOREINFO).
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/user.h>

#include "lib/dump.h"

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };

#define FXSAVE_BYTES 512u
#define XSTATE_BYTES 832u /* x87, SSE, AVX: these have one place on all CPUs */
#define XSTATE_COMPONENTS 7ull
#define XSTATE_XCR0_AT 464 /* in what FXSAVE leaves to software, as the kernel's own notes have it */
#define XSTATE_BV_AT 512

struct qemu_segment {
    uint32_t selector, limit, flags, pad;
    uint64_t base;
};

struct qemu_cpu {
    uint32_t version, bytes;
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8_to_r15[8], rip, rflags;
    struct qemu_segment cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt;
    uint64_t cr[5], kernel_gs_base;
};

/* ---- one vCPU ---- */

static void user_regs(const struct vitrine_regs *r, struct user_regs_struct *u)
{
    *u = (struct user_regs_struct){
        .r15 = r->gpr[15],
        .r14 = r->gpr[14],
        .r13 = r->gpr[13],
        .r12 = r->gpr[12],
        .r11 = r->gpr[11],
        .r10 = r->gpr[10],
        .r9 = r->gpr[9],
        .r8 = r->gpr[8],
        .rbp = r->gpr[RBP],
        .rbx = r->gpr[RBX],
        .rax = r->gpr[RAX],
        .rcx = r->gpr[RCX],
        .rdx = r->gpr[RDX],
        .rsi = r->gpr[RSI],
        .rdi = r->gpr[RDI],
        .orig_rax = ~0ull,
        .rip = r->rip,
        .cs = r->segment[VITRINE_CS].selector,
        .eflags = r->rflags,
        .rsp = r->gpr[RSP],
        .ss = r->segment[VITRINE_SS].selector,
        .fs_base = r->segment[VITRINE_FS].base,
        .gs_base = r->segment[VITRINE_GS].base,
        .ds = r->segment[VITRINE_DS].selector,
        .es = r->segment[VITRINE_ES].selector,
        .fs = r->segment[VITRINE_FS].selector,
        .gs = r->segment[VITRINE_GS].selector,
    };
}

static struct qemu_segment qemu_segment_of(const struct vitrine_segment *s)
{
    return (struct qemu_segment){ .selector = s->selector, .limit = s->limit, .flags = (uint32_t)s->attributes << 8, .base = s->base };
}

static void qemu_regs(const struct vitrine_regs *r, struct qemu_cpu *q)
{
    const struct vitrine_segment *s = r->segment;
    *q = (struct qemu_cpu){ .version = 1,
                            .bytes = sizeof *q,
                            .rax = r->gpr[RAX],
                            .rbx = r->gpr[RBX],
                            .rcx = r->gpr[RCX],
                            .rdx = r->gpr[RDX],
                            .rsi = r->gpr[RSI],
                            .rdi = r->gpr[RDI],
                            .rsp = r->gpr[RSP],
                            .rbp = r->gpr[RBP],
                            .rip = r->rip,
                            .rflags = r->rflags,
                            .cs = qemu_segment_of(&s[VITRINE_CS]),
                            .ds = qemu_segment_of(&s[VITRINE_DS]),
                            .es = qemu_segment_of(&s[VITRINE_ES]),
                            .fs = qemu_segment_of(&s[VITRINE_FS]),
                            .gs = qemu_segment_of(&s[VITRINE_GS]),
                            .ss = qemu_segment_of(&s[VITRINE_SS]),
                            .ldt = qemu_segment_of(&s[VITRINE_LDTR]),
                            .tr = qemu_segment_of(&s[VITRINE_TR]),
                            .gdt = { .limit = r->gdtr_limit, .base = r->gdtr_base },
                            .idt = { .limit = r->idtr_limit, .base = r->idtr_base },
                            .cr = { r->cr0, 0, r->cr2, r->cr3, r->cr4 },
                            .kernel_gs_base = r->kernel_gs_base };
    memcpy(q->r8_to_r15, r->gpr + 8, sizeof q->r8_to_r15);
}

/* ---- notes ---- */

static size_t padded(size_t bytes)
{
    return (bytes + 3) & ~(size_t)3;
}

static size_t note_bytes(const char *name, size_t bytes)
{
    return sizeof(Elf64_Nhdr) + padded(strlen(name) + 1) + padded(bytes);
}

/* Into zeroes. What follows it. */
static uint8_t *note_put(uint8_t *at, const char *name, uint32_t type, const void *bytes, size_t n)
{
    const Elf64_Nhdr head = { .n_namesz = (Elf64_Word)strlen(name) + 1, .n_descsz = (Elf64_Word)n, .n_type = type };
    memcpy(at, &head, sizeof head);
    memcpy(at + sizeof head, name, head.n_namesz);
    memcpy(at + sizeof head + padded(head.n_namesz), bytes, n);
    return at + note_bytes(name, n);
}

static uint8_t *xstate_put(uint8_t *at, struct vitrine_xsave *x, uint64_t xcr0)
{
    uint64_t components;
    at = note_put(at, "CORE", NT_FPREGSET, x->area, FXSAVE_BYTES);
    xcr0 &= XSTATE_COMPONENTS;
    memcpy(&components, x->area + XSTATE_BV_AT, sizeof components);
    components &= xcr0;
    memcpy(x->area + XSTATE_BV_AT, &components, sizeof components);
    memcpy(x->area + XSTATE_XCR0_AT, &xcr0, sizeof xcr0);
    return note_put(at, "LINUX", NT_X86_XSTATE, x->area, XSTATE_BYTES);
}

static size_t vcpu_notes_bytes(void)
{
    return note_bytes("CORE", sizeof(struct elf_prstatus)) + note_bytes("CORE", FXSAVE_BYTES) + note_bytes("LINUX", XSTATE_BYTES);
}

/* NULL and errno. Threads are numbered from 1, 0 would be none to gdb. */
static uint8_t *vcpu_put(struct dump *d, uint32_t id, int number, uint8_t *at, struct vitrine_regs *regs)
{
    struct vitrine_xsave xsave;
    struct elf_prstatus status;
    struct user_regs_struct user;
    if (vitrine_vcpu_get_regs(d->vm, id, regs) || vitrine_vcpu_get_xsave(d->vm, id, &xsave))
        return NULL;
    memset(&status, 0, sizeof status);
    status.pr_pid = number;
    status.pr_fpvalid = 1;
    user_regs(regs, &user);
    memcpy(&status.pr_reg, &user, sizeof user);
    at = note_put(at, "CORE", NT_PRSTATUS, &status, sizeof status);
    return xstate_put(at, &xsave, regs->xcr0);
}

/* All of gdb's first: crash counts CPUs by the notes of one kind. */
uint8_t *dump_notes_make(struct dump *d, size_t *bytes, size_t *facts_at)
{
    struct vitrine_vcpu_info vcpu[DUMP_VCPUS_MAX];
    struct vitrine_regs regs[DUMP_VCPUS_MAX];
    int n = vitrine_vm_vcpus(d->vm, vcpu, DUMP_VCPUS_MAX);
    if (n < 0)
        return NULL;
    if (n > DUMP_VCPUS_MAX)
        n = DUMP_VCPUS_MAX;
    *facts_at = (size_t)n * (vcpu_notes_bytes() + note_bytes("QEMU", sizeof(struct qemu_cpu)));
    *bytes = *facts_at + dump_notes_facts_bytes();
    uint8_t *all = calloc(1, *bytes), *at = all;
    for (int i = 0; at && i < n; i++)
        at = vcpu_put(d, vcpu[i].id, i + 1, at, &regs[i]);
    if (!at) {
        free(all);
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        struct qemu_cpu q;
        qemu_regs(&regs[i], &q);
        at = note_put(at, "QEMU", 0, &q, sizeof q);
    }
    dump_notes_facts(d, at);
    return all;
}

/* ---- VMCOREINFO ---- */

#define FACTS_NAME "VMCOREINFO"
#define NO_FACTS_NAME "no guest's" /* as long */
_Static_assert(sizeof FACTS_NAME == sizeof NO_FACTS_NAME, "the note does not move");

size_t dump_notes_facts_bytes(void)
{
    return note_bytes(FACTS_NAME, DUMP_PAGE_BYTES);
}

/* The text fills its page with zeroes, and ends with them in a note; readers take it so. */
void dump_notes_facts(const struct dump *d, uint8_t *note)
{
    note_put(note, d->kernel_facts[0] ? FACTS_NAME : NO_FACTS_NAME, 0, d->kernel_facts, DUMP_PAGE_BYTES);
}
