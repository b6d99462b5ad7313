/* SPDX-License-Identifier: MIT */
/*
 * Translations and where they live. Four words:
 *   block     host code for a run of guest instructions of one page, made for one linear address and one mode key
 *   exit      a place where a block leaves to another block or to the run loop
 *   link      an exit to a known target in the same page: a jump that is patched to the target once that is translated
 *   fault map host address to guest instruction, for hardware faults inside a block
 *
 * A block has three ways in (executable addresses):
 *   landing   from indirect jumps and other pages: T0 holds the linear target and is checked against the block's own; status flags are in saved_flags
 *   polled    polls exit_req; status flags are in saved_flags
 *   body      status flags are in the hardware
 *
 * Life of a block: translated (under code_lock) -> published in its page's list, found by lookups, linked -> dead (its page was written: unlinked, its landing
 * overwritten with a jump to the miss stub; a vCPU may still be inside it and leaves at its next exit) -> freed when the whole cache is flushed with all vCPUs
 * stopped.
 */
#ifndef VITRINE_ENGINE_SOFT_CODE_H
#define VITRINE_ENGINE_SOFT_CODE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/soft/emit.h"
#include "engine/soft/soft_priv.h"
#include "x86/features.h"

/* ---- mode key: what a translation depends on besides its bytes ---- */
#define KEY_MODE_16 0u
#define KEY_MODE_32 1u
#define KEY_MODE_64 2u
#define KEY_MODE 3u
#define KEY_USER (1u << 2)
#define KEY_FLAT (1u << 3)    /* outside 64-bit mode: DS ES SS are usable, writable, base 0, limit 4 GiB */
#define KEY_FLAT_CS (1u << 4) /* CS base 0, limit 4 GiB (always in 64-bit mode) */
#define KEY_FS_FAST (1u << 5) /* FS needs its base added but no limit check */
#define KEY_GS_FAST (1u << 6)
#define KEY_STACK_32 (1u << 7) /* SS.B, outside 64-bit mode */
#define KEY_X87 (1u << 8)      /* these five: the state is enabled */
#define KEY_MMX (1u << 9)
#define KEY_SSE (1u << 10)
#define KEY_AVX (1u << 11)
#define KEY_AVX512 (1u << 12)
#define KEY_ORDINARY (1u << 13) /* outside 64-bit mode: all data segments are usable, writable, expand-up: checking base and limit is enough */
#define KEY_TSC (1u << 14)      /* RDTSC is allowed and not scaled */
#define KEY_NO_GROUP (1u << 15) /* of a block only: made because a memory group of another one failed (group.c) */
#define KEY_WATCHED (1u << 16)  /* pages are watched: each access may be held up or denied, so the flags before it are kept */

enum leave {
    LEAVE_NONE,
    LEAVE_LOOKUP,
    LEAVE_POLL,
    LEAVE_LINK,
    LEAVE_EXEC,
    LEAVE_SLOW, /* rip is set: its access needs exec_insn */
    LEAVE_FAULT,
    LEAVE_BOUNCED,
    LEAVE_FILL /* not a way out: the fill stub is under way, with the state in memory */
};

#define FAULT_MEMORY 0xffu /* a "vector": not the guest's fault, the host memory behind a slot is gone */

struct link {
    uint8_t *rel32;       /* writable address; NULL: unused */
    const uint8_t *stub;  /* what it jumps to while not linked */
    bool is_saved;        /* flags are in saved_flags at the jump */
    bool is_ungrouped;    /* to a block with KEY_NO_GROUP */
    struct block *to;     /* NULL while not linked */
    struct link *next_in; /* list of the target's incoming links */
    struct block *from;
};

struct fault_entry {
    uint32_t host;     /* offset of the instruction's first host byte from the block's start */
    uint16_t guest;    /* offset of the guest instruction from the block's address */
    uint16_t is_saved; /* flags are in saved_flags */
};

struct block {
    gva_t gva;
    uint64_t cs_base;  /* 0 with KEY_FLAT_CS */
    uint32_t cs_limit; /* 4 GiB - 1 with KEY_FLAT_CS */
    uint32_t key;
    uint16_t page_offset, guest_bytes;
    uint8_t *start; /* writable address of the first host byte = landing */
    uint32_t host_bytes;
    const uint8_t *polled, *polled_from_hw, *body;
    bool needs_flags; /* some status flag is read before it is written */
    bool is_dead;
    bool is_exec_only;            /* its first instruction is for exec_insn: entering it would only come back */
    _Atomic(struct block *) next; /* in its page */
    struct code_page *page;
    struct link link[2];
    struct link *group_link; /* n_group_links, one per memory group */
    uint8_t n_group_links;
    struct link *incoming;
    struct fault_entry *fault_map;
    struct exec_entry *exec; /* the instruction for exec_insn that ends it, if it has a helper */
    unsigned n_faults, n_insns;
};

#define CODE_PAGE_BUCKETS 64
struct code_page {
    uint64_t host_page;
    _Atomic(struct code_page *) next;
    _Atomic bool has_code;
    _Atomic(struct block *) bucket[CODE_PAGE_BUCKETS]; /* by page_offset / 64 */
    uint64_t covered;                                  /* bit n: some block was made from the bytes n * 64 ..., which `copy` then holds */
    _Alignas(8) uint8_t copy[PAGE_BYTES];
};

#define CODE_PAGE_HASH 65536u

struct stubs {
    const uint8_t *enter;                /* void (*)(struct soft_vcpu *, const void *target) */
    const uint8_t *fill;                 /* T0 = gva, T1 = FILL_*: returns T0 = host address, or leaves with LEAVE_SLOW */
    const uint8_t *lookup;               /* T0 = linear rip, flags saved */
    const uint8_t *poll;                 /* the same, because of exit_req */
    const uint8_t *link_hw, *link_saved; /* T0 = linear rip, T1 = struct link */
    const uint8_t *exec_hw, *exec_saved; /* T0 = linear rip of an instruction for exec_insn, T1 = its exec_entry or NULL */
    const uint8_t *bounced;              /* end of a bounced instruction, flags in hardware */
    const uint8_t *fault;                /* after a hardware fault: registers were stored by the signal handler */
};

#define FILL_WRITE 1u
#define FILL_BYTES_SHIFT 8

/* Native copies of instructions, for exec_insn, by a hash of their bytes. */
#define BOUNCE_CODES 1024u
struct bounce_code {
    uint8_t bytes[INSN_MAX_BYTES], len, mode_bits;
    const uint8_t *code;
};

struct soft_vm {
    struct vm *vm;
    pthread_mutex_t code_lock; /* translation, linking, invalidation */
    _Atomic int stop_request;  /* vCPUs stay out of guest mode while it is not 0 */
    pthread_mutex_t stop_lock; /* one stopper at a time */

    uint8_t *cache_rw, *cache_rx;
    size_t cache_bytes;
    struct emit cache;     /* p is the next free byte */
    uint8_t *blocks_start; /* after the stubs: a flush goes back to here */
    struct stubs stubs;
    struct tc *tc;             /* the translation under construction */
    struct block **by_address; /* in order of host address; a fixed mapping, since signal handlers read it without a lock */
    _Atomic unsigned n_blocks;
    struct memslots *seen_slots[SPACE_COUNT]; /* the tables that the translations were made under; only compared */
    void *arena;                              /* chunks of blocks and fault maps, freed at a flush */
    _Atomic(struct code_page *) page[CODE_PAGE_HASH];
    struct bounce_code bounce[BOUNCE_CODES];
    _Atomic uint32_t flush_generation;
    struct features features;
    bool has_features;
    bool is_stepping; /* no blocks: every instruction by exec_insn */
    uint64_t n_translated_insns, n_flushes, n_invalidated;
};

static inline struct soft_vm *soft_vm_of(struct soft_vcpu *sv)
{
    return sv->v.vm->engine_data;
}

/* ---- cache.c: memory, pages, blocks, links. All but lookups under code_lock ---- */
int cache_init(struct soft_vm *svm);
void cache_fini(struct soft_vm *svm);
void *cache_alloc(struct soft_vm *svm, size_t bytes); /* zeroed, lives until the flush; NULL without memory */
void cache_flush(struct soft_vm *svm);                /* all vCPUs stopped */
/* The block for sv's current segments and the key at gva, whose code byte is at host; NULL if there is none. Takes no lock. */
struct block *cache_find(struct soft_vcpu *sv, gva_t gva, const uint8_t *host, uint32_t key);
struct code_page *cache_page(struct soft_vm *svm, uint64_t host_page); /* NULL if never translated. Takes no lock. */
struct code_page *cache_page_make(struct soft_vcpu *sv, uint64_t host_page);
int cache_publish(struct soft_vm *svm, struct block *b);
void cache_link(struct soft_vm *svm, struct link *l, struct block *to);
/* Kills the blocks that overlap the bytes. */
void cache_invalidate(struct soft_vm *svm, struct code_page *page, unsigned offset, unsigned bytes);
/* Brings `bytes` bytes of the copy, in whole 64-byte lines, up to date; kills blocks whose bytes changed behind our back (a client's thread wrote them). */
void cache_page_refresh(struct soft_vm *svm, struct code_page *p, unsigned offset, unsigned bytes);
/* No lock held: a page is about to be fetched from anew: kills its blocks if its bytes changed behind our back. */
bool cache_verify(struct soft_vcpu *sv, const uint8_t *host);           /* true if guest mode was left meanwhile */
struct block *cache_block_at(struct soft_vm *svm, const uint8_t *exec); /* that contains the host address, or NULL */

/* ---- stubs.c ---- */
void stubs_emit(struct soft_vm *svm);

/* ---- translate.c ---- */
int translate_init(struct soft_vm *svm); /* -ENOMEM */
void translate_fini(struct soft_vm *svm);
/* A block starting at gva (host: where its bytes are), or NULL: the cache is full or memory is short. Under code_lock, vectors saved. */
struct block *translate(struct soft_vcpu *sv, gva_t gva, const uint8_t *host, uint32_t key);
/* Emits `in` on the bounce buffer, ending at the bounced stub. Returns its executable address or NULL if the cache is full. */
const uint8_t *translate_bounce(struct soft_vm *svm, const struct insn *in);
/* Whether the mode lets the instruction's state be used; else exec_insn raises #UD or #NM. */
bool translate_fp_is_enabled(uint32_t key, const struct insn *in);

/* ---- exec.c ---- */
#define EXEC_CACHE_ENTRIES 512u
struct exec_entry {
    gva_t gva;
    uint32_t mode_bits;
    uint32_t generation; /* flush_generation + 1 when made: its bounce code dies with a flush */
    bool is_refused;     /* #UD */
    struct insn in;
    helper_fn helper;
    const uint8_t *bounce;
};
void exec_entry_init(struct exec_entry *x, const struct insn *in, const struct soft_vm *svm);
static inline struct block *block_of_landing(const void *landing)
{
    return *(struct block *const *)((uintptr_t)landing - sizeof(struct block *));
}

/* ---- safe.c ---- */
/*
 * All vCPUs but self out of guest mode, and staying out until world_resume. The caller holds code_lock and is not in guest mode itself.
 */
void world_stop(struct soft_vcpu *self_or_null, struct vm *vm);
void world_resume(struct vm *vm);
/*
 * Guest mode is where a vCPU may use TLB entries, slots, code pages and blocks: translated code and the light C around it. A vCPU leaves it before it takes a
 * lock or calls out for long; whatever it knew of those is void when it enters again if flush_generation changed.
 */
void guest_mode_enter(struct soft_vcpu *sv);
static inline void guest_mode_leave(struct soft_vcpu *sv)
{
    atomic_store_explicit(&sv->in_guest_mode, false, memory_order_release);
}
void code_flush_all(struct soft_vcpu *sv); /* drops all translations; code_lock held, self out of guest mode */
void safe_memory_changed(struct vm *vm, gpa_t gpa, uint64_t bytes);
void safe_flush_tlbs(struct vcpu *v, bool (*is_wanted)(struct vcpu *other, const void *arg), const void *arg);
void safe_pages_changed(struct vm *vm, const hva_t *page, unsigned n);

/* ---- run.c ---- */
/* Host address of the code byte at gva, or NULL with sv->fault (is_fault) or because there is no RAM. In guest mode. */
const uint8_t *fetch_host(struct soft_vcpu *sv, gva_t gva, bool *is_fault);
/* Enters translated code with the state in memory; returns an enum leave with the state in memory again. */
enum leave guest_enter(struct soft_vcpu *sv, const uint8_t *target);
int run_vcpu(struct vcpu *v);
/* Has code compared with its translations again if the client announced something since the last time (docs/decisions/0004). */
void run_notice_client(struct soft_vcpu *sv);
/* Back to where __builtin_setjmp(sv->recover) was called, from C in guest mode. */
_Noreturn void run_unwind(struct soft_vcpu *sv);

/* ---- event.c ---- */
/* Looks at requests, MP state and pending events, out of guest mode. STEP_NEXT: go on; STEP_EXIT: v->exit is filled (EXIT_INTR: a signal). */
enum step event_requests(struct soft_vcpu *sv);
/* help_smm.c: takes the pending SMI, out of guest mode, vectors saved. STEP_NEXT, or STEP_EXIT: it cannot be taken. */
enum step smi_take(struct soft_vcpu *sv);
/* In its place while the vCPU is held: sleeps until something changes. */
enum step event_hold(struct soft_vcpu *sv);
/* Delivers sv->fault. STEP_NEXT, or STEP_EXIT after a triple fault or for the client's debugger. */
enum step event_fault(struct soft_vcpu *sv);

static inline unsigned jump_cache_index(gva_t gva)
{
    uint32_t a = (uint32_t)gva;
    return (a ^ a >> 10) & (JUMP_CACHE_ENTRIES - 1);
}

/* ---- signal.c ---- */
int signal_init(void);
void signal_set_vcpu(struct soft_vcpu *sv); /* the vCPU that the calling thread runs, or NULL */

/* ---- soft.c ---- */
uint64_t gs_swap_by_call(uint64_t value); /* sets the GS base without FSGSBASE; returns the old one */

#endif
