/* SPDX-License-Identifier: MIT */
/*
 * Page walks: linear to guest-physical, for every paging mode, with the architecture's checks, error codes and accessed/dirty bits
 * (SDM vol. 3A, "Paging"). No translation is cached here, see tlb.c. Called on the vCPU's thread, or by the holder of its lock while it does not run;
 * other vCPUs may change the same tables at any moment, so every entry is read once and changed by compare-and-exchange only.
 * Protection keys are not offered to the guest and not checked.
 */
#include <errno.h>

#include "engine/soft/tlb.h"

#define ENTRY_P 1ull
#define ENTRY_W 2ull
#define ENTRY_U 4ull
#define ENTRY_A 0x20ull
#define ENTRY_D 0x40ull
#define ENTRY_PS 0x80ull
#define ENTRY_G 0x100ull
#define ENTRY_NX (1ull << 63)
#define WALK_LEVELS_MAX 5

/* One entry as it was read. */
struct walk_entry {
    void *host;
    const struct memslot *slot;
    gpa_t gpa;
    uint64_t value;
};

struct walk_state {
    unsigned entry_bytes; /* 4: two-level paging, 8: all others */
    unsigned levels;
    unsigned n; /* entries passed; the last one is the leaf */
    struct walk_entry entry[WALK_LEVELS_MAX];
    uint64_t rights; /* ENTRY_W, ENTRY_U: allowed at every level */
    bool is_nx;
    unsigned page_shift;
    gpa_t gpa;
};

/* Bits lo..hi, both included. */
static inline uint64_t bits(unsigned hi, unsigned lo)
{
    return hi < lo ? 0 : (~0ull >> (63 - hi)) & (~0ull << lo);
}

/* Searched in the entries themselves: vcpu_cpuid() may not be called with the guest's vectors live. */
static void guest_limits(struct soft_vcpu *sv)
{
    const struct vcpu *v = &sv->v;
    unsigned phys_bits = 36;
    bool has_1g = v->n_cpuid == 0;
    for (unsigned i = 0; i < v->n_cpuid; i++) {
        const struct cpuid_entry *e = &v->cpuid[i];
        if (e->function == 0x80000008u)
            phys_bits = e->eax & 0xff;
        else if (e->function == 0x80000001u)
            has_1g = e->edx >> 26 & 1;
    }
    sv->phys_bits = (uint8_t)(phys_bits < 32 ? 32 : phys_bits > 52 ? 52 : phys_bits);
    sv->has_1g_pages = has_1g;
}

static inline unsigned phys_bits(struct soft_vcpu *sv)
{
    if (sv->phys_bits == 0)
        guest_limits(sv);
    return sv->phys_bits;
}

static int page_fault(struct soft_vcpu *sv, gva_t gva, unsigned access, uint32_t code)
{
    const struct cpu_state *c = &sv->v.cpu;
    if (access & ACCESS_WRITE)
        code |= PF_W;
    if (access & ACCESS_USER)
        code |= PF_U;
    if ((access & ACCESS_FETCH) && (((c->cr4 & CR4_PAE) && (c->efer & EFER_NXE)) || (c->cr4 & CR4_SMEP)))
        code |= PF_I;
    sv->fault = (struct fault){ .vector = VEC_PF, .has_code = true, .code = code, .addr = gva };
    return -EFAULT;
}

/* As the vCPU's view has it, but whatever it denies: the walk is the CPU's, not the program's. Tables outside RAM give no entry: the caller treats that as not
 * present. */
static bool entry_read(struct soft_vcpu *sv, gpa_t gpa, unsigned bytes, struct walk_entry *out)
{
    gpa = view_gpa(view_find(&sv->v, gpa), gpa);
    const struct memslot *s = memslots_find(slots_seen(sv), gpa);
    if (!s)
        return false;
    out->host = s->hva + (gpa - s->gpa);
    out->slot = s;
    out->gpa = gpa;
    out->value = bytes == 4 ? __atomic_load_n((uint32_t *)out->host, __ATOMIC_RELAXED) : __atomic_load_n((uint64_t *)out->host, __ATOMIC_RELAXED);
    return true;
}

/* Two-level paging: only the 4 MiB page has reserved bits. */
static uint64_t reserved_2level(struct soft_vcpu *sv, unsigned level, bool is_leaf)
{
    unsigned m = phys_bits(sv) < 40 ? phys_bits(sv) : 40;
    return level == 2 && is_leaf ? bits(21, m - 32 + 13) : 0;
}

static uint64_t reserved_bits(struct soft_vcpu *sv, const struct walk_state *w, unsigned level, bool is_leaf)
{
    if (w->entry_bytes == 4)
        return reserved_2level(sv, level, is_leaf);
    /* With PAE paging bits 62:52 are reserved too, in long mode they are the guest's own. */
    uint64_t r = bits(w->levels == 2 ? 62 : 51, phys_bits(sv));
    if (!(sv->v.cpu.efer & EFER_NXE))
        r |= ENTRY_NX;
    if (level == 2 && is_leaf)
        r |= bits(20, 13);
    else if (level == 3)
        r |= is_leaf ? bits(29, 13) : ENTRY_PS; /* set but no leaf: 1 GiB pages are not offered */
    else if (level > 3)
        r |= ENTRY_PS;
    return r;
}

static bool entry_is_leaf(struct soft_vcpu *sv, const struct walk_state *w, unsigned level, uint64_t value)
{
    if (level == 1)
        return true;
    if (!(value & ENTRY_PS))
        return false;
    if (level == 2)
        return w->entry_bytes == 8 || (sv->v.cpu.cr4 & CR4_PSE);
    phys_bits(sv);
    return level == 3 && sv->has_1g_pages;
}

static gpa_t leaf_gpa(const struct walk_state *w, uint64_t value, gva_t gva)
{
    uint64_t in_page = bits(w->page_shift - 1, 0);
    if (w->page_shift == 22) /* PSE-36: bits 20:13 are address bits 39:32 */
        return (value & bits(31, 22)) | (value >> 13 & 0xff) << 32 | (gva & in_page);
    return (value & bits(51, 12) & ~in_page) | (gva & in_page);
}

/* Reads the entries from the top down to the leaf. */
static int walk_down(struct soft_vcpu *sv, gva_t gva, unsigned access, gpa_t table, struct walk_state *w)
{
    unsigned index_bits = w->entry_bytes == 4 ? 10 : 9;
    w->rights = ENTRY_W | ENTRY_U;
    w->is_nx = false;
    w->n = 0;
    for (unsigned level = w->levels;; level--) {
        struct walk_entry *e = &w->entry[w->n++];
        w->page_shift = PAGE_SHIFT + index_bits * (level - 1);
        uint64_t index = gva >> w->page_shift & bits(index_bits - 1, 0);
        if (!entry_read(sv, table + index * w->entry_bytes, w->entry_bytes, e) || !(e->value & ENTRY_P))
            return page_fault(sv, gva, access, 0);
        bool is_leaf = entry_is_leaf(sv, w, level, e->value);
        if (e->value & reserved_bits(sv, w, level, is_leaf))
            return page_fault(sv, gva, access, PF_P | PF_RSVD);
        w->rights &= e->value;
        w->is_nx |= (e->value & ENTRY_NX) != 0;
        if (is_leaf) {
            w->gpa = leaf_gpa(w, e->value, gva);
            return 0;
        }
        table = e->value & (w->entry_bytes == 4 ? bits(31, 12) : bits(51, 12));
    }
}

static bool is_allowed(const struct soft_vcpu *sv, const struct walk_state *w, unsigned access)
{
    const struct cpu_state *c = &sv->v.cpu;
    bool is_user_page = w->rights & ENTRY_U;
    if ((access & ACCESS_WRITE) && !(w->rights & ENTRY_W) && ((access & ACCESS_USER) || (c->cr0 & CR0_WP)))
        return false;
    if ((access & ACCESS_FETCH) && w->is_nx)
        return false;
    if (access & ACCESS_USER)
        return is_user_page;
    if (!is_user_page)
        return true;
    if (access & ACCESS_FETCH)
        return !(c->cr4 & CR4_SMEP);
    return !(c->cr4 & CR4_SMAP) || ((c->rflags & RFLAGS_AC) && !(access & ACCESS_IMPLICIT));
}

static bool entry_exchange(const struct walk_entry *e, unsigned bytes, uint64_t value)
{
    if (bytes == 4) {
        uint32_t old = (uint32_t)e->value;
        return __atomic_compare_exchange_n((uint32_t *)e->host, &old, (uint32_t)value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    uint64_t old = e->value;
    return __atomic_compare_exchange_n((uint64_t *)e->host, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

/* Sets accessed bits, and the leaf's dirty bit for a write. False if an entry changed since it was read: the walk starts over. */
static bool set_accessed_dirty(struct soft_vcpu *sv, const struct walk_state *w, unsigned access)
{
    for (unsigned i = 0; i < w->n; i++) {
        const struct walk_entry *e = &w->entry[i];
        uint64_t value = e->value | ENTRY_A;
        if (i == w->n - 1 && (access & ACCESS_WRITE))
            value |= ENTRY_D;
        if (value == e->value || (e->slot->flags & MEMSLOT_READONLY)) /* tables in ROM: the bits' writes are dropped */
            continue;
        if (!entry_exchange(e, w->entry_bytes, value))
            return false;
        vcpu_mark_dirty(&sv->v, e->slot, e->gpa);
    }
    return true;
}

static int walk_tables(struct soft_vcpu *sv, gva_t gva, unsigned access, gpa_t table, struct walk_state *w)
{
    do {
        int rc = walk_down(sv, gva, access, table, w);
        if (rc)
            return rc;
        if (!is_allowed(sv, w, access))
            return page_fault(sv, gva, access, PF_P);
    } while (!(access & ACCESS_PROBE) && !set_accessed_dirty(sv, w, access));
    return 0;
}

int walk_page(struct soft_vcpu *sv, gva_t gva, unsigned access, struct walk_result *out)
{
    const struct cpu_state *c = &sv->v.cpu;
    struct walk_state w;
    gpa_t table = c->cr3 & bits(51, 12);

    if (c->efer & EFER_LMA) {
        if (!gva_is_canonical(sv, gva)) {
            step_fault_code(sv, VEC_GP, 0);
            return -EFAULT;
        }
        w.entry_bytes = 8;
        w.levels = c->cr4 & CR4_LA57 ? 5 : 4;
    } else {
        gva = (uint32_t)gva;
        if (!(c->cr0 & CR0_PG)) {
            *out = (struct walk_result){ .gpa = gva, .page_shift = PAGE_SHIFT, .is_writeable = true, .is_usermode = true };
            return 0;
        }
        if (c->cr4 & CR4_PAE) {
            uint64_t pdpte = c->pdpte[gva >> 30];
            if (!(pdpte & ENTRY_P))
                return page_fault(sv, gva, access, 0);
            table = pdpte & bits(51, 12);
            w.entry_bytes = 8;
            w.levels = 2;
        } else {
            table = c->cr3 & bits(31, 12);
            w.entry_bytes = 4;
            w.levels = 2;
        }
    }
    int rc = walk_tables(sv, gva, access, table, &w);
    if (rc)
        return rc;
    *out = (struct walk_result){ .gpa = w.gpa, .page_shift = w.page_shift, .is_writeable = w.rights & ENTRY_W, .is_usermode = w.rights & ENTRY_U };
    out->is_global = (w.entry[w.n - 1].value & ENTRY_G) && (c->cr4 & CR4_PGE);
    return 0;
}

int walk(struct soft_vcpu *sv, gva_t gva, unsigned access, gpa_t *gpa, bool *is_writeable, bool *is_usermode)
{
    struct walk_result r;
    int rc = walk_page(sv, gva, access, &r);
    if (rc)
        return rc;
    *gpa = r.gpa;
    if (is_writeable)
        *is_writeable = r.is_writeable;
    if (is_usermode)
        *is_usermode = r.is_usermode;
    return 0;
}

int pdpte_load(struct soft_vcpu *sv, uint64_t cr3)
{
    uint64_t value[4];
    uint64_t reserved = bits(63, phys_bits(sv)) | bits(8, 5) | bits(2, 1);
    for (unsigned i = 0; i < 4; i++) {
        struct walk_entry e;
        if (!entry_read(sv, (cr3 & bits(31, 5)) + i * 8, 8, &e))
            return -EINVAL;
        if ((e.value & ENTRY_P) && (e.value & reserved))
            return -EINVAL;
        value[i] = e.value;
    }
    for (unsigned i = 0; i < 4; i++)
        sv->v.cpu.pdpte[i] = value[i];
    return 0;
}
