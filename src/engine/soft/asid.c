/* SPDX-License-Identifier: MIT */
/*
 * Address spaces that are switched away from with PCIDs on (SDM vol. 3A, "Process-Context Identifiers"): what user mode had cached of them is put aside and
 * comes back when MOV CR3 returns with its no-flush bit. Only read and fetch entries and jump targets are kept: write entries would have to be searched
 * whenever a page gets translations. Global entries stay where they are. The vCPU's own thread, or any thread while all vCPUs are stopped.
 */
#include "engine/soft/asid.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/soft/code.h"
#include "engine/soft/light.h"

#define ASIDS 6u
#define CR3_PCID 0xfffull
#define TLB_GROUP (TLB_ENTRIES / 64)
#define JUMP_GROUP (JUMP_CACHE_ENTRIES / 64)

/* User-mode state of one address space; bit n of a `used` word: group n of the table holds something. */
struct asid {
    bool is_valid;
    uint64_t cr3;
    uint32_t jump_key;
    uint64_t used_read, used_fetch, used_jump;
    struct tlb_entry read[TLB_ENTRIES], fetch[TLB_ENTRIES];
    const void *jump[JUMP_CACHE_ENTRIES];
};

int asid_init(struct soft_vcpu *sv)
{
    sv->asid = calloc(ASIDS, sizeof *sv->asid);
    return sv->asid ? 0 : -ENOMEM;
}

void asid_fini(struct soft_vcpu *sv)
{
    free(sv->asid);
    sv->asid = NULL;
}

void asid_drop_all(struct soft_vcpu *sv)
{
    for (unsigned i = 0; sv->asid && i < ASIDS; i++)
        sv->asid[i].is_valid = false;
}

void asid_drop(struct soft_vcpu *sv, unsigned pcid)
{
    for (unsigned i = 0; i < ASIDS; i++)
        if ((sv->asid[i].cr3 & CR3_PCID) == pcid)
            sv->asid[i].is_valid = false;
}

static void groups_copy(void *to, const void *from, uint64_t used, unsigned group_bytes)
{
    for (; used; used &= used - 1) {
        size_t at = (size_t)__builtin_ctzll(used) * group_bytes;
        const uint64_t *f = (const uint64_t *)(const void *)((const uint8_t *)from + at);
        uint64_t *t = (uint64_t *)(void *)((uint8_t *)to + at);
        for (unsigned i = 0; i < group_bytes / 8; i++)
            t[i] = f[i];
    }
}

static uint64_t table_save(const struct soft_vcpu *sv, enum tlb_kind kind, struct tlb_entry *to)
{
    uint64_t used = sv->tlb_local[1][kind];
    groups_copy(to, sv->tlb[1][kind].entry, used, TLB_GROUP * sizeof *to);
    for (uint64_t left = used; left; left &= left - 1) {
        unsigned first = (unsigned)__builtin_ctzll(left) * TLB_GROUP;
        uint32_t global = (uint16_t)(sv->tlb_global[1][kind][first / 64] >> (first % 64));
        for (unsigned i = 0; i < TLB_GROUP; i++)
            if (global >> i & 1)
                to[first + i].page = to[first + i].host = TLB_EMPTY;
    }
    return used;
}

static void table_load(struct soft_vcpu *sv, enum tlb_kind kind, const struct tlb_entry *from, uint64_t used)
{
    for (uint64_t left = used; left; left &= left - 1) {
        unsigned first = (unsigned)__builtin_ctzll(left) * TLB_GROUP;
        for (unsigned i = 0; i < TLB_GROUP; i++) {
            if (from[first + i].page == TLB_EMPTY)
                continue;
            sv->tlb[1][kind].entry[first + i] = from[first + i];
            sv->tlb_global[1][kind][(first + i) / 64] &= ~(1ull << ((first + i) % 64));
        }
    }
    sv->tlb_local[1][kind] |= used;
    sv->tlb_clean[1][kind] &= ~used;
}

static struct asid *asid_find(struct soft_vcpu *sv, uint64_t cr3)
{
    for (unsigned i = 0; i < ASIDS; i++)
        if (sv->asid[i].is_valid && sv->asid[i].cr3 == cr3)
            return &sv->asid[i];
    return NULL;
}

static struct asid *asid_take(struct soft_vcpu *sv, uint64_t cr3)
{
    asid_drop(sv, cr3 & CR3_PCID);
    for (unsigned i = 0; i < ASIDS; i++)
        if (!sv->asid[i].is_valid)
            return &sv->asid[i];
    return &sv->asid[sv->asid_victim++ % ASIDS];
}

static void asid_save(struct soft_vcpu *sv, uint64_t cr3)
{
    struct asid *a = asid_take(sv, cr3);
    a->is_valid = true;
    a->cr3 = cr3;
    a->used_read = table_save(sv, TLB_READ, a->read);
    a->used_fetch = table_save(sv, TLB_FETCH, a->fetch);
    a->jump_key = sv->jump_cache_key[1];
    a->used_jump = sv->jump_cache_used[1];
    groups_copy(a->jump, sv->jump_cache[1], a->used_jump, JUMP_GROUP * sizeof a->jump[0]);
}

static void asid_load(struct soft_vcpu *sv, const struct asid *a)
{
    table_load(sv, TLB_READ, a->read, a->used_read);
    table_load(sv, TLB_FETCH, a->fetch, a->used_fetch);
    for (uint64_t left = a->used_fetch; left; left &= left - 1) {
        unsigned first = (unsigned)__builtin_ctzll(left) * TLB_GROUP;
        for (unsigned i = 0; i < TLB_GROUP; i++)
            if (a->fetch[first + i].page != TLB_EMPTY)
                tlb_note_fetched(sv, a->fetch[first + i].page, true);
    }
    sv->has_local_fetch[1] |= a->used_fetch != 0;
    if (a->jump_key != sv->jump_cache_key[1])
        return;
    groups_copy(sv->jump_cache[1], a->jump, a->used_jump, JUMP_GROUP * sizeof a->jump[0]);
    sv->jump_cache_used[1] |= a->used_jump;
}

void asid_switch(struct soft_vcpu *sv, uint64_t old_cr3, uint64_t new_cr3, bool keep)
{
    if ((old_cr3 ^ new_cr3) & CR3_PCID)
        asid_save(sv, old_cr3);
    if (!keep)
        asid_drop(sv, new_cr3 & CR3_PCID);
    tlb_flush_local(sv);
    struct asid *a = asid_find(sv, new_cr3);
    if (a) {
        asid_load(sv, a);
        a->is_valid = false; /* what is live now may be invalidated: the copy would not notice */
    }
}
