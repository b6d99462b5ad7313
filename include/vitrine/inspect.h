/* SPDX-License-Identifier: MIT */
/*
 * Looking into virtual machines that other processes run on vitrine: which there are, their memory, their CPUs' registers, stopping and going on. A VM is
 * reached over a socket of the process that runs it; only that process's user and root get in. Nothing here disturbs the guest but what is meant to: reads of
 * registers stop a CPU between two instructions for as long as it takes to copy them.
 *
 * A struct vitrine_vm is used by one thread at a time. Functions return -1 and set errno unless said otherwise; ESRCH: the VM has gone; EPROTO: the other side
 * is another version of vitrine. Structs that a function fills are written whole or not at all.
 */
#ifndef VITRINE_INSPECT_H
#define VITRINE_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define VITRINE_NAME_BYTES 64

struct vitrine_vm;

struct vitrine_vm_info {
    uint32_t pid;                  /* of the process that runs it, as seen from here */
    uint32_t number;               /* among the VMs that this process ever had, from 1 */
    char name[VITRINE_NAME_BYTES]; /* given by the user, or the process's; not unique */
    char engine[16];               /* what runs the guest: "soft" */
    uint32_t n_vcpus, n_slots;     /* now */
    uint64_t memory_bytes;         /* of all slots of the normal address space */
    uint32_t is_paused;            /* by vitrine_vm_pause; 0 or 1 */
    uint32_t n_clients;            /* connections of tools, this one too */
    uint64_t started_ns;           /* CLOCK_REALTIME of its creation */
};

#define VITRINE_SLOT_READONLY 1u
#define VITRINE_SLOT_LOG_DIRTY 2u

/* Memory of the guest, as the VMM set it up. */
struct vitrine_slot {
    uint64_t gpa, bytes; /* guest-physical, multiples of 4096 */
    uint64_t host;       /* where it is in the VMM's address space */
    uint32_t id;         /* the VMM's number; bits 16-31: address space, 1 is what is seen in system management mode */
    uint32_t flags;      /* VITRINE_SLOT_* */
};

enum vitrine_vcpu_activity { VITRINE_VCPU_OUTSIDE /* its VMM does something else */, VITRINE_VCPU_RUNNING, VITRINE_VCPU_HALTED, VITRINE_VCPU_WAITS_FOR_SIPI };

/* Index of vitrine_vcpu_info.counter; all count up from the vCPU's creation. */
enum vitrine_counter {
    VITRINE_COUNT_EXITS, /* guest code was left: one of the next five */
    VITRINE_COUNT_IO,
    VITRINE_COUNT_MMIO,
    VITRINE_COUNT_HALTS,
    VITRINE_COUNT_HYPERCALLS,
    VITRINE_COUNT_REQUESTS, /* events and requests of others were looked at */
    VITRINE_COUNT_SIGNALS,  /* a run ended because of one */
    VITRINE_COUNT_IRQ_WINDOWS,
    VITRINE_COUNT_IRQS, /* injected */
    VITRINE_COUNT_NMIS,
    VITRINE_COUNT_SINGLE_INSNS, /* instructions executed one by one */
    VITRINE_COUNT_INSN_FAILURES,
    VITRINE_COUNT_TLB_FLUSHES,
    VITRINE_COUNT_INVLPGS,
    VITRINE_COUNT_PAGE_FAULTS, /* of the guest */
    VITRINE_COUNT_HALT_WAKEUPS,
    VITRINE_COUNT_HALTED_NS,
    VITRINE_COUNTERS = 32
};

struct vitrine_vcpu_info {
    uint32_t id;
    uint32_t activity; /* enum vitrine_vcpu_activity */
    uint32_t is_held;  /* by a tool or by pause */
    uint32_t mode;     /* bits of the code that it runs: 16, 32, 64 */
    uint64_t rip, cr3;
    uint64_t counter[VITRINE_COUNTERS]; /* enum vitrine_counter */
};

struct vitrine_segment {
    uint64_t base;
    uint32_t limit; /* in bytes, granularity applied */
    uint16_t selector;
    uint16_t
        attributes; /* bits 8-15 and 20-23 of a descriptor's second word, in bits 0-7 and 12-15 (SDM vol. 3A, "Segment Descriptors"); 0 present bit: unusable */
};

enum { VITRINE_ES, VITRINE_CS, VITRINE_SS, VITRINE_DS, VITRINE_FS, VITRINE_GS, VITRINE_LDTR, VITRINE_TR, VITRINE_SEGMENTS };

struct vitrine_regs {
    uint64_t gpr[16]; /* RAX RCX RDX RBX RSP RBP RSI RDI R8-R15, as instructions number them */
    uint64_t rip, rflags;
    struct vitrine_segment segment[VITRINE_SEGMENTS];
    uint64_t gdtr_base, idtr_base;
    uint32_t gdtr_limit, idtr_limit;
    uint64_t cr0, cr2, cr3, cr4, cr8, xcr0, efer;
    uint64_t dr[4], dr6, dr7;
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip, pat, tsc_aux, apic_base, tsc;
};

enum vitrine_walk {
    VITRINE_WALK_OK,
    VITRINE_WALK_NOT_CANONICAL,
    VITRINE_WALK_NOT_PRESENT, /* the entry at `level` has P = 0 */
    VITRINE_WALK_RESERVED,    /* the entry at `level` has a reserved bit set */
    VITRINE_WALK_NO_MEMORY    /* the table of `level` is not in guest memory */
};

struct vitrine_translation {
    uint64_t gva, gpa;                             /* gpa is valid with VITRINE_WALK_OK */
    uint32_t result;                               /* enum vitrine_walk */
    uint32_t level;                                /* 1 page table ... 5 PML5; with OK: that of the last entry, 0 without paging */
    uint64_t entry;                                /* the last entry read */
    uint64_t page_bytes;                           /* with OK */
    uint32_t is_writeable, is_user, is_executable; /* by the tables alone */
    uint32_t pad;
};

/*
 * The VMs that this user may look into, sorted by pid and number: up to n of them to `out`. The number there are, which may be more than n; 0 if none.
 * Processes of other users are left out.
 */
int vitrine_vm_list(struct vitrine_vm_info *out, unsigned n);

/*
 * Opens the VM that `which` means: a name, a pid, "pid.number", or the unambiguous beginning of a name. NULL and errno: ESRCH there is none, ENOTUNIQ several,
 * EACCES it is another user's, ENOMEM, EMFILE, ETIMEDOUT it does not answer.
 */
struct vitrine_vm *vitrine_vm_open(const char *which);
/* Everything that this handle had set in the VM is undone. */
void vitrine_vm_close(struct vitrine_vm *vm);

int vitrine_vm_info(struct vitrine_vm *vm, struct vitrine_vm_info *out);
/* As vitrine_vm_list: up to n, sorted by address; the number there are. */
int vitrine_vm_slots(struct vitrine_vm *vm, struct vitrine_slot *out, unsigned n);
/* Up to n, sorted by id; the number there are. */
int vitrine_vm_vcpus(struct vitrine_vm *vm, struct vitrine_vcpu_info *out, unsigned n);

/* ENOENT: no such vCPU. */
int vitrine_vcpu_get_regs(struct vitrine_vm *vm, uint32_t vcpu, struct vitrine_regs *out);
/* EINVAL: a combination that no CPU has. tsc and apic_base are not written. */
int vitrine_vcpu_set_regs(struct vitrine_vm *vm, uint32_t vcpu, const struct vitrine_regs *regs);
/* By the page tables of this vCPU now; no accessed bit is set. 0 whatever the result; see out->result. */
int vitrine_vcpu_translate(struct vitrine_vm *vm, uint32_t vcpu, uint64_t gva, struct vitrine_translation *out);

/*
 * Guest-physical memory, any alignment and size. How many bytes were read or written: fewer than asked if memory ends. -1 and EFAULT: there is no memory at
 * gpa. Writes are as the VMM's own: they reach read-only slots too, and are seen by the guest and by logs of dirty pages.
 */
ssize_t vitrine_mem_read(struct vitrine_vm *vm, uint64_t gpa, void *to, size_t bytes);
ssize_t vitrine_mem_write(struct vitrine_vm *vm, uint64_t gpa, const void *from, size_t bytes);

enum vitrine_dump_format {
    VITRINE_DUMP_RAW, /* byte n of the file is guest-physical byte n */
    VITRINE_DUMP_ELF, /* a core file for x86-64: a load segment per slot with its physical address, NT_PRSTATUS per vCPU */
    VITRINE_DUMP_LIME /* version 1: a header before each slot's bytes */
};

/* Told now and then how far it is; false ends the dump with ECANCELED. */
typedef bool (*vitrine_dump_progress)(uint64_t done_bytes, uint64_t all_bytes, void *arg);

/*
 * Writes all memory of the normal address space to fd, from its position on: pages of zeroes become holes where the file can have some. The guest stands still
 * meanwhile, unless is_live. progress may be NULL. Errors of lseek and write; ENOTSUP: raw to what cannot seek.
 */
int vitrine_vm_dump(struct vitrine_vm *vm, int fd, enum vitrine_dump_format format, bool is_live, vitrine_dump_progress progress, void *arg);

/*
 * No vCPU runs guest instructions until vitrine_vm_resume; returns when all stand still. It outlives the handle: another one may resume. Pausing a paused VM
 * and resuming a running one do nothing.
 */
int vitrine_vm_pause(struct vitrine_vm *vm);
int vitrine_vm_resume(struct vitrine_vm *vm);
/* As pause, but for this handle only: counted, and undone when it is closed or its process ends. */
int vitrine_vm_hold(struct vitrine_vm *vm);
int vitrine_vm_release(struct vitrine_vm *vm);

#ifdef __cplusplus
}
#endif

#endif
