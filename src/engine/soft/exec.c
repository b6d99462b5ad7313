/* SPDX-License-Identifier: MIT */
/*
 * One instruction, by its C helper or by running a native copy of it on its operand's host address or on a bounce buffer. This is what blocks fall back to, and
 * all there is in single-step mode. Decoded instructions are kept in a small cache that is compared with memory at each use.
 */
#include "engine/soft/exec.h"

#include <errno.h>

#include "engine/soft/code.h"
#include "engine/soft/help_control.h"
#include "engine/soft/help_fpu.h"
#include "engine/soft/light.h"
#include "engine/soft/translate_priv.h"
#include "engine/soft/tlb.h"

/* ---- fetch and decode ---- */

static bool bytes_equal(const uint8_t *a, const uint8_t *b, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

static enum step cannot_go_on(struct soft_vcpu *sv, const char *why)
{
    sv->v.exit.kind = EXIT_INTERNAL_ERROR;
    sv->v.exit.internal.suberror = 1; /* KVM_INTERNAL_ERROR_EMULATION */
    sv->v.exit.internal.n_bytes = 0;
    sv->v.exit.internal.text = why;
    return STEP_EXIT;
}

/* Where a fetch failed: its fault, or an exit because the code is not in RAM. */
static enum step fetch_failure(struct soft_vcpu *sv, gva_t gva, bool is_fault)
{
    struct page_place p;
    if (is_fault)
        return STEP_FAULT;
    if (sv->v.vm->reports_accesses) {
        if (tlb_place(sv, gva, ACCESS_FETCH | (sv->is_user ? ACCESS_USER : 0), &p))
            return STEP_FAULT;
        access_report(sv, gva, p.gpa, ACCESS_FETCH);
        return STEP_FAULT;
    }
    return cannot_go_on(sv, "instruction fetch from outside RAM");
}

/* Code in a page whose execution is watched. The event is about the instruction that begins there. NULL without *is_fault: there is no RAM. */
static const uint8_t *fetch_watched(struct soft_vcpu *sv, gva_t gva, bool is_first, bool *is_fault)
{
    struct page_place p;
    *is_fault = tlb_place(sv, gva, ACCESS_FETCH | (sv->is_user ? ACCESS_USER : 0), &p) ||
                (is_first && p.is_watched && p.host && watch_access_ask(sv, gva, p.guest_gpa, 1, WATCH_EXECUTE) != STEP_NEXT);
    return *is_fault ? NULL : p.host;
}

/* Copies up to 15 code bytes; *n says how many are there before a page that cannot be fetched. */
static enum step fetch_memory(struct soft_vcpu *sv, gva_t gva, uint8_t bytes[INSN_MAX_BYTES], unsigned *n, const struct insn *known)
{
    bool is_fault;
    const uint8_t *host = fetch_host(sv, gva, &is_fault);
    if (!host && !is_fault && !(host = fetch_watched(sv, gva, true, &is_fault)))
        return is_fault ? STEP_FAULT : fetch_failure(sv, gva, false);
    if (!host)
        return fetch_failure(sv, gva, is_fault);
    unsigned first = (unsigned)(PAGE_BYTES - (gva & PAGE_OFFSET_MASK));
    unsigned want = known && known->len ? known->len : INSN_MAX_BYTES;
    if (first > want)
        first = want;
    light_copy(bytes, host, first);
    *n = first;
    if (first == want)
        return STEP_NEXT;
    gva_t next = gva + first;
    next = sv->mode_bits == 64 ? next : (uint32_t)next;
    host = fetch_host(sv, next, &is_fault);
    if (!host && !is_fault)
        host = fetch_watched(sv, next, false, &is_fault);
    if (host) {
        light_copy(bytes + first, host, want - first);
        *n = want;
    }
    return STEP_NEXT; /* whether the rest is needed only the decoder knows */
}

static enum step fetch_bytes(struct soft_vcpu *sv, gva_t gva, uint8_t bytes[INSN_MAX_BYTES], unsigned *n, const struct insn *known)
{
    enum step s = fetch_memory(sv, gva, bytes, n, known);
    if (s == STEP_NEXT && sv->v.watch.n_gifts)
        watch_give(sv, gva, bytes, *n, true);
    return s;
}

void exec_entry_init(struct exec_entry *x, const struct insn *in, const struct soft_vm *svm)
{
    light_copy(&x->in, in, sizeof x->in);
    x->is_refused = !features_allow_insn(&svm->features, in);
    x->helper = helper_find(in);
    x->bounce = NULL;
}

static enum step decode_into(struct soft_vcpu *sv, struct exec_entry *x, gva_t gva)
{
    uint8_t bytes[INSN_MAX_BYTES];
    unsigned n;
    enum step s = fetch_bytes(sv, gva, bytes, &n, NULL);
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    x->gva = ~0ull;
    struct insn in;
    int r = insn_decode(&in, bytes, n, sv->mode_bits);
    if (r == -EAGAIN) { /* the instruction goes on in a page that could not be fetched: its fault */
        bool is_fault;
        fetch_host(sv, gva + n, &is_fault);
        return fetch_failure(sv, gva + n, is_fault);
    }
    if (r == -E2BIG)
        return step_fault_code(sv, VEC_GP, 0);
    if (r)
        return step_fault(sv, VEC_UD);
    exec_entry_init(x, &in, soft_vm_of(sv));
    x->mode_bits = sv->mode_bits;
    x->gva = gva;
    return STEP_NEXT;
}

static enum step lookup_by_bytes(struct soft_vcpu *sv, struct exec_entry **out)
{
    gva_t gva = linear_rip(sv);
    struct exec_entry *x = &sv->exec_cache[(gva ^ gva >> 12) % EXEC_CACHE_ENTRIES];
    *out = x;
    if (x->gva == gva && x->mode_bits == sv->mode_bits) {
        uint8_t bytes[INSN_MAX_BYTES];
        unsigned n;
        enum step s = fetch_bytes(sv, gva, bytes, &n, &x->in);
        if (s != STEP_NEXT)
            return s;
        if (n >= x->in.len && bytes_equal(bytes, x->in.bytes, x->in.len))
            return STEP_NEXT;
    }
    return decode_into(sv, x, gva);
}

/* An instruction that goes on in a page whose execution a view denies: that is known only now. */
static enum step ask_tail(struct soft_vcpu *sv, gva_t gva, const struct insn *in)
{
    struct page_place p;
    gva_t tail = (gva | PAGE_OFFSET_MASK) + 1;
    if ((gva & PAGE_OFFSET_MASK) + in->len <= PAGE_BYTES)
        return STEP_NEXT;
    tail = sv->mode_bits == 64 ? tail : (uint32_t)tail;
    if (tlb_place(sv, tail, ACCESS_FETCH | (sv->is_user ? ACCESS_USER : 0), &p))
        return STEP_FAULT;
    return p.is_watched && p.host ? watch_access_ask(sv, tail, p.guest_gpa, 0, WATCH_EXECUTE) : STEP_NEXT;
}

static enum step lookup(struct soft_vcpu *sv, struct exec_entry **out)
{
    const struct cpu_state *c = &sv->v.cpu;
    bool is_limited = sv->mode_bits != 64 && c->seg[SEG_CS].limit != UINT32_MAX;
    if (is_limited && c->rip > c->seg[SEG_CS].limit)
        return step_fault_code(sv, VEC_GP, 0);
    enum step s = lookup_by_bytes(sv, out);
    if (s != STEP_NEXT)
        return s;
    if (is_limited && c->rip + (*out)->in.len - 1 > c->seg[SEG_CS].limit)
        return step_fault_code(sv, VEC_GP, 0);
    return ask_tail(sv, linear_rip(sv), &(*out)->in);
}

/* ---- native copies ---- */

static struct bounce_code *bounce_slot(struct soft_vm *svm, const struct insn *in)
{
    uint32_t hash = in->mode_bits;
    for (unsigned i = 0; i < in->len; i++)
        hash = hash * 31 + in->bytes[i];
    return &svm->bounce[(hash ^ hash >> 15) % BOUNCE_CODES];
}

/* Under code_lock. NULL: the cache is full. */
static const uint8_t *bounce_make(struct soft_vm *svm, const struct insn *in)
{
    struct bounce_code *slot = bounce_slot(svm, in);
    if (slot->code && slot->len == in->len && slot->mode_bits == in->mode_bits && bytes_equal(slot->bytes, in->bytes, in->len))
        return slot->code;
    const uint8_t *code = translate_bounce(svm, in);
    if (!code)
        return NULL;
    light_copy(slot->bytes, in->bytes, in->len);
    slot->len = in->len;
    slot->mode_bits = in->mode_bits;
    slot->code = code;
    return code;
}

/* The host code that runs `in` on the operand whose address is in leave_t0. Kept with the entry, and shared by all vCPUs through svm->bounce. */
static const uint8_t *bounce_code(struct soft_vcpu *sv, struct exec_entry *x)
{
    struct soft_vm *svm = soft_vm_of(sv);
    uint32_t generation = atomic_load(&svm->flush_generation) + 1;
    if (x->bounce && x->generation == generation)
        return x->bounce;
    fp_put(sv);
    guest_mode_leave(sv);
    pthread_mutex_lock(&svm->code_lock);
    x->bounce = bounce_make(svm, &x->in);
    if (!x->bounce) {
        code_flush_all(sv);
        x->bounce = bounce_make(svm, &x->in);
    }
    x->generation = atomic_load(&svm->flush_generation) + 1;
    pthread_mutex_unlock(&svm->code_lock);
    guest_mode_enter(sv);
    if (x->generation != atomic_load(&svm->flush_generation) + 1)
        return bounce_code(sv, x);
    return x->bounce;
}

static enum step run_copy(struct soft_vcpu *sv, const uint8_t *code, const void *operand)
{
    sv->leave_t0 = (uint64_t)(uintptr_t)operand;
    enum leave why = guest_enter(sv, code);
    return why == LEAVE_BOUNCED ? STEP_NEXT : STEP_FAULT;
}

/*
 * A host address on which the instruction may run in place: plain RAM in one page. With breakpoints too: a locked instruction must be atomic. Stores to pages
 * with translations are followed by code_page_written.
 */
static hva_t place_in_ram(struct soft_vcpu *sv, const struct insn *in, gva_t gva, bool is_write, struct page_place *place, enum step *s)
{
    unsigned bytes = in->mem.bytes;
    *s = STEP_NEXT;
    if ((gva & PAGE_OFFSET_MASK) + bytes > PAGE_BYTES)
        return NULL;
    if (tlb_place(sv, gva, (is_write ? ACCESS_WRITE : ACCESS_READ) | (sv->is_user ? ACCESS_USER : 0), place)) {
        *s = STEP_FAULT;
        return NULL;
    }
    if (place->is_watched && place->host)
        *s = watch_access_ask(sv, gva, place->guest_gpa, bytes, (in->mem.access & OPND_READ ? WATCH_READ : 0) | (is_write ? WATCH_WRITE : 0));
    if (*s == STEP_NEXT && (in->mem.access & OPND_READ) && watch_is_given(sv, gva, bytes))
        return NULL; /* to the bounce, which reads by linear_read */
    return *s == STEP_NEXT ? place->host : NULL;
}

#define X87_BEFORE_STORE 0x19u /* invalid, overflow, underflow: nothing is written. A rounded result is. */

/* An x87 store that raises such an exception unmasked writes nothing, and the exception waits for the next x87 instruction. */
static bool has_skipped_store(struct soft_vcpu *sv, const struct insn *in)
{
    if (in->fp_class != FP_X87 || insn_is_x87_unchecked(in))
        return false;
    fp_put(sv);
    return fpu_in_use(sv, FPU_COMP_X87) && (fpu_get(sv, FPU_FSW, 2) & ~fpu_get(sv, FPU_FCW, 2) & X87_BEFORE_STORE);
}

static enum step run_bounced(struct soft_vcpu *sv, const struct insn *in, const uint8_t *code, gva_t gva)
{
    uint8_t *operand = sv->bounce + (gva & 63);
    unsigned bytes = in->mem.bytes;
    bool is_write = in->mem.access & OPND_WRITE;
    /* A masked store leaves what it does not write. */
    bool is_read = (in->mem.access & OPND_READ) || (is_write && in->evex_aaa);
    enum step s = is_write ? linear_probe_write(sv, gva, bytes, in->mem.access & OPND_READ ? ACCESS_UPDATE : 0) : STEP_NEXT;
    if (s == STEP_NEXT && is_read)
        s = linear_read(sv, gva, operand, bytes, in->mem.access & OPND_READ ? 0 : ACCESS_UNTOLD);
    if (s == STEP_NEXT)
        s = run_copy(sv, code, operand);
    if (s == STEP_NEXT && is_write && !has_skipped_store(sv, in))
        s = linear_write(sv, gva, operand, bytes, ACCESS_WRITE);
    return s;
}

/* The memory operand's elements that the opmask selects. */
static uint64_t active_elements(struct soft_vcpu *sv, const struct insn *in)
{
    const struct fpu_component *k = fpu_component(FPU_COMP_OPMASK);
    unsigned n = in->mem.bytes / in->mem.masked_bytes, lanes = in->mem.masked_lanes;
    uint64_t active = 0;
    fp_put(sv);
    uint64_t mask = fpu_in_use(sv, FPU_COMP_OPMASK) ? fpu_get(sv, k->offset + 8u * in->evex_aaa, 8) : 0;
    mask &= lanes >= 64 ? ~0ull : (1ull << lanes) - 1;
    for (unsigned at = 0; at < lanes; at += n)
        active |= mask >> at;
    active &= n >= 64 ? ~0ull : (1ull << n) - 1;
    if (in->mem.is_packed) {
        unsigned count = (unsigned)__builtin_popcountll(active);
        active = count >= 64 ? ~0ull : (1ull << count) - 1;
    }
    return active;
}

enum pass { PASS_PROBE, PASS_READ, PASS_WRITE };

static enum step masked_pass(struct soft_vcpu *sv, const struct insn *in, gva_t gva, uint8_t *operand, uint64_t active, enum pass pass)
{
    unsigned size = in->mem.masked_bytes;
    enum step s = STEP_NEXT;
    for (uint64_t left = active; left && s == STEP_NEXT; left &= left - 1) {
        unsigned at = (unsigned)__builtin_ctzll(left) * size;
        if (pass == PASS_PROBE)
            s = linear_probe_write(sv, gva + at, size, ACCESS_WRITE);
        else if (pass == PASS_READ)
            s = linear_read(sv, gva + at, operand + at, size, ACCESS_READ);
        else
            s = linear_write(sv, gva + at, operand + at, size, ACCESS_WRITE);
    }
    return s;
}

/* Element by element on the bounce buffer, touching only what the opmask selects. */
static enum step run_masked(struct soft_vcpu *sv, const struct insn *in, const uint8_t *code, gva_t gva, uint64_t active)
{
    uint8_t *operand = sv->bounce + (gva & 63);
    bool is_write = in->mem.access & OPND_WRITE;
    enum step s = is_write ? masked_pass(sv, in, gva, operand, active, PASS_PROBE) : masked_pass(sv, in, gva, operand, active, PASS_READ);
    if (s == STEP_NEXT)
        s = run_copy(sv, code, operand);
    if (s == STEP_NEXT && is_write)
        s = masked_pass(sv, in, gva, operand, active, PASS_WRITE);
    return s;
}

/* #GP for alignment comes before all other faults of the operand. */
static bool is_misaligned_vector(const struct soft_vcpu *sv, const struct insn *in, uint64_t ea)
{
    if (in->mem.bytes < 16 || !insn_needs_alignment(in))
        return false;
    bool has_base = sv->mode_bits != 64 || in->mem.seg >= SEG_FS;
    return (ea + (has_base ? sv->v.cpu.seg[in->mem.seg].base : 0)) & (in->mem.bytes - 1u);
}

/* #MF of an earlier x87 instruction comes before any fault of this one's operand. */
static enum step x87_check_pending(struct soft_vcpu *sv, const struct insn *in)
{
    if ((in->fp_class != FP_X87 && in->fp_class != FP_MMX) || insn_is_x87_unchecked(in))
        return STEP_NEXT;
    fp_put(sv);
    return fpu_is_mf_pending(sv) ? step_fault(sv, VEC_MF) : STEP_NEXT;
}

static bool may_raise_numeric(struct soft_vcpu *sv, const struct insn *in)
{
    if (!(in->mem.access & OPND_WRITE) || in->fp_class == FP_NONE || in->fp_class == FP_MMX || insn_is_x87_unchecked(in))
        return false;
    fp_put(sv);
    if (in->fp_class != FP_X87)
        return (fpu_get(sv, FPU_MXCSR, 4) & FPU_MXCSR_INIT) != FPU_MXCSR_INIT;
    return fpu_in_use(sv, FPU_COMP_X87) && (fpu_get(sv, FPU_FCW, 2) & 0x3f) != 0x3f;
}

/*
 * The operand of a store has faulted, as sv->fault says. But a numeric exception that keeps the processor from storing comes before (measured), so it is
 * looked for on a buffer: #XM at once, x87's for the next instruction. If there is none, nothing has happened but the fault.
 */
static enum step numeric_before_operand(struct soft_vcpu *sv, const struct insn *in, const uint8_t *code)
{
    struct fault fault = sv->fault;
    uint8_t before[FPU_XMM];
    if (!may_raise_numeric(sv, in))
        return STEP_FAULT;
    light_copy(before, sv->v.cpu.xsave, sizeof before);
    if (run_copy(sv, code, sv->bounce) == STEP_FAULT)
        return STEP_FAULT;
    if (has_skipped_store(sv, in))
        return STEP_NEXT;
    fp_put(sv);
    light_copy(sv->v.cpu.xsave, before, sizeof before);
    sv->fault = fault;
    return STEP_FAULT;
}

static bool is_operand_fault(const struct fault *f)
{
    return f->vector == VEC_PF || f->vector == VEC_GP || f->vector == VEC_SS || f->vector == VEC_AC;
}

static enum step run_on_memory(struct soft_vcpu *sv, const struct insn *in, const uint8_t *code)
{
    gva_t gva;
    bool is_write = in->mem.access & OPND_WRITE;
    uint64_t ea = insn_ea(sv, in), active = in->mem.masked_bytes ? active_elements(sv, in) : 1;
    enum step s;
    if (!active) /* not even the address matters */
        return run_copy(sv, code, sv->bounce);
    if (is_misaligned_vector(sv, in, ea))
        return step_fault_code(sv, VEC_GP, 0);
    s = seg_linear(sv, in->mem.seg, ea, in->mem.bytes, is_write, &gva);
    if (s != STEP_NEXT)
        return s;
    if (sv->is_checking && in->mem.bytes <= 8 && access_is_misaligned(sv, gva, in->mem.bytes))
        return step_fault_code(sv, VEC_AC, 0);
    if (in->mem.masked_bytes)
        return run_masked(sv, in, code, gva, active);
    struct page_place place;
    hva_t host = place_in_ram(sv, in, gva, is_write, &place, &s);
    if (s == STEP_FAULT && sv->fault.vector == VEC_GP && in->mem.seg == SEG_SS)
        sv->fault.vector = VEC_SS;
    if (s != STEP_NEXT)
        return s;
    if (!host)
        return run_bounced(sv, in, code, gva);
    s = run_copy(sv, code, host);
    if (s == STEP_NEXT)
        access_note_data(sv, gva, in->mem.bytes, is_write ? ACCESS_WRITE : ACCESS_READ);
    if (s == STEP_NEXT && is_write && place.slot) {
        vcpu_mark_dirty(&sv->v, place.slot, place.gpa);
        if (place.is_code)
            code_page_written(sv, place.gpa, in->mem.bytes);
    }
    return s;
}

static enum step exec_on_memory(struct soft_vcpu *sv, const struct insn *in, const uint8_t *code)
{
    enum step s = x87_check_pending(sv, in);
    if (s != STEP_NEXT)
        return s;
    s = run_on_memory(sv, in, code);
    return s == STEP_FAULT && is_operand_fault(&sv->fault) ? numeric_before_operand(sv, in, code) : s;
}

static enum step exec_native(struct soft_vcpu *sv, struct exec_entry *x)
{
    const struct insn *in = &x->in;
    if (insn_is_nop(in))
        return STEP_NEXT;
    if (insn_is_lea(in)) {
        gpr_write(sv, in->opnd[0].reg, in->op_bytes, insn_ea(sv, in));
        return STEP_NEXT;
    }
    const uint8_t *code = bounce_code(sv, x);
    if (!code)
        return cannot_go_on(sv, "no memory for code");
    return in->has_mem ? exec_on_memory(sv, in, code) : run_copy(sv, code, NULL);
}

/* #UD or #NM for state that is not enabled (SDM vol. 3A, "Emulation of System Instructions" tables of CR0.EM, TS, MP and CR4.OSFXSR). */
static enum step fp_check(struct soft_vcpu *sv, const struct insn *in)
{
    const struct cpu_state *c = &sv->v.cpu;
    if (in->fp_class == FP_NONE || translate_fp_is_enabled(sv->key, in))
        return in->enc != ENC_LEGACY && (!(c->cr0 & CR0_PE) || (c->rflags & RFLAGS_VM)) ? step_fault(sv, VEC_UD) : STEP_NEXT;
    if (in->fp_class == FP_X87) /* WAIT minds MP and TS together, never EM */
        return in->map == 0 && in->opcode == 0x9b && (c->cr0 & (CR0_MP | CR0_TS)) != (CR0_MP | CR0_TS) ? STEP_NEXT : step_fault(sv, VEC_NM);
    bool is_ud = in->fp_class == FP_MMX ? (c->cr0 & CR0_EM) : in->fp_class == FP_SSE ? (c->cr0 & CR0_EM) || !(c->cr4 & CR4_OSFXSR) : false;
    if (in->fp_class == FP_AVX || in->fp_class == FP_AVX512) {
        uint64_t need = XCR0_SSE | XCR0_AVX | (in->fp_class == FP_AVX512 ? XCR0_AVX512 : 0);
        is_ud = !(c->cr0 & CR0_PE) || (c->rflags & RFLAGS_VM) || !(c->cr4 & CR4_OSXSAVE) || (c->xcr0 & need) != need;
    }
    return step_fault(sv, is_ud ? VEC_UD : VEC_NM);
}

/* ---- one instruction with all that surrounds it ---- */

/* 16-bit code goes on beyond 64 KiB if its limit lets it: system management mode begins so. */
static void advance(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t next = sv->v.cpu.rip + in->len;
    sv->v.cpu.rip = sv->mode_bits == 64 ? next : (uint32_t)next;
}

static void forget_accesses(struct soft_vcpu *sv)
{
    sv->v.replay.n = sv->v.replay.next = 0;
    sv->v.replay.io_done = sv->v.replay.msr_done = false;
    watch_forget(&sv->v.watch);
}

enum step exec_debug_exit(struct soft_vcpu *sv, unsigned vector, uint64_t dr6)
{
    sv->v.exit.kind = EXIT_DEBUG;
    sv->v.exit.debug.vector = vector;
    sv->v.exit.debug.rip = linear_rip(sv);
    sv->v.exit.debug.dr6 = DR6_FIXED_1 | dr6;
    sv->v.exit.debug.dr7 = sv->v.debug.use_hw_bp ? sv->v.debug.dr7 : sv->v.cpu.dr7;
    return STEP_EXIT;
}

static enum step execute(struct soft_vcpu *sv, struct exec_entry *x)
{
    if (x->is_refused)
        return step_fault(sv, VEC_UD);
    enum step s = fp_check(sv, &x->in);
    if (s != STEP_NEXT)
        return s;
    return x->helper ? x->helper(sv, &x->in) : exec_native(sv, x);
}

/* A block's instruction in the vCPU's own memory: a helper may leave guest mode, and then the block may go. */
static struct exec_entry *keep(struct soft_vcpu *sv, const struct exec_entry *known)
{
    struct exec_entry *x = &sv->exec_cache[EXEC_CACHE_ENTRIES];
    const uint64_t *from = (const uint64_t *)(const void *)known;
    uint64_t *to = (uint64_t *)(void *)x;
    _Static_assert(sizeof *x % 8 == 0, "copied by words");
    for (unsigned i = 0; i < sizeof *x / 8; i++)
        to[i] = from[i];
    return x;
}

/* For a client that executes it itself. */
static void note_insn(struct soft_vcpu *sv, const struct insn *in)
{
    sv->v.exit.insn_bytes = in ? in->len : 0;
    if (in)
        light_copy(sv->v.exit.insn, in->bytes, in->len);
}

enum step exec_insn(struct soft_vcpu *sv, const struct exec_entry *known, bool *is_soft_int)
{
    struct exec_entry *x = known ? keep(sv, known) : NULL;
    struct vcpu *v = &sv->v;
    uint8_t shadow = v->cpu.interrupt_shadow;
    uint64_t rf = v->cpu.rflags & RFLAGS_RF;
    vcpu_count(v, STAT_SINGLE_INSNS);
    v->replay.next = 0;
    if (!(shadow & SHADOW_MOV_SS))
        sv->dr6_hits = 0;
    *is_soft_int = false;
    enum step s = x ? STEP_NEXT : lookup(sv, &x);
    bool is_known = s == STEP_NEXT;
    bool is_denied = v->watch.is_denied && v->watch.denied_rip == v->cpu.rip;
    if (s == STEP_NEXT && !is_denied) {
        uint64_t value = 0;
        s = watch_insn(sv, WATCH_STEP, 0, 0, &value);
    }
    if (s == STEP_NEXT) {
        v->cpu.interrupt_shadow = 0;
        v->cpu.rflags &= ~(uint64_t)RFLAGS_RF;
        sv->insn_bytes = x->in.len;
        s = is_denied ? STEP_NEXT : execute(sv, x);
        *is_soft_int = x->helper == help_int || x->helper == help_int3 || x->helper == help_into || x->helper == help_int1;
    }
    if (s == STEP_FAULT && fault_leaves(&sv->fault)) {
        v->exit.kind = sv->fault.vector == FAULT_WATCH ? EXIT_WATCH : EXIT_ACCESS;
        s = STEP_EXIT;
    }
    if (v->vm->reports_accesses)
        note_insn(sv, is_known ? &x->in : NULL);
    if (s == STEP_FAULT || s == STEP_EXIT) {
        v->cpu.interrupt_shadow = shadow;
        v->cpu.rflags |= rf;
        v->posted.n = v->posted.next = 0;
        if (s == STEP_FAULT)
            forget_accesses(sv);
        return s;
    }
    if (s == STEP_NEXT || s == STEP_NEXT_EXIT)
        advance(sv, &x->in);
    forget_accesses(sv);
    return s;
}
