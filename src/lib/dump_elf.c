/* SPDX-License-Identifier: MIT */
/*
 * The head of an ELF core (System V gABI; Linux's <sys/procfs.h> for NT_PRSTATUS): header, a note segment with the registers of each vCPU, a load segment for
 * each slot. Both addresses of a load segment are guest-physical, so a debugger reads physical memory; the page tables are in it.
 */
#include "lib/dump.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/user.h>

#define VCPUS_MAX 64
#define PAGE_BYTES 4096u

struct prstatus_note {
    Elf64_Nhdr head;
    char name[8]; /* "CORE" */
    struct elf_prstatus status;
} __attribute__((packed)); /* descriptors are 4-aligned */

static void user_regs(const struct vitrine_regs *r, struct user_regs_struct *u)
{
    enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI };
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

/* How many notes; -1 and errno. */
static int make_notes(struct vitrine_vm *vm, struct prstatus_note *note)
{
    struct vitrine_vcpu_info vcpu[VCPUS_MAX];
    struct vitrine_regs regs;
    int n = vitrine_vm_vcpus(vm, vcpu, VCPUS_MAX);
    if (n > VCPUS_MAX)
        n = VCPUS_MAX;
    for (int i = 0; i < n; i++) {
        struct user_regs_struct user;
        if (vitrine_vcpu_get_regs(vm, vcpu[i].id, &regs))
            return -1;
        memset(&note[i], 0, sizeof note[i]);
        note[i].head = (Elf64_Nhdr){ .n_namesz = 5, .n_descsz = sizeof note[i].status, .n_type = NT_PRSTATUS };
        memcpy(note[i].name, "CORE", 5);
        note[i].status.pr_pid = i + 1; /* gdb's thread; 0 would be none */
        user_regs(&regs, &user);
        memcpy(&note[i].status.pr_reg, &user, sizeof user);
    }
    return n;
}

static int write_headers(struct dump *d, const struct prstatus_note *note, unsigned n_notes)
{
    unsigned n_headers = d->n_slots + 1;
    uint64_t notes_at = sizeof(Elf64_Ehdr) + (uint64_t)n_headers * sizeof(Elf64_Phdr), notes_bytes = (uint64_t)n_notes * sizeof *note;
    uint64_t at = (notes_at + notes_bytes + PAGE_BYTES - 1) & ~(uint64_t)(PAGE_BYTES - 1), pad = at - notes_at - notes_bytes;
    const Elf64_Ehdr head = {
        .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
        .e_type = ET_CORE,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_phoff = sizeof head,
        .e_ehsize = sizeof head,
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = (Elf64_Half)n_headers,
    };
    const Elf64_Phdr notes = { .p_type = PT_NOTE, .p_offset = notes_at, .p_filesz = notes_bytes, .p_align = 4 };
    const uint8_t zeroes[PAGE_BYTES] = { 0 };
    if (dump_write(d, &head, sizeof head) || dump_write(d, &notes, sizeof notes))
        return -1;
    for (unsigned i = 0; i < d->n_slots; i++) {
        const struct vitrine_slot *s = &d->slot[i];
        const Elf64_Phdr load = {
            .p_type = PT_LOAD, .p_flags = PF_R | PF_W | PF_X, .p_offset = at, .p_vaddr = s->gpa, .p_paddr = s->gpa, .p_filesz = s->bytes, .p_memsz = s->bytes
        };
        if (dump_write(d, &load, sizeof load))
            return -1;
        at += s->bytes;
    }
    return dump_write(d, note, notes_bytes) || dump_write(d, zeroes, pad) ? -1 : 0;
}

int dump_elf_head(struct dump *d)
{
    struct prstatus_note *note = calloc(VCPUS_MAX, sizeof *note);
    if (!note)
        return -1;
    int n = make_notes(d->vm, note), r = n < 0 ? -1 : write_headers(d, note, (unsigned)n), error = errno;
    free(note);
    errno = error;
    return r;
}
