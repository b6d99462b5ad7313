/* SPDX-License-Identifier: MIT */
/*
 * The run loop: find or make the block at rip, enter it, see why it left. Everything that is not plain execution is in exec.c (one instruction) and event.c
 * (requests, interrupts, faults). Runs on the client's thread with v->lock held by the front.
 */
#include <errno.h>

#include "base/host.h"
#include "core/hold.h"
#include "engine/soft/code.h"
#include "engine/soft/exec.h"
#include "engine/soft/fp.h"
#include "engine/soft/soft.h"

/* ---- fetch, lookup ---- */

const uint8_t *fetch_host(struct soft_vcpu *sv, gva_t gva, bool *is_fault)
{
    for (;;) {
        const struct tlb_entry *t = &sv->tlb[sv->is_user][TLB_FETCH].entry[(gva >> PAGE_SHIFT) % TLB_ENTRIES];
        if (t->page == (gva & ~PAGE_OFFSET_MASK))
            return (const uint8_t *)(t->host + (gva & PAGE_OFFSET_MASK));
        enum tlb_miss reason;
        hva_t host = tlb_fill(sv, gva, TLB_FETCH, sv->is_user, &reason);
        *is_fault = reason == TLB_MISS_FAULT;
        if (!host || !cache_verify(sv, host))
            return host;
    }
}

/* A block for the first time. NULL with *again: things moved meanwhile; without: there is no memory for one. */
static struct block *make_block(struct soft_vcpu *sv, gva_t gva, const uint8_t *host, uint32_t key, bool *again)
{
    struct soft_vm *svm = soft_vm_of(sv);
    uint32_t generation = atomic_load(&svm->flush_generation);
    struct block *b = NULL;
    fp_put(sv);
    guest_mode_leave(sv);
    pthread_mutex_lock(&svm->code_lock);
    *again = generation != atomic_load(&svm->flush_generation);
    if (!*again) {
        b = cache_find(sv, gva, host, key);
        if (!b)
            b = translate(sv, gva, host, key);
        if (!b) {
            code_flush_all(sv);
            b = translate(sv, gva, host, key);
        }
        *again = b && b->is_dead; /* another vCPU's store came while it was made */
        generation = atomic_load(&svm->flush_generation);
    }
    pthread_mutex_unlock(&svm->code_lock);
    guest_mode_enter(sv);
    *again |= generation != atomic_load(&svm->flush_generation);
    return *again ? NULL : b;
}

/* The jump cache holds landings of blocks for the current mode only, and of pages that fetch entries stand for. */
static struct block *cached_block(struct soft_vcpu *sv, gva_t gva)
{
    const void *landing = sv->jump_cache[sv->is_user][jump_cache_index(gva)];
    if (!(sv->key & KEY_FLAT_CS) || landing == soft_vm_of(sv)->stubs.lookup)
        return NULL;
    struct block *b = block_of_landing(landing);
    return b->gva == gva && !b->is_dead ? b : NULL;
}

/* The block at cs:rip, with KEY_NO_GROUP if `variant` is that. NULL with STEP_FAULT: the fetch faulted; with STEP_NEXT: there is no RAM, which exec_insn
 * reports. */
static struct block *find_block(struct soft_vcpu *sv, uint32_t variant, enum step *s)
{
    gva_t gva = linear_rip(sv);
    *s = STEP_NEXT;
    struct block *known = variant ? NULL : cached_block(sv, gva);
    if (known)
        return known;
    for (;;) {
        bool is_fault, again = false;
        const uint8_t *host = fetch_host(sv, gva, &is_fault);
        if (!host) {
            *s = is_fault ? STEP_FAULT : STEP_NEXT;
            return NULL;
        }
        struct block *b = cache_find(sv, gva, host, sv->key | variant);
        if (!b && (make_block(sv, gva, host, sv->key | variant, &again) || again))
            continue;                          /* guest mode was left: whether the page may still be fetched from is looked at again */
        (void)*(const volatile uint8_t *)host; /* if the memory went while it was translated, we end here */
        if (b && !variant && (sv->key & KEY_FLAT_CS)) {
            unsigned index = jump_cache_index(gva);
            sv->jump_cache[sv->is_user][index] = b->start + soft_vm_of(sv)->cache.to_exec;
            sv->jump_cache_used[sv->is_user] |= 1ull << (index / (JUMP_CACHE_ENTRIES / 64));
        }
        return b;
    }
}

/* Patches an exit of before `generation` ended to the block that is at rip now. False if a flush came meanwhile: the block is gone. */
static bool link_block(struct soft_vcpu *sv, struct link *l, struct block *to, uint32_t generation)
{
    struct soft_vm *svm = soft_vm_of(sv);
    if (generation != atomic_load(&svm->flush_generation))
        return true; /* the exit went while its target was made */
    fp_put(sv);
    guest_mode_leave(sv);
    pthread_mutex_lock(&svm->code_lock);
    if (generation == atomic_load(&svm->flush_generation))
        cache_link(svm, l, to);
    pthread_mutex_unlock(&svm->code_lock);
    guest_mode_enter(sv);
    return generation == atomic_load(&svm->flush_generation);
}

/* ---- entering ---- */

static uint32_t flags_to_saved(uint64_t rflags)
{
    return (uint32_t)(rflags & (RFLAGS_SF | RFLAGS_ZF | RFLAGS_AF | RFLAGS_PF | RFLAGS_CF)) << 8 | (rflags & RFLAGS_OF ? 1 : 0);
}

static uint64_t flags_from_saved(uint32_t saved)
{
    return (saved >> 8 & (RFLAGS_SF | RFLAGS_ZF | RFLAGS_AF | RFLAGS_PF | RFLAGS_CF)) | (saved & 1 ? RFLAGS_OF : 0);
}

enum leave guest_enter(struct soft_vcpu *sv, const uint8_t *target)
{
    void (*enter)(struct soft_vcpu *, const void *) = (void (*)(struct soft_vcpu *, const void *))(uintptr_t)soft_vm_of(sv)->stubs.enter;
    fp_get(sv);
    sv->saved_flags = flags_to_saved(sv->v.cpu.rflags);
    enter(sv, target);
    sv->v.cpu.rflags = (sv->v.cpu.rflags & ~(uint64_t)RFLAGS_STATUS) | flags_from_saved(sv->saved_flags);
    return (enum leave)sv->leave_reason;
}

/* ---- the loop ---- */

/* The client's trap after an instruction; one that has left for the client already traps when that comes back, but a halt's exit stands for both. */
static enum step client_trap(struct soft_vcpu *sv, uint64_t dr6, bool has_exit)
{
    if (!has_exit)
        return exec_debug_exit(sv, VEC_DB, dr6);
    if (sv->v.exit.kind != EXIT_HLT)
        sv->v.owed_dr6 = dr6;
    return STEP_EXIT;
}

static bool pay_trap(struct soft_vcpu *sv)
{
    struct vcpu *v = &sv->v;
    uint64_t dr6 = v->owed_dr6;
    v->owed_dr6 = 0;
    if (!dr6 || !v->debug.enabled || !(v->debug.single_step || v->debug.use_hw_bp))
        return false;
    exec_debug_exit(sv, VEC_DB, dr6);
    return true;
}

/* After an instruction by exec_insn: breakpoints and single-step traps, HLT, what the client has to see. */
static enum step after_insn(struct soft_vcpu *sv, enum step s, uint64_t flags_before, bool is_soft_int)
{
    struct vcpu *v = &sv->v;
    bool has_exit = s == STEP_NEXT_EXIT || s == STEP_REPEAT_EXIT;
    bool is_hidden = v->cpu.interrupt_shadow & SHADOW_MOV_SS; /* MOV SS: its data breakpoints wait for the next instruction, its single step is lost */
    uint64_t dr6 = is_hidden ? 0 : sv->dr6_hits;
    if ((flags_before & RFLAGS_TF) && !is_soft_int && !is_hidden)
        dr6 |= DR6_BS;
    bool is_client_step = v->debug.enabled && v->debug.single_step;
    bool is_client = is_client_step || (v->debug.enabled && v->debug.use_hw_bp);
    if (s == STEP_NEXT_EXIT && v->exit.kind == EXIT_HLT && v->lapic) {
        v->exit.kind = EXIT_NONE;
        has_exit = false;
        if (!dr6 || is_client) { /* the guest's own trap ends the halt at once */
            atomic_store(&v->mp_state, MP_HALTED);
            atomic_store(&v->exit_req, 1);
        }
    }
    if (dr6 || is_client_step) {
        if (is_client)
            return client_trap(sv, dr6 | (is_client_step ? DR6_BS : 0), has_exit);
        sv->fault = (struct fault){ .vector = VEC_DB, .addr = dr6 };
        enum step d = event_fault(sv);
        if (!has_exit || d == STEP_EXIT)
            return d;
    }
    if (sv->is_irq_waiting && (v->cpu.rflags & RFLAGS_IF) && !v->cpu.interrupt_shadow)
        atomic_store(&v->exit_req, 1);
    return has_exit ? STEP_EXIT : STEP_NEXT;
}

/* An instruction breakpoint at rip: STEP_NEXT if there is none. */
static enum step check_code_breakpoint(struct soft_vcpu *sv)
{
    bool is_client = sv->v.debug.enabled && sv->v.debug.use_hw_bp;
    uint64_t dr7 = is_client ? sv->v.debug.dr7 : sv->v.cpu.dr7;
    const uint64_t *dr = is_client ? sv->v.debug.dr : sv->v.cpu.dr;
    unsigned hits = 0;
    if (!(dr7 & DR7_ENABLE_MASK) || (sv->v.cpu.rflags & RFLAGS_RF) || (sv->v.cpu.interrupt_shadow & SHADOW_MOV_SS))
        return STEP_NEXT;
    for (unsigned i = 0; i < 4; i++)
        if ((dr7 >> (2 * i) & 3) && (dr7 >> (16 + 4 * i) & 3) == 0 && dr[i] == linear_rip(sv))
            hits |= 1u << i;
    if (!hits)
        return STEP_NEXT;
    if (is_client)
        return exec_debug_exit(sv, VEC_DB, hits);
    sv->fault = (struct fault){ .vector = VEC_DB, .addr = hits };
    return STEP_FAULT;
}

static enum step step_one(struct soft_vcpu *sv, const struct exec_entry *known)
{
    bool is_soft_int = false;
    uint64_t flags = sv->v.cpu.rflags;
    enum step s = sv->is_stepping ? check_code_breakpoint(sv) : STEP_NEXT;
    if (s == STEP_NEXT)
        s = exec_insn(sv, known, &is_soft_int);
    else if (s == STEP_EXIT)
        return s;
    if (s == STEP_EXIT)
        return s;
    if (s == STEP_FAULT)
        s = event_fault(sv);
    else
        s = after_insn(sv, s, flags, is_soft_int);
    if (sv->v.exit.kind != EXIT_WATCH)
        hold_stepped(&sv->v);
    return s;
}

/* Runs blocks until something else is needed. */
static enum step run_block(struct soft_vcpu *sv)
{
    enum step s;
    struct link *pending = NULL;
    uint32_t generation = 0; /* pending's */
    for (;;) {
        struct block *b = find_block(sv, pending && pending->is_ungrouped ? KEY_NO_GROUP : 0, &s);
        if (s == STEP_FAULT)
            return event_fault(sv);
        if (!b)
            return step_one(sv, NULL);
        bool is_kept = !pending || link_block(sv, pending, b, generation);
        pending = NULL;
        if (!is_kept)
            continue;
        if (atomic_load(&sv->v.exit_req))
            return STEP_NEXT;
        if (b->is_exec_only)
            return step_one(sv, b->exec);
        enum leave why = guest_enter(sv, b->polled);
        if (why != LEAVE_SLOW && why != LEAVE_FAULT)
            sv->v.cpu.rip = sv->mode_bits == 64 ? sv->leave_t0 : (uint32_t)(sv->leave_t0 - sv->v.cpu.seg[SEG_CS].base);
        switch (why) {
        case LEAVE_LINK:
            pending = (struct link *)(uintptr_t)sv->leave_t1;
            generation = atomic_load(&soft_vm_of(sv)->flush_generation); /* still in guest mode: no flush since the exit */
            break;
        case LEAVE_LOOKUP:
            break;
        case LEAVE_FAULT:
            return event_fault(sv);
        case LEAVE_EXEC:
            return step_one(sv, (const struct exec_entry *)(uintptr_t)sv->leave_t1);
        case LEAVE_SLOW:
            return step_one(sv, NULL);
        default:
            return STEP_NEXT;
        }
    }
}

/* An instruction that a tool was asked about, unless the client made something else of the vCPU meanwhile. */
static bool has_grant(const struct vcpu *v)
{
    return v->watch.n_grants && !v->watch.is_delivery && v->watch.grant[0].rip == v->cpu.rip && atomic_load(&v->mp_state) == MP_RUNNABLE;
}

/* A tool made something come in the place of the instruction that was left. */
static bool is_replaced(const struct vcpu *v)
{
    return (v->watch.has_injected_exception && v->ev.exception.pending) || (atomic_load(&v->requests) & VREQ_TRIPLE_FAULT);
}

static bool has_replay(const struct vcpu *v)
{
    if (is_replaced(v))
        return false;
    return v->replay.n || v->replay.io_done || v->replay.msr_done || has_grant(v);
}

static int run_loop(struct soft_vcpu *sv)
{
    struct vcpu *v = &sv->v;
    v->exit.kind = EXIT_NONE;
    if (v->owed_dr6 && pay_trap(sv))
        return 0;
    atomic_store(&v->exit_req, 1); /* look at everything once */
    for (;;) {
        enum step s;
        bool is_held = hold_is_held(v), is_stepped = hold_is_stepping(v);
        if (watch_has_pages(sv) != !!(sv->key & KEY_WATCHED))
            mode_update(sv);
        if (has_replay(v) && !is_held) {
            s = step_one(sv, NULL);
        } else if (is_held || atomic_load(&v->exit_req)) {
            fp_put(sv);
            guest_mode_leave(sv);
            s = is_held ? event_hold(sv) : event_requests(sv);
            guest_mode_enter(sv);
        } else if (sv->is_stepping || is_stepped || v->cpu.interrupt_shadow || watch_is_on(sv, WATCH_STEP)) {
            s = step_one(sv, NULL);
        } else {
            s = run_block(sv);
        }
        if (v->posted.n && s != STEP_EXIT)
            return 0; /* EXIT_NONE: the front shows the posted writes */
        if (s == STEP_EXIT && v->exit.kind == EXIT_WATCH)
            v->exit.kind = EXIT_NONE; /* the vCPU is held, see above */
        else if (s == STEP_EXIT)
            return v->exit.kind == EXIT_INTR ? -EINTR : 0;
    }
}

static uint64_t gs_swap(uint64_t value)
{
    uint64_t old;
    if (host_facts()->has_fsgsbase) {
        __asm__ volatile("rdgsbase %0\n\twrgsbase %1" : "=&r"(old) : "r"(value));
        return old;
    }
    return gs_swap_by_call(value);
}

_Noreturn void run_unwind(struct soft_vcpu *sv)
{
    __builtin_longjmp(sv->recover, 1);
}

/* v->exit is filled when run_unwind comes back here. */
__attribute__((noinline)) static int run_recoverably(struct soft_vcpu *sv)
{
    return __builtin_setjmp(sv->recover) ? 0 : run_loop(sv);
}

void run_notice_client(struct soft_vcpu *sv)
{
    uint32_t epoch = atomic_load(&sv->v.vm->client_epoch);
    if (epoch == sv->client_epoch)
        return;
    sv->client_epoch = epoch;
    tlb_flush_fetch(sv);
}

/* While the vCPU was out the client may have written code. A short stay after an I/O exit is a register's emulation; with paging off even that may have loaded
 * a sector. */
#define SHORT_STAY_US 10u

static void notice_absence(struct soft_vcpu *sv)
{
    const struct vcpu *v = &sv->v;
    bool is_io = v->exit.kind == EXIT_IO || v->exit.kind == EXIT_MMIO || v->exit.kind == EXIT_ACCESS || v->exit.kind == EXIT_NONE;
    bool is_short = __builtin_ia32_rdtsc() - sv->left_tsc < SHORT_STAY_US * v->vm->tsc_khz / 1000;
    if (!is_io || !is_short || !(v->cpu.cr0 & CR0_PG))
        tlb_flush_fetch(sv);
    else
        run_notice_client(sv);
}

int run_vcpu(struct vcpu *v)
{
    struct soft_vcpu *sv = to_soft(v);
    fp_note_client(sv);
    uint64_t gs = gs_swap((uint64_t)(uintptr_t)sv);
    signal_set_vcpu(sv);
    notice_absence(sv);
    guest_mode_enter(sv);
    int r = run_recoverably(sv);
    fp_put(sv);
    guest_mode_leave(sv);
    signal_set_vcpu(NULL);
    gs_swap(gs);
    sv->left_tsc = __builtin_ia32_rdtsc();
    if (v->exit.kind == EXIT_INTR)
        vcpu_count(v, STAT_SIGNAL_EXITS);
    else if (v->exit.kind == EXIT_IRQ_WINDOW)
        vcpu_count(v, STAT_IRQ_WINDOW_EXITS);
    else if (v->exit.kind == EXIT_INTERNAL_ERROR)
        vcpu_count(v, STAT_INSN_FAILURES);
    return r;
}
