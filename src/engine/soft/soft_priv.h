/* SPDX-License-Identifier: MIT */
/*
 * Inside the soft engine: its vCPU, and the contracts between its parts (run loop, translator, MMU, helpers).
 *
 * The vector rule: while a vCPU is between two safe points the guest's x87/vector state may be live in the hardware. Everything in this folder is
 * compiled with -mgeneral-regs-only and calls no libc function that may use vector registers (memcpy, memset...: use light.h).
 * Before calling out (core, chips, libc, Zydis) call fp_put(); it is cheap when the state is already saved. The run loop loads it again on entry.
 *
 * GS holds the struct soft_vcpu while translated code runs.
 */
#ifndef VITRINE_ENGINE_SOFT_PRIV_H
#define VITRINE_ENGINE_SOFT_PRIV_H

#include <stdatomic.h>

#include "core/vcpu.h"
#include "core/view.h"
#include "core/vm.h"
#include "x86/insn.h"

/* ---- TLB ------------------------------------------------------------------------------------------------------------------------------- */

#define TLB_ENTRIES 1024u
struct tlb_entry {
    gva_t page;    /* linear page address; TLB_EMPTY matches nothing */
    uint64_t host; /* address of the page in this process */
};
#define TLB_EMPTY 0x0fffffffffff0000ull /* not canonical, so no access ever lands within 4 KiB above it */

enum tlb_kind { TLB_READ, TLB_WRITE, TLB_FETCH, TLB_KINDS };
struct tlb {
    struct tlb_entry entry[TLB_ENTRIES]; /* index (gva >> 12) % TLB_ENTRIES */
};

/* ---- vCPU ------------------------------------------------------------------------------------------------------------------------------ */

/* What one instruction executed by C came to. */
enum step {
    STEP_NEXT,       /* done; the caller moves rip past it */
    STEP_JUMP,       /* done; the helper set rip */
    STEP_FAULT,      /* nothing committed; sv->fault says what */
    STEP_EXIT,       /* nothing committed; v->exit filled; the instruction restarts when the client has answered */
    STEP_NEXT_EXIT,  /* done, then leave to the client with v->exit (OUT, HLT) */
    STEP_REPEAT,     /* a REP iteration or chunk is done, state committed, rip unchanged: look at events, then again */
    STEP_REPEAT_EXIT /* the same, but first leave to the client with v->exit (REP OUTS) */
};

struct soft_vcpu;
typedef enum step (*helper_fn)(struct soft_vcpu *sv, const struct insn *in);

#define GROUPS_MAX 8u /* memory groups of a block */

struct block;
#define JUMP_CACHE_ENTRIES 4096u

struct soft_vcpu {
    struct vcpu v; /* first: GS points here */

    struct fault fault;               /* of the last STEP_FAULT */
    bool fp_loaded;                   /* the guest's x87/vector state is in the hardware */
    _Atomic bool in_guest_mode;       /* see world_stop in run.c */
    uint32_t key;                     /* mode key of translations, rebuilt by mode_update() after anything that may change it */
    uint8_t mode_bits;                /* of CS: 16 32 64 */
    uint8_t stack_bytes;              /* stack address size 2 4 8 */
    bool is_user;                     /* CPL 3: selects TLB set 1 */
    bool is_stepping;                 /* TF, breakpoints or the client's debugging: one instruction at a time, by exec_insn */
    bool is_irq_waiting;              /* an interrupt or an interrupt-window request waits for RFLAGS.IF or a shadow to go */
    uint64_t jump_cache_used[2];      /* [is_user], bit n: entries n * 64 ... may hold a landing */
    struct asid *asid;                /* asid.c */
    _Atomic bool is_flushed_by_other; /* by a hypercall: tools are to be told */
    uint32_t n_pauses;                /* executed by a kernel */
    unsigned asid_victim;
    uint32_t jump_cache_key[2]; /* mode key that the jump cache's entries were made for */
    bool is_checking;           /* data breakpoints or alignment checks: every access goes through access.c */

    /* Used by translated code and its stubs; see code.h. */
    struct soft_vcpu *self;
    uint64_t host_rsp;     /* of the frame that the enter stub made */
    uint32_t saved_flags;  /* status flags while not in the hardware: AH as LAHF gives them, AL = OF */
    uint32_t leave_reason; /* enum leave */
    uint64_t leave_t0, leave_t1;
    uint64_t scratch[3];
    uint64_t group[GROUPS_MAX]; /* host addresses of the memory groups of the block at work (group.c) */
    uint64_t left_tsc;          /* host TSC when the last run returned to the client */
    uint32_t client_epoch;      /* vm.client_epoch when code was last looked at again */
    uint64_t host_gs;           /* the client's GS base while a run is under way */
    uint32_t host_mxcsr;        /* the client's control words, put back when the guest's state leaves the hardware */
    uint16_t host_fcw;
    void *recover[5];                 /* where C that meets vanished memory in guest mode goes on, see signal.c */
    struct exec_entry *exec_cache;    /* EXEC_CACHE_ENTRIES decoded instructions, checked against memory at each use, and one at work */
    _Alignas(64) uint8_t bounce[256]; /* operand of an instruction executed on a copy, at the offset of its guest address within 64 bytes */

    /* walk.c, tlb.c, access.c; zero-filled memory is a valid start once tlb_flush() ran */
    uint8_t phys_bits;                           /* the guest's MAXPHYADDR, 0 until asked for; tlb_flush() forgets it */
    bool has_1g_pages;                           /* valid with phys_bits */
    uint8_t n_smap_entries;                      /* user pages in set 0, installed while RFLAGS.AC allowed it; SMAP_ENTRIES_MAX + 1: too many to list */
    uint16_t smap_entry[16];                     /* kind * TLB_ENTRIES + index */
    uint64_t tlb_clean[2][3];                    /* [is_user][kind], bit n: entries n * 16 ... are all empty */
    uint64_t tlb_global[2][3][TLB_ENTRIES / 64]; /* bit per entry: its page is global */
    uint64_t tlb_local[2][3];                    /* [is_user][kind], bit n: entries n * 16 ... may hold one that is not global */
    bool has_local_fetch[2];                     /* [is_user]: the jump cache may hold targets in pages that are not global */
    uint64_t large_4m, large_1g;                 /* hashes of the regions that hold fragments of 2M/4M and 1G pages */
    uint64_t fetched[2][4];                      /* [is_user], hash of the pages that fetch entries were made for */
    bool has_low_fetch[2]; /* [is_user], some of them in the lower half: a kernel's own are not, so a user page's INVLPG spares its jump targets */
    uint8_t insn_bytes;    /* of the instruction that exec_insn executes */
    uint8_t dr6_hits;      /* DR6 B0-B3 of data and I/O breakpoints met by this instruction; cleared by the run loop */

    struct tlb tlb[2][TLB_KINDS];                  /* [is_user] */
    const void *jump_cache[2][JUMP_CACHE_ENTRIES]; /* [is_user], host entry points that verify themselves */
};

static inline struct soft_vcpu *to_soft(struct vcpu *v)
{
    return (struct soft_vcpu *)v;
}

/* The slots of the address space that the vCPU is in. Valid until it leaves guest mode. */
static inline const struct memslots *slots_seen(const struct soft_vcpu *sv)
{
    return atomic_load_explicit(&sv->v.vm->slots[vcpu_space(&sv->v)], memory_order_acquire);
}

static inline gva_t linear_rip(const struct soft_vcpu *sv)
{
    return sv->mode_bits == 64 ? sv->v.cpu.rip : (uint32_t)(sv->v.cpu.rip + sv->v.cpu.seg[SEG_CS].base);
}

/* ---- fp.c, mode.c ----------------------------------------------------------------------------------------------------------------------- */

/* Saves the guest's x87/vector state to v.cpu.xsave if it is in the hardware; after it any C may be called. */
void fp_put(struct soft_vcpu *sv);
/* Rebuilds key, mode_bits, stack_bytes, is_user from CR0, CR4, EFER, segments, RFLAGS. Call after changing any of them. */
void mode_update(struct soft_vcpu *sv);

static inline enum step step_fault(struct soft_vcpu *sv, unsigned vector)
{
    sv->fault = (struct fault){ .vector = (uint8_t)vector };
    return STEP_FAULT;
}

static inline enum step step_fault_code(struct soft_vcpu *sv, unsigned vector, uint32_t code)
{
    sv->fault = (struct fault){ .vector = (uint8_t)vector, .has_code = true, .code = code };
    return STEP_FAULT;
}

/* ---- walk.c, tlb.c ------------------------------------------------------------------------------------------------------------------------- */

#define ACCESS_READ 0u
#define ACCESS_WRITE 1u
#define ACCESS_FETCH 2u
#define ACCESS_USER 4u     /* as CPL 3 */
#define ACCESS_IMPLICIT 8u /* supervisor access by the CPU itself (descriptor tables, TSS): SMAP ignores RFLAGS.AC */
#define ACCESS_PROBE 16u   /* set no A/D bit (KVM_TRANSLATE) */
#define ACCESS_UNTOLD 32u  /* a check that the memory is there: nothing is accessed, tools are not asked */
#define ACCESS_UPDATE 64u  /* with ACCESS_WRITE: of what is read first; tools are asked once about both */

/* Walks the guest's page tables; sets A and D atomically. 0 with *gpa, or -EFAULT with sv->fault = #PF (or #GP for a non-canonical address; the caller turns it
 * into #SS for the stack). */
int walk(struct soft_vcpu *sv, gva_t gva, unsigned access, gpa_t *gpa, bool *is_writeable, bool *is_usermode);

/*
 * Fills the TLB for an access that does not cross a page: returns the host address of gva, or NULL: then *reason says why.
 * Called by translated code's miss path with the guest's vectors live.
 */
enum tlb_miss { TLB_MISS_FAULT, TLB_MISS_MMIO, TLB_MISS_CODE_PAGE /* write to a page with translations */, TLB_MISS_WATCHED };
hva_t tlb_fill(struct soft_vcpu *sv, gva_t gva, enum tlb_kind kind, bool is_user, enum tlb_miss *reason);
void tlb_flush(struct soft_vcpu *sv);       /* everything, global pages too; the jump cache with it */
void tlb_flush_fetch(struct soft_vcpu *sv); /* fetch entries and jump targets: each page is compared with its translations when it is fetched from again */
void tlb_flush_local(struct soft_vcpu *sv); /* all but global pages: MOV CR3 */
void tlb_flush_page(struct soft_vcpu *sv, gva_t gva);
/* Drops write entries that point into the host page (a page got translations). Only by sv's own thread. */
void tlb_drop_write(struct soft_vcpu *sv, uint64_t host_page);
/* Drops all entries that point into the host page. All vCPUs are stopped. The jump cache is the caller's. */
void tlb_drop_page(struct soft_vcpu *sv, uint64_t host_page);

/*
 * Loads cpu.pdpte from the table at cr3 (MOV CR0/CR3/CR4 with PAE paging). 0; -EINVAL (#GP) on a reserved bit or where there is no RAM, cpu.pdpte unchanged.
 */
int pdpte_load(struct soft_vcpu *sv, uint64_t cr3);
/* RFLAGS.AC or CPL may have changed: drops set 0's entries that SMAP now forbids. Cheap when there are none. */
void smap_ac_changed(struct soft_vcpu *sv);

/* The block cache's side of it (lock-free, no vector registers). */
void jump_cache_flush(struct soft_vcpu *sv);
void jump_cache_flush_set(struct soft_vcpu *sv, bool is_user);
void jump_cache_init(struct soft_vcpu *sv);
void tlb_note_fetched(struct soft_vcpu *sv, gva_t gva, bool is_user); /* a fetch entry for the page exists */
bool code_page_has(struct soft_vcpu *sv, gfn_t gfn);
/* After a store to a page with translations. */
void code_page_written(struct soft_vcpu *sv, gpa_t gpa, unsigned bytes);

/* ---- access.c: every guest memory access made by C --------------------------------------------------------------------------------------- */

/*
 * Linear accesses, at the current CPL unless `access` has ACCESS_IMPLICIT (then as supervisor). Any size up to a page or two; may cross pages: both are checked
 * before anything is read or written. MMIO reads are replayed from v.replay or end in STEP_EXIT; MMIO writes are posted. Data breakpoints are noted. Return
 * STEP_NEXT, STEP_FAULT or STEP_EXIT. On anything but STEP_NEXT nothing was written.
 */
enum step linear_read(struct soft_vcpu *sv, gva_t gva, void *buf, unsigned bytes, unsigned access);
enum step linear_write(struct soft_vcpu *sv, gva_t gva, const void *buf, unsigned bytes, unsigned access);
/* Fills v->exit.access: what is at gva has no host address for such an access. */
void access_report(struct soft_vcpu *sv, gva_t gva, gpa_t gpa, unsigned access);
/* Checks that a later write of the same range cannot fault. */
enum step linear_probe_write(struct soft_vcpu *sv, gva_t gva, unsigned bytes, unsigned access);
/*
 * A host pointer for up to `bytes` of plain RAM at gva, not crossing a page, or NULL without a fault raised: string instructions' fast path.
 * For writes it is given only if the page has no translations.
 */
hva_t linear_host(struct soft_vcpu *sv, gva_t gva, unsigned bytes, bool is_write);

/*
 * Segmented accesses: seg:offset with the offset already truncated to the address size; checks type, limit, canonical form; #GP or #SS.
 */
enum step seg_linear(struct soft_vcpu *sv, unsigned seg, uint64_t offset, unsigned bytes, bool is_write, gva_t *gva);
enum step seg_read(struct soft_vcpu *sv, unsigned seg, uint64_t offset, void *buf, unsigned bytes);
enum step seg_write(struct soft_vcpu *sv, unsigned seg, uint64_t offset, const void *buf, unsigned bytes);

/* Effective address of in->mem (offset within in->mem.seg), truncated to the address size. Uses the registers in v.cpu. */
uint64_t insn_ea(const struct soft_vcpu *sv, const struct insn *in);
/* Reads or writes the memory operand; `bytes` may differ from in->mem.bytes. */
enum step mem_read(struct soft_vcpu *sv, const struct insn *in, void *buf, unsigned bytes);
enum step mem_write(struct soft_vcpu *sv, const struct insn *in, const void *buf, unsigned bytes);

/* Visible operand n as an integer of its size, zero-extended: register, memory or immediate. */
enum step opnd_read(struct soft_vcpu *sv, const struct insn *in, unsigned n, uint64_t *value);
/* Writes it with the architecture's rule: 32-bit register writes clear the upper half, 8 and 16 keep the rest. */
enum step opnd_write(struct soft_vcpu *sv, const struct insn *in, unsigned n, uint64_t value);
void gpr_write(struct soft_vcpu *sv, unsigned reg, unsigned bytes, uint64_t value);

/* Stack: pushes and pops of 2, 4 or 8 bytes by SS and the stack size; *sp is a working copy of rSP that the helper commits when all succeeded. */
enum step stack_push(struct soft_vcpu *sv, uint64_t *sp, uint64_t value, unsigned bytes);
enum step stack_pop(struct soft_vcpu *sv, uint64_t *sp, uint64_t *value, unsigned bytes);
/* Commits a working copy: only the low stack_bytes of rSP change. */
void stack_commit(struct soft_vcpu *sv, uint64_t sp);

/* Notes I/O breakpoints on a port access (CR4.DE) in dr6_hits. */
void access_note_io(struct soft_vcpu *sv, unsigned port, unsigned bytes);
/* Notes data breakpoints on an access that was not made by the functions above. */
void access_note_data(struct soft_vcpu *sv, gva_t gva, unsigned bytes, unsigned access);
/* Whether CR0.AM and RFLAGS.AC make this access of a program fault. */
bool access_is_misaligned(const struct soft_vcpu *sv, gva_t gva, unsigned bytes);

/* ---- help_*.c: helpers; helpers.c holds the table from mnemonic to helper ---------------------------------------------------------------- */

/* The helper for a decoded instruction, or NULL if it runs natively. Called once at decode. */
helper_fn helper_find(const struct insn *in);

/* help_seg.c: loads a segment register in the current mode with all checks (MOV/POP/LDS...). Not CS. */
enum step seg_load(struct soft_vcpu *sv, unsigned seg, uint16_t selector);

/* help_int.c: delivers an event through the IVT or IDT, all modes, faults on the way included (double and triple). `kind` decides error code, rip and privilege
 * checks. */
enum event_kind { EVENT_EXTERNAL, EVENT_NMI, EVENT_EXCEPTION, EVENT_SOFT_INT /* INT n, INT3, INTO */, EVENT_ICEBP };
/*
 * Returns STEP_JUMP when the CPU is at the handler; STEP_EXIT on triple fault (v->exit = EXIT_SHUTDOWN); STEP_NEXT: a tool dropped it; STEP_FAULT with
 * FAULT_WATCH: nothing happened, a tool is asked. For EVENT_SOFT_INT and EVENT_ICEBP next_rip is what is
 * pushed; otherwise cpu.rip is. An exception kind also updates CR2, DR6 and RF as architected.
 */
enum step event_deliver(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f, uint64_t next_rip);

/* ---- watch.c: events for tools, core/watch.h ----------------------------------------------------------------------------------------------- */

#define FAULT_ACCESS 0xfdu /* a "vector": v->exit.access is filled, as vm.reports_accesses says; exec_insn makes it STEP_EXIT with EXIT_ACCESS */
#define FAULT_WATCH 0xfeu  /* a "vector": an access waits for an answer; exec_insn makes it STEP_EXIT with EXIT_WATCH */

static inline bool watch_is_on(const struct soft_vcpu *sv, uint32_t kinds)
{
    return atomic_load_explicit(&sv->v.vm->watch.kinds, memory_order_relaxed) & kinds;
}

/* Not the guest's: the instruction or delivery is left as it was, for a tool or the client. */
static inline bool fault_leaves(const struct fault *f)
{
    return f->vector == FAULT_WATCH || f->vector == FAULT_ACCESS;
}

/* STEP_NEXT: go on, e->value is what is to be written; STEP_EXIT: return that. */
enum step watch_insn_ask(struct soft_vcpu *sv, struct watch_event *e);
/* Before an access to a page that is slow, with WATCH_READ, WRITE, EXECUTE: STEP_NEXT, or STEP_FAULT with FAULT_WATCH. */
enum step watch_access_ask(struct soft_vcpu *sv, gva_t gva, gpa_t gpa, unsigned bytes, unsigned access);
/* Before the delivery of an exception or interrupt: STEP_JUMP deliver it, STEP_NEXT it is dropped, STEP_FAULT with FAULT_WATCH. */
enum step watch_delivery_ask(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f);
/* What was delivered, or dropped, is no tool's injection any more. */
void watch_delivery_over(struct soft_vcpu *sv, enum event_kind kind);
/* What comes to a vCPU between two instructions: false if it has to come again later. *is_dropped: a tool does not let it. */
bool watch_between_ask(struct soft_vcpu *sv, uint32_t index, uint64_t value, bool *is_dropped);
/* CR0, CR3 and CR4 were these before what is no MOV to them. */
void watch_tell_crs(struct soft_vcpu *sv, const uint64_t old[3]);
/* Of what was injected and could not be delivered another exception came. */
void watch_tell_escalated(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f);
/* What was given for an event of this instruction, or NULL. */
const struct watch_reply *watch_gift(struct soft_vcpu *sv, uint32_t kind, uint32_t index);
/* Whether something else than memory is read there, and puts it in the place of what was read. */
bool watch_meets_gift(const struct soft_vcpu *sv, gva_t gva, unsigned bytes);
static inline bool watch_is_given(const struct soft_vcpu *sv, gva_t gva, unsigned bytes)
{
    return sv->v.watch.n_gifts && watch_meets_gift(sv, gva, bytes);
}
void watch_give(const struct soft_vcpu *sv, gva_t gva, uint8_t *buf, unsigned bytes, bool is_code);
/* The page has watched bytes for such an access. General registers only. */
bool watch_table_has_page(const struct watch_table *t, gpa_t gpa, unsigned access);

/* Some page is slow. */
static inline bool watch_has_pages(const struct soft_vcpu *sv)
{
    return atomic_load_explicit(&sv->v.vm->watch.table, memory_order_relaxed) || view_is_denying(&sv->v);
}

/* Such an access gets no TLB entry. */
static inline bool watch_page_is_slow(const struct soft_vcpu *sv, gpa_t gpa, unsigned access)
{
    const struct watch_table *t = atomic_load_explicit(&sv->v.vm->watch.table, memory_order_acquire);
    return t && watch_table_has_page(t, gpa, access);
}

/* An instruction with nothing but numbers to tell. */
static inline enum step watch_insn(struct soft_vcpu *sv, uint32_t kind, uint32_t index, uint64_t old_value, uint64_t *value)
{
    if (!watch_is_on(sv, kind))
        return STEP_NEXT;
    struct watch_event e = { .kind = kind, .index = index, .old_value = old_value, .value = *value };
    enum step s = watch_insn_ask(sv, &e);
    *value = e.value;
    return s;
}

#endif
