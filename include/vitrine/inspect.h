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
    uint64_t memory_bytes;         /* of all slots of the normal address space, without pages of tools */
    uint32_t is_paused;            /* by vitrine_vm_pause; 0 or 1 */
    uint32_t n_clients;            /* connections of tools, this one too */
    uint64_t started_ns;           /* CLOCK_REALTIME of its creation */
    uint32_t n_views, pad;         /* of guest memory, by tools: see vitrine_view_create */
};

#define VITRINE_SLOT_READONLY 1u
#define VITRINE_SLOT_LOG_DIRTY 2u
#define VITRINE_SLOT_PARTLY 4u /* of mappings: behind its beginning there are pages that cannot be shared; they read as zeroes and are this process's own */
#define VITRINE_SLOT_TOOLS 8u  /* a page that a tool added: see vitrine_page_add */

/* Whether vitrine_vm_map can map a slot, or why it cannot. */
enum vitrine_share {
    VITRINE_SHARE_YES,
    VITRINE_SHARE_PRIVATE,  /* private memory of the VMM */
    VITRINE_SHARE_NO_FILE,  /* of a file that the VMM no longer has open */
    VITRINE_SHARE_UNMAPPED, /* the VMM took it away */
    VITRINE_SHARE_BEHIND,   /* it lies behind the end of its file */
    VITRINE_SHARE_UNKNOWN   /* the VMM's process cannot see what its memory is */
};

/* Memory of the guest, as the VMM set it up. */
struct vitrine_slot {
    uint64_t gpa, bytes; /* guest-physical, multiples of 4096 */
    uint64_t host;       /* where it is in the VMM's address space */
    uint32_t id;         /* the VMM's number; bits 16-31: address space, 1 is what is seen in system management mode */
    uint16_t flags;      /* VITRINE_SLOT_* */
    uint16_t share;      /* enum vitrine_share */
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
/* EINVAL: a combination that no CPU has. tsc and apic_base are not written; vitrine_vcpu_set_msrs does. */
int vitrine_vcpu_set_regs(struct vitrine_vm *vm, uint32_t vcpu, const struct vitrine_regs *regs);
/* By the page tables of this vCPU now; no accessed bit is set. 0 whatever the result; see out->result. */
int vitrine_vcpu_translate(struct vitrine_vm *vm, uint32_t vcpu, uint64_t gva, struct vitrine_translation *out);

/*
 * Guest-physical memory, any alignment and size. How many bytes were read or written: fewer than asked if memory ends. -1 and EFAULT: there is no memory at
 * gpa. Writes are as the VMM's own: they reach read-only slots too, and are seen by the guest and by logs of dirty pages.
 */
ssize_t vitrine_mem_read(struct vitrine_vm *vm, uint64_t gpa, void *to, size_t bytes);
ssize_t vitrine_mem_write(struct vitrine_vm *vm, uint64_t gpa, const void *from, size_t bytes);

/* A slot in this process. */
struct vitrine_mapping {
    uint64_t gpa, bytes; /* guest-physical */
    uint64_t host;       /* where it is in the VMM's address space */
    void *at;            /* where it is here */
    uint32_t id, flags;  /* as vitrine_slot's */
};

/*
 * Maps the guest's memory of the normal address space into this process, with no copy: both sides see each other's writes at once. Slots whose beginning can
 * be shared, sorted by address, up to n of them to `out`; how many were mapped. They stay as they are until vitrine_vm_unmap, also after the VM or the handle
 * has gone; memory that the VMM adds or moves later is not in them. Writes reach the guest's data at once, code that it has run already perhaps late, and logs
 * of dirty pages never: for those there is vitrine_mem_write. ENOTSUP: nothing can be shared; vitrine_vm_slots says why.
 */
int vitrine_vm_map(struct vitrine_vm *vm, struct vitrine_mapping *out, unsigned n);
void vitrine_vm_unmap(const struct vitrine_mapping *mapping, unsigned n);

/* ---- one vCPU: standing still, single steps, the rest of its state ---- */

/* As vitrine_vm_pause and vitrine_vm_resume. Of a VM that was paused as a whole, the other vCPUs stay paused. vitrine_vm_resume resumes all. */
int vitrine_vcpu_pause(struct vitrine_vm *vm, uint32_t vcpu);
int vitrine_vcpu_resume(struct vitrine_vm *vm, uint32_t vcpu);
/* As vitrine_vm_hold and vitrine_vm_release. */
int vitrine_vcpu_hold(struct vitrine_vm *vm, uint32_t vcpu);
int vitrine_vcpu_release(struct vitrine_vm *vm, uint32_t vcpu);
/*
 * A vCPU that is paused, or held by this handle, executes n instructions, or pieces of repeated ones, and stands still again; other vCPUs stay as they are.
 * Interrupts wait meanwhile, but if it is halted it waits for what wakes it, which is delivered first. How many were executed: fewer than n if timeout_ms (-1:
 * none) is over. EINVAL: it does not stand still. EBUSY: another tool steps it, or has to answer first what it is about to do.
 */
int vitrine_vcpu_step(struct vitrine_vm *vm, uint32_t vcpu, unsigned n, int timeout_ms);

struct vitrine_msr {
    uint32_t index;
    uint32_t error; /* 0; ENOENT there is none; EINVAL a value that it cannot have */
    uint64_t value;
};

/* MSRs of any index, as the VMM sees them. Each is tried; error says how it went. 0, or -1 if none was. */
int vitrine_vcpu_get_msrs(struct vitrine_vm *vm, uint32_t vcpu, struct vitrine_msr *msr, unsigned n);
int vitrine_vcpu_set_msrs(struct vitrine_vm *vm, uint32_t vcpu, struct vitrine_msr *msr, unsigned n);

/* The x87 and vector registers, in the standard format of XSAVE, each component where CPUID leaf 0xd of this machine has it (SDM vol. 1, "XSAVE Area"). */
#define VITRINE_XSAVE_BYTES 4096
struct vitrine_xsave {
    uint8_t area[VITRINE_XSAVE_BYTES];
};

int vitrine_vcpu_get_xsave(struct vitrine_vm *vm, uint32_t vcpu, struct vitrine_xsave *out);
/* EINVAL: a component that there is not, the compacted format, reserved bits. */
int vitrine_vcpu_set_xsave(struct vitrine_vm *vm, uint32_t vcpu, const struct vitrine_xsave *in);

/*
 * Memory by the page tables of a vCPU now, any alignment and size, as vitrine_mem_read and vitrine_mem_write: permissions do not matter, and no accessed or
 * dirty bits are set. Fewer bytes than asked if the mapping or memory ends; -1 and EFAULT: nothing is mapped at gva, or there is no memory where it is mapped
 * to. *why (may be NULL) is the last page's translation.
 */
ssize_t vitrine_vcpu_mem_read(struct vitrine_vm *vm, uint32_t vcpu, uint64_t gva, void *to, size_t bytes, struct vitrine_translation *why);
ssize_t vitrine_vcpu_mem_write(struct vitrine_vm *vm, uint32_t vcpu, uint64_t gva, const void *from, size_t bytes, struct vitrine_translation *why);

/* ---- dumps ---- */

enum vitrine_dump_format {
    VITRINE_DUMP_RAW, /* byte n of the file is guest-physical byte n */
    /*
     * A core file for x86-64. Load segments have physical addresses, and the linear ones of a vCPU that executes the kernel, or of the first; memory that it
     * does not map is at linear address 0. Notes: registers of each vCPU, and VMCOREINFO if the guest is a Linux that keeps it.
     */
    VITRINE_DUMP_ELF,
    VITRINE_DUMP_LIME /* version 1: a header before each slot's bytes */
};

/* Told now and then how far it is; false ends the dump with ECANCELED. */
typedef bool (*vitrine_dump_progress)(uint64_t done_bytes, uint64_t all_bytes, void *arg);

/*
 * Writes all memory of the normal address space, but pages of tools, to fd, from its position on: pages of zeroes become holes where the file can have some.
 * The guest stands still meanwhile, unless is_live. progress may be NULL. Errors of lseek and write; ENOTSUP: raw to what cannot seek.
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

/* ---- tools that listen ---- */

/*
 * A tool that speaks KVMI listens on a socket, and the VM's process connects to it, again and again until it is detached or the VM ends. `where` is unix:PATH,
 * vsock:PORT or vsock:CID:PORT, with options behind it as of `vitrine attach --kvmi`.
 */
#define VITRINE_ERROR_BYTES 128

enum vitrine_endpoint_state {
    VITRINE_ENDPOINT_CONNECTING, /* nobody is there yet, or was let in */
    VITRINE_ENDPOINT_CONNECTED,
    VITRINE_ENDPOINT_LEAVING /* detached; the tool may tidy up */
};

struct vitrine_endpoint {
    char where[128];                 /* without the options */
    uint8_t state;                   /* enum vitrine_endpoint_state */
    uint8_t dialect;                 /* of the connection: 'a', 'b', 'c'; 0: the tool has not said enough */
    uint8_t has_key, pad;            /* the tool must show one */
    uint32_t n_connections;          /* so far */
    uint64_t since_ns;               /* CLOCK_REALTIME: in this state */
    uint64_t error_ns;               /* when the last attempt or connection ended, or a command of the tool's was refused; 0: none did */
    char error[VITRINE_ERROR_BYTES]; /* why it did, or was, if the protocol's errors do not tell */
};

/*
 * Connects to a tool, now or as soon as one listens. A relative path is this process's. EINVAL: `where` cannot be; EEXIST: it is there already; ENOSPC. Stays
 * when the handle is closed.
 */
int vitrine_vm_attach(struct vitrine_vm *vm, const char *where);
/*
 * Ends this, or with NULL all. A tool that asked to be told of the end is told, and has ten seconds to tidy up and close; then all that it had set is undone.
 * ENOENT: it is not there.
 */
int vitrine_vm_detach(struct vitrine_vm *vm, const char *where);
/* Up to n; the number there are. */
int vitrine_vm_endpoints(struct vitrine_vm *vm, struct vitrine_endpoint *out, unsigned n);

/* ---- events ---- */

/* vitrine_event.kind, and bits of vitrine_subscription.kinds. In brackets: what index, old_value and value are. */
#define VITRINE_ON_CR (1u << 0)         /* CR0, CR3, CR4 or CR8 is about to be written; a task switch, SMI or RSM has written it: told only [which; old; new] */
#define VITRINE_ON_MSR_WRITE (1u << 1)  /* [MSR; old, 0 if it cannot be read; new] */
#define VITRINE_ON_MSR_READ (1u << 2)   /* [MSR] */
#define VITRINE_ON_INT3 (1u << 3)       /* INT3 is about to call its handler */
#define VITRINE_ON_ACCESS (1u << 4)     /* guest memory in one of the subscription's ranges, or as a view denies it: gva, gpa, bytes, access [view] */
#define VITRINE_ON_STEP (1u << 5)       /* before each instruction */
#define VITRINE_ON_CPUID (1u << 6)      /* [leaf; -; subleaf] */
#define VITRINE_ON_XSETBV (1u << 7)     /* [which; old; new] */
#define VITRINE_ON_TABLE (1u << 8)      /* access WRITE: LGDT and its kin, READ: SGDT and its kin [0 GDTR, 1 IDTR, 2 LDTR, 3 TR] */
#define VITRINE_ON_HYPERCALL (1u << 9)  /* VMCALL, VMMCALL [EAX] */
#define VITRINE_ON_PORT (1u << 10)      /* access READ: IN, WRITE: OUT; a repeated INS or OUTS tells once for a run [port; -; for OUT the value] */
#define VITRINE_ON_EXCEPTION (1u << 11) /* about to be delivered; INT n and INT3 are none [vector; error code; CR2 or DR6 bits] */
#define VITRINE_ON_INTERRUPT (1u << 12) /* about to be delivered; NMIs too [vector] */
#define VITRINE_ON_SYSCALL (1u << 13)   /* [0 SYSCALL, 1 SYSENTER, 2 INT 80h; -; RAX] */
#define VITRINE_ON_SYSRET (1u << 14)    /* [0 SYSRET, 1 SYSEXIT; -; RAX] */
#define VITRINE_ON_FLUSH (1u << 15)     /* an instruction flushes TLB entries [enum vitrine_flush] */
#define VITRINE_ON_DEBUG (1u << 16)     /* #DB about to be delivered: breakpoints, single steps, INT1 [0 exception, 1 INT1; -; DR6 bits] */
#define VITRINE_ON_VCPU (1u << 17)      /* what becomes of a vCPU [enum vitrine_vcpu_change] */
#define VITRINE_ON_INJECTED \
    (1u << 18)                    /* what vitrine_vcpu_inject brought is about to be delivered, or what became of it [vector; error code; CR2 or DR6 bits] */
#define VITRINE_ON_END (1u << 19) /* the VM goes: told once, the last event, of no vCPU; then vitrine_vm_next_events fails with ESRCH */

/* vitrine_event.index of VITRINE_ON_FLUSH. In brackets: old_value; value. */
enum vitrine_flush {
    VITRINE_FLUSH_INVLPG,  /* [-; linear address] */
    VITRINE_FLUSH_INVPCID, /* [type, in bits 16-27 PCID; linear address] */
    VITRINE_FLUSH_CR0,     /* [old; new], and so for the next two; CR3 with its no-flush bit is none */
    VITRINE_FLUSH_CR3,
    VITRINE_FLUSH_CR4,
    VITRINE_FLUSH_PARAVIRTUAL /* asked for by another vCPU; told only */
};

/* vitrine_event.index of VITRINE_ON_VCPU. */
enum vitrine_vcpu_change {
    VITRINE_VCPU_CREATED, /* it is run for the first time */
    VITRINE_VCPU_PAUSED,  /* held by a tool or the user, told each time; told only */
    VITRINE_VCPU_HALTS,   /* about to halt, by HLT */
    VITRINE_VCPU_RESET,   /* an INIT has come */
    VITRINE_VCPU_STARTED  /* a SIPI has come [-; vector] */
};

#define VITRINE_READ 1u
#define VITRINE_WRITE 2u
#define VITRINE_EXECUTE 4u /* an instruction begins there: a breakpoint that the guest cannot see, since nothing is written into its code */

/* Bytes of guest-physical memory, first to last, and which accesses count. The CPU's own reads and updates of page tables do not. */
struct vitrine_range {
    uint64_t first, last;
    uint32_t access, pad;
};

#define VITRINE_SUBSCRIBE_ASK 1u  /* the vCPU waits for vitrine_vm_answer */
#define VITRINE_SUBSCRIBE_VCPU 2u /* only on this vCPU */
#define VITRINE_SUBSCRIBE_CR3 4u  /* only with this CR3, of which bits 12-51 count */
#define VITRINE_SUBSCRIBE_RIP 8u  /* only by instructions from first_rip to last_rip */
/* A vCPU that is 4096 events ahead of vitrine_vm_next_events waits until half of them are taken; else what it has to tell then is dropped, and counted. */
#define VITRINE_SUBSCRIBE_LOSSLESS 16u

/* All conditions must hold; they are evaluated before anybody is woken. */
struct vitrine_subscription {
    uint32_t kinds, flags;
    uint32_t vcpu;
    uint32_t cpls; /* bit per privilege level; 0: all */
    uint64_t cr3;
    uint32_t first_index, last_index; /* of vitrine_event.index; all: 0, UINT32_MAX */
    uint64_t value_mask, value;       /* vitrine_event.value & value_mask == value */
    uint64_t count;                   /* so many events, then no more; 0: no end */
    uint64_t first_rip, last_rip;
    uint64_t every; /* one of so many that all of the above lets through, the first of them; 0: each */
};

/* What a vCPU is about to do, and its state before. */
struct vitrine_event {
    uint32_t kind, index, access;
    /* Of an access or port; else of the instruction, 0 if it is none. Access 0: the rest, in a page that denies execution, of one that begins in another. */
    uint32_t bytes;
    uint64_t old_value, value;
    uint64_t gva, gpa;
    uint32_t vcpu, cpl;
    uint64_t rip, rflags, cr3, gpr[16]; /* as in vitrine_regs */
    uint64_t time_ns;                   /* CLOCK_MONOTONIC */
    uint64_t question;                  /* 0: no answer is waited for */
    uint64_t sequence;                  /* from 1, of what the vCPU had to tell this handle; one that is missing was dropped. 0 in questions */
};

enum vitrine_answer {
    VITRINE_CONTINUE, /* it happens; an access too, whatever its instruction */
    VITRINE_DENY,     /* the instruction is skipped and does nothing; an exception or interrupt is dropped, and a fault may come again */
    VITRINE_CHANGE,   /* CR, MSR_WRITE, XSETBV: another value is written */
    VITRINE_RETRY,    /* the instruction starts again, and may be told again */
    VITRINE_EMULATE,  /* MSR_READ, IN and INS, CPUID, HYPERCALL, reading or executing ACCESS: the instruction gets what is given in place of what is there */
    VITRINE_INJECT,   /* an exception comes in place of the instruction or exception; an interrupt in place of one, else when the guest takes interrupts */
    VITRINE_CRASH     /* the VMM gets a shutdown, as of a triple fault */
};

/* An exception or interrupt for a vCPU. */
struct vitrine_injection {
    uint32_t is_interrupt, vector; /* exceptions: below 32; interrupts: from 16 on, or 2, which is the NMI */
    uint32_t has_code, code;       /* of an exception */
    uint32_t has_address, pad;
    uint64_t address; /* for CR2 with #PF, for DR6 with #DB; without it they stay */
};

#define VITRINE_DATA_MAX 256

struct vitrine_reply {
    uint32_t answer; /* enum vitrine_answer */
    uint32_t data_bytes;
    uint64_t value; /* CHANGE; EMULATE of MSR_READ, IN, HYPERCALL: RAX */
    /*
     * EMULATE of ACCESS: what the instruction reads at linear address data_at, whatever else it reads; if execution was asked about, its own bytes. Of CPUID:
     * 16 bytes, EAX EBX ECX EDX. Of INS: so many elements, or with no data one of `value`.
     */
    uint64_t data_at;
    uint8_t data[VITRINE_DATA_MAX];
    struct vitrine_injection injection; /* INJECT */
};

/*
 * From the return on, every such event is told to this handle. Ranges are for ACCESS only, which needs one. A number, or -1; EINVAL a condition that cannot be,
 * ENOSPC too many. All subscriptions end with the handle, and vCPUs that wait for it go on.
 */
int vitrine_vm_subscribe(struct vitrine_vm *vm, const struct vitrine_subscription *what, const struct vitrine_range *range, unsigned n_ranges);
int vitrine_vm_unsubscribe(struct vitrine_vm *vm, int subscription);
/*
 * Waits until there is an event, or so many milliseconds (-1: for ever). Up to n events to `out`, those that wait for an answer first; their number, 0 if the
 * time is over. *dropped, if not NULL: how many this handle lost so far.
 */
int vitrine_vm_next_events(struct vitrine_vm *vm, struct vitrine_event *out, unsigned n, int timeout_ms, uint64_t *dropped);
/*
 * Lets the event's vCPU go on. While it waits, its registers may be read and set; new ones count with RETRY and for what follows. If several tools are asked,
 * the strictest holds: crash, inject, deny, change, emulate, retry, continue. ESTALE: the event is no longer open. EINVAL: it cannot be answered so.
 */
int vitrine_vm_answer(struct vitrine_vm *vm, const struct vitrine_event *event, enum vitrine_answer answer, uint64_t value);
/* The same for answers that need more. EBUSY: what it injects would take the place of something else. */
int vitrine_vm_reply(struct vitrine_vm *vm, const struct vitrine_event *event, const struct vitrine_reply *reply);

/*
 * Without an event: an exception comes before the vCPU's next instruction, an interrupt when the guest takes interrupts next; no interrupt controller knows of
 * it. VITRINE_ON_INJECTED tells what is really delivered. EBUSY: one is on its way already; EINVAL: there is no such vector.
 */
int vitrine_vcpu_inject(struct vitrine_vm *vm, uint32_t vcpu, const struct vitrine_injection *what);

/* ---- views ---- */

/*
 * A view is what guest memory looks like to the vCPUs that are in it: which accesses to which pages are denied, and which pages are the memory of others. A
 * vCPU is in view 0 until it is switched. Addresses are guest-physical, as the guest's own tables give them; what the CPU reads of those tables is remapped
 * too, but never denied. System management mode is outside of all views, and so are devices, the VMM and all functions of this header.
 *
 * A handle has views of its own beside view 0, which belongs to all: there denials add up. To a handle, a vCPU that is in another handle's view is in view 0.
 * Everything that a handle has set ends with it: denials, remappings, its views, whose vCPUs are in view 0 then, and the pages that it added.
 *
 * A denied access is told to the handle as VITRINE_ON_ACCESS, which needs no subscription, with the view's number as index, and the vCPU waits for
 * vitrine_vm_answer. VITRINE_CONTINUE lets that one access pass; so does a handle that goes.
 *
 * On return every vCPU goes by it. On failure nothing has changed. ENOENT: the handle has no such view; ENXIO: there is no such vCPU; EFAULT: there is no
 * memory; EINVAL: not the address of a page.
 */
struct vitrine_page {
    uint64_t gpa;
    uint32_t access;    /* what is allowed: VITRINE_READ | VITRINE_WRITE | VITRINE_EXECUTE, in any combination */
    uint32_t writeable; /* bit n: bytes 128 * n to 128 * n + 127 may be written; all bits are what VITRINE_WRITE stands for */
};

#define VITRINE_PAGES_MAX 65000u /* in one call; E2BIG */

/* A number from 1 on. Everything is allowed in it. ENOSPC: too many. */
int vitrine_view_create(struct vitrine_vm *vm);
int vitrine_view_destroy(struct vitrine_vm *vm, unsigned view);
/* Between two instructions. EBUSY: the vCPU is in another handle's view. */
int vitrine_view_switch(struct vitrine_vm *vm, uint32_t vcpu, unsigned view);
int vitrine_view_of(struct vitrine_vm *vm, uint32_t vcpu);
/*
 * All pages or none. The first goes by `access`: with VITRINE_WRITE all of the page is writeable; without it nothing, but what a call of the second left
 * writeable of it before. The second goes by `writeable` alone.
 */
int vitrine_view_set_access(struct vitrine_vm *vm, unsigned view, const struct vitrine_page *page, unsigned n);
int vitrine_view_set_writeable(struct vitrine_vm *vm, unsigned view, const struct vitrine_page *page, unsigned n);
/* Fills in what this handle has set of each page. */
int vitrine_view_get(struct vitrine_vm *vm, unsigned view, struct vitrine_page *page, unsigned n);
/* In this view the page at gpa is the memory at target, as that is without views; target = gpa ends it. EBUSY: another handle has remapped it in view 0. */
int vitrine_view_remap(struct vitrine_vm *vm, unsigned view, uint64_t gpa, uint64_t target);
/*
 * A page of zeroes where there was no memory, for the guest, its VMM and all tools. It ends when it is removed, when the handle ends, and when the VMM puts
 * memory of its own there. EEXIST: there is memory; ENOSPC: too many. Removing ends what was remapped to it; ENOENT: it is not this handle's.
 */
int vitrine_page_add(struct vitrine_vm *vm, uint64_t gpa);
/*
 * The page of a file at offset takes the place of the one at gpa, until it is removed or the handle ends: with no copy, whoever has that page of the file
 * mapped and the guest see each other's writes. Where the guest has memory, its vCPUs see the file's page, and its VMM, its devices and other tools still the
 * memory, which comes back as it was; where it has none, the page is added as above. If the file is made shorter, the guest sees zeroes. Logs of dirty pages
 * know nothing of it. The VM's process gets the whole file; fd stays the caller's and may be closed. EPERM: that process is another user's than this one's or
 * root; EBADF, EACCES: the file is not open for reading and writing; EINVAL: no ordinary file, or one of huge pages, or not a page in it; EEXIST: this handle
 * has one there; EBUSY: the page is remapped in view 0; ENOSPC: too many.
 */
int vitrine_page_lend(struct vitrine_vm *vm, uint64_t gpa, int fd, uint64_t offset);
int vitrine_page_remove(struct vitrine_vm *vm, uint64_t gpa);

#ifdef __cplusplus
}
#endif

#endif
