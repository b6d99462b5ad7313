/* SPDX-License-Identifier: MIT */
/*
 * The software TLB: linear pages to host addresses, one set per privilege, one table per kind of access. An entry stands for all checks of its kind of
 * access, so translated code uses it with one compare. Entries are made here only, by the vCPU's own thread, as is everything else in this file; no lock.
 *
 * What never gets an entry: MMIO, the APIC page, writes to read-only slots, fetches from those without execution, writes to pages with translations, watched
 * pages and what a view denies, anything while is_checking. Entries are of the view that the vCPU is in. A write entry implies that the PTE's D bit and the
 * dirty log's bit are set; whoever clears them flushes.
 */
#include <errno.h>

#include "engine/soft/asid.h"
#include "engine/soft/tlb.h"

#define TLB_GROUP 16u /* entries per bit of tlb_clean */

_Static_assert(TLB_ENTRIES / TLB_GROUP == 64, "one bit of tlb_clean per group");
_Static_assert(sizeof((struct soft_vcpu *)0)->smap_entry == SMAP_ENTRIES_MAX * sizeof(uint16_t), "smap_entry");
_Static_assert(TLB_KINDS == 3, "tlb_clean");

static inline unsigned entry_index(gva_t gva)
{
    return (gva >> PAGE_SHIFT) % TLB_ENTRIES;
}

static inline uint64_t hash_bit(uint64_t n)
{
    return 1ull << (n * 0x9e3779b97f4a7c15ull >> 58);
}

/* The host address of an empty entry is not canonical either: should a guest use the address TLB_EMPTY itself, the host faults as the guest must. */
static inline void entry_clear(struct tlb_entry *e)
{
    e->page = TLB_EMPTY;
    e->host = TLB_EMPTY;
}

static void table_flush(struct soft_vcpu *sv, unsigned set, unsigned kind)
{
    struct tlb *t = &sv->tlb[set][kind];
    uint64_t used = ~sv->tlb_clean[set][kind];
    while (used) {
        struct tlb_entry *group = &t->entry[(unsigned)__builtin_ctzll(used) * TLB_GROUP];
        for (unsigned i = 0; i < TLB_GROUP; i++)
            entry_clear(&group[i]);
        used &= used - 1;
    }
    sv->tlb_clean[set][kind] = ~0ull;
    sv->tlb_local[set][kind] = 0;
}

void tlb_flush(struct soft_vcpu *sv)
{
    vcpu_count(&sv->v, STAT_TLB_FLUSHES);
    for (unsigned set = 0; set < 2; set++)
        for (unsigned kind = 0; kind < TLB_KINDS; kind++)
            table_flush(sv, set, kind);
    sv->has_low_fetch[0] = sv->has_low_fetch[1] = false;
    sv->n_smap_entries = 0;
    sv->large_4m = sv->large_1g = 0;
    for (unsigned i = 0; i < 4; i++)
        sv->fetched[0][i] = sv->fetched[1][i] = 0;
    sv->phys_bits = 0; /* the client may have changed CPUID */
    asid_drop_all(sv);
    jump_cache_flush(sv);
}

static void table_flush_local(struct soft_vcpu *sv, unsigned set, unsigned kind)
{
    for (uint64_t left = sv->tlb_local[set][kind]; left; left &= left - 1) {
        unsigned n = (unsigned)__builtin_ctzll(left), first = n * TLB_GROUP;
        uint32_t global = (uint16_t)(sv->tlb_global[set][kind][first / 64] >> (first % 64));
        if (!global)
            sv->tlb_clean[set][kind] |= 1ull << n;
        for (unsigned i = 0; i < TLB_GROUP; i++)
            if (!(global >> i & 1))
                entry_clear(&sv->tlb[set][kind].entry[first + i]);
    }
    sv->tlb_local[set][kind] = 0;
}

void tlb_flush_local(struct soft_vcpu *sv)
{
    vcpu_count(&sv->v, STAT_TLB_FLUSHES);
    for (unsigned set = 0; set < 2; set++) {
        for (unsigned kind = 0; kind < TLB_KINDS; kind++)
            table_flush_local(sv, set, kind);
        if (sv->has_local_fetch[set])
            jump_cache_flush_set(sv, set);
        sv->has_local_fetch[set] = false;
    }
}

/* Clears all entries whose page lies in the region of 2^shift bytes around gva. */
static void region_flush(struct soft_vcpu *sv, gva_t gva, unsigned shift)
{
    for (unsigned n = 0; n < 2 * TLB_KINDS; n++) {
        struct tlb *t = &sv->tlb[n / TLB_KINDS][n % TLB_KINDS];
        uint64_t used = ~sv->tlb_clean[n / TLB_KINDS][n % TLB_KINDS];
        while (used) {
            struct tlb_entry *group = &t->entry[(unsigned)__builtin_ctzll(used) * TLB_GROUP];
            for (unsigned i = 0; i < TLB_GROUP; i++)
                if ((group[i].page ^ gva) >> shift == 0)
                    entry_clear(&group[i]);
            used &= used - 1;
        }
    }
}

void tlb_flush_fetch(struct soft_vcpu *sv)
{
    table_flush(sv, 0, TLB_FETCH);
    table_flush(sv, 1, TLB_FETCH);
    asid_drop_all(sv);
    jump_cache_flush(sv);
}

/* INVLPG of any address in a large page drops the whole page, of which we hold 4 KiB fragments; the hashes tell cheaply that there are none. */
void tlb_flush_page(struct soft_vcpu *sv, gva_t gva)
{
    gva &= ~PAGE_OFFSET_MASK;
    if (!(sv->v.cpu.efer & EFER_LMA))
        gva = (uint32_t)gva;
    bool is_4m = sv->large_4m & hash_bit(gva >> 22), is_1g = sv->large_1g & hash_bit(gva >> 30);
    if (is_1g)
        region_flush(sv, gva, 30);
    else if (is_4m)
        region_flush(sv, gva, 22);
    else
        for (unsigned n = 0; n < 2 * TLB_KINDS; n++) {
            struct tlb_entry *e = &sv->tlb[n / TLB_KINDS][n % TLB_KINDS].entry[entry_index(gva)];
            if (e->page == gva)
                entry_clear(e);
        }
    uint64_t page = gva >> PAGE_SHIFT;
    for (unsigned set = 0; set < 2; set++)
        if ((gva >> 63 || sv->has_low_fetch[set]) && (is_1g || is_4m || (sv->fetched[set][page % 4] & hash_bit(page))))
            jump_cache_flush_set(sv, set);
}

static void table_drop(struct soft_vcpu *sv, unsigned set, unsigned kind, uint64_t host_page)
{
    for (uint64_t used = ~sv->tlb_clean[set][kind]; used; used &= used - 1) {
        struct tlb_entry *group = &sv->tlb[set][kind].entry[(unsigned)__builtin_ctzll(used) * TLB_GROUP];
        for (unsigned i = 0; i < TLB_GROUP; i++)
            if (group[i].host == host_page)
                entry_clear(&group[i]);
    }
}

void tlb_drop_write(struct soft_vcpu *sv, uint64_t host_page)
{
    table_drop(sv, 0, TLB_WRITE, host_page);
    table_drop(sv, 1, TLB_WRITE, host_page);
}

void tlb_drop_page(struct soft_vcpu *sv, uint64_t host_page)
{
    for (unsigned n = 0; n < 2 * TLB_KINDS; n++)
        table_drop(sv, n / TLB_KINDS, n % TLB_KINDS, host_page);
    asid_drop_all(sv);
}

void smap_ac_changed(struct soft_vcpu *sv)
{
    if (sv->n_smap_entries == 0 || (sv->v.cpu.rflags & RFLAGS_AC))
        return;
    if (sv->n_smap_entries > SMAP_ENTRIES_MAX) {
        table_flush(sv, 0, TLB_READ);
        table_flush(sv, 0, TLB_WRITE);
    } else {
        /* An entry may hold another page by now: dropping that too costs one refill. */
        for (unsigned i = 0; i < sv->n_smap_entries; i++)
            entry_clear(&sv->tlb[0][sv->smap_entry[i] / TLB_ENTRIES].entry[sv->smap_entry[i] % TLB_ENTRIES]);
    }
    sv->n_smap_entries = 0;
}

void tlb_note_fetched(struct soft_vcpu *sv, gva_t gva, bool is_user)
{
    sv->fetched[is_user][(gva >> PAGE_SHIFT) % 4] |= hash_bit(gva >> PAGE_SHIFT);
    sv->has_low_fetch[is_user] |= !(gva >> 63);
}

static void entry_install(struct soft_vcpu *sv, gva_t gva, enum tlb_kind kind, bool is_user, const struct walk_result *w, uint64_t host_page)
{
    unsigned index = entry_index(gva);
    gva_t page = gva & ~PAGE_OFFSET_MASK;
    sv->tlb[is_user][kind].entry[index] = (struct tlb_entry){ .page = page, .host = host_page };
    sv->tlb_clean[is_user][kind] &= ~(1ull << (index / TLB_GROUP));
    uint64_t *global = &sv->tlb_global[is_user][kind][index / 64];
    *global = (*global & ~(1ull << (index % 64))) | (uint64_t)w->is_global << (index % 64);
    if (!w->is_global)
        sv->tlb_local[is_user][kind] |= 1ull << (index / TLB_GROUP);
    sv->has_local_fetch[is_user] |= kind == TLB_FETCH && !w->is_global;
    if (w->page_shift == 30)
        sv->large_1g |= hash_bit(gva >> 30);
    else if (w->page_shift != PAGE_SHIFT)
        sv->large_4m |= hash_bit(gva >> 22);
    if (kind == TLB_FETCH)
        tlb_note_fetched(sv, gva, is_user);
    else if (!is_user && w->is_usermode && (sv->v.cpu.cr4 & CR4_SMAP)) {
        if (sv->n_smap_entries < SMAP_ENTRIES_MAX)
            sv->smap_entry[sv->n_smap_entries++] = (uint16_t)(kind * TLB_ENTRIES + index);
        else
            sv->n_smap_entries = SMAP_ENTRIES_MAX + 1;
    }
}

static bool is_apic_page(const struct soft_vcpu *sv, gpa_t gpa)
{
    uint64_t base = sv->v.cpu.apic_base;
    return sv->v.lapic && (base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC)) == APIC_BASE_ENABLE && gpa >> PAGE_SHIFT == base >> PAGE_SHIFT;
}

/* A write entry is a read entry too, and may serve an instruction that reads first. */
static bool is_slow_in_view(struct view_entry seen, unsigned access)
{
    if (access & ACCESS_FETCH)
        return seen.where & VIEW_NO_EXECUTE;
    return (seen.where & VIEW_NO_READ) || ((access & ACCESS_WRITE) && seen.unwriteable);
}

int tlb_place(struct soft_vcpu *sv, gva_t gva, unsigned access, struct page_place *out)
{
    enum tlb_kind kind = access & ACCESS_FETCH ? TLB_FETCH : access & ACCESS_WRITE ? TLB_WRITE : TLB_READ;
    bool is_user = access & ACCESS_USER;
    /* Set 0's user pages are there by leave of RFLAGS.AC, which implicit accesses do not heed. */
    bool is_cached = !sv->is_checking && !((access & ACCESS_IMPLICIT) && sv->n_smap_entries);

    *out = (struct page_place){ 0 };
    if (!(sv->v.cpu.efer & EFER_LMA))
        gva = (uint32_t)gva;
    out->host = is_cached ? tlb_lookup(sv, gva, kind, is_user) : NULL;
    if (out->host) {
        out->is_tlb_hit = true;
        return 0;
    }

    struct walk_result w;
    int rc = walk_page(sv, gva, access, &w);
    if (rc)
        return rc;
    out->gpa = out->guest_gpa = w.gpa;
    if (is_apic_page(sv, w.gpa))
        return 0;
    const struct view_entry seen = view_find(&sv->v, w.gpa);
    out->gpa = w.gpa = view_gpa(seen, w.gpa);
    const struct memslot *s = memslots_find(slots_seen(sv), w.gpa);
    bool is_write = access & ACCESS_WRITE;
    if (!s)
        return 0;
    out->is_watched = is_slow_in_view(seen, access) || watch_page_is_slow(sv, out->guest_gpa, access);
    is_cached &= !out->is_watched;
    if ((is_write && (s->flags & MEMSLOT_READONLY)) || (kind == TLB_FETCH && (s->flags & MEMSLOT_NO_EXEC)))
        return 0;
    out->host = s->hva + (w.gpa - s->gpa);
    if (is_write) {
        out->slot = s;
        /*
         * Without an entry nobody sees that a store is on its way to a page that gets translations just now. With the dirty ring full, stores that would
         * need room in it are done one by one, as between those the vCPU can leave.
         */
        out->is_code = !is_cached || dirty_ring_is_full(&sv->v.dirty_ring) || code_page_has(sv, w.gpa >> PAGE_SHIFT);
    }
    if (!is_cached || out->is_code)
        return 0;
    uint64_t host_page = (uint64_t)(uintptr_t)out->host - (w.gpa & PAGE_OFFSET_MASK);
    entry_install(sv, gva, kind, is_user, &w, host_page);
    if (is_write) {
        vcpu_mark_dirty(&sv->v, s, w.gpa);
        entry_install(sv, gva, TLB_READ, is_user, &w, host_page); /* what may be written may be read */
        /* Another vCPU may have begun to translate the page since we asked: it sees our entry or we see its mark (cache.c, page_begin). */
        atomic_thread_fence(memory_order_seq_cst);
        out->is_code = code_page_has(sv, w.gpa >> PAGE_SHIFT);
        if (out->is_code)
            entry_clear(&sv->tlb[is_user][TLB_WRITE].entry[entry_index(gva)]);
    }
    return 0;
}

hva_t tlb_fill(struct soft_vcpu *sv, gva_t gva, enum tlb_kind kind, bool is_user, enum tlb_miss *reason)
{
    static const uint8_t access_of[TLB_KINDS] = { [TLB_READ] = ACCESS_READ, [TLB_WRITE] = ACCESS_WRITE, [TLB_FETCH] = ACCESS_FETCH };
    struct page_place p;
    if (tlb_place(sv, gva, access_of[kind] | (is_user ? ACCESS_USER : 0), &p)) {
        *reason = TLB_MISS_FAULT;
        return NULL;
    }
    if (!p.host || p.is_code || p.is_watched) {
        *reason = p.is_watched ? TLB_MISS_WATCHED : p.host ? TLB_MISS_CODE_PAGE : TLB_MISS_MMIO;
        return NULL;
    }
    if (kind == TLB_WRITE && p.slot)
        vcpu_mark_dirty(&sv->v, p.slot, p.gpa);
    return p.host;
}
