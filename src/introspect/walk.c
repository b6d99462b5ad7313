/* SPDX-License-Identifier: MIT */
/*
 * Page-table walks for tools (SDM vol. 3A, "Paging"): one loop over levels of 9 or 10 bits. Permissions are what the tables say; CR0.WP, SMEP and the like are
 * the access's business, not the translation's.
 */
#include "introspect/walk.h"

#include "core/view.h"
#include "core/vm.h"
#include "introspect/view.h"

#define ENTRY_P 1ull
#define ENTRY_W 2ull
#define ENTRY_U 4ull
#define ENTRY_PS 0x80ull
#define ENTRY_NX (1ull << 63)
#define ENTRY_ADDRESS 0x000ffffffffff000ull
#define ENTRY_ADDRESS_32 0xfffff000ull

struct table_format {
    unsigned levels, index_bits, entry_bytes;
    bool has_pdptes; /* PAE: the top level is in registers and grants everything */
};

void look_paging_of(const struct vcpu *v, struct look_paging *out)
{
    *out = (struct look_paging){ .cr0 = v->cpu.cr0, .cr3 = v->cpu.cr3, .cr4 = v->cpu.cr4, .efer = v->cpu.efer, .space = vcpu_space(v), .view = view_of(v) };
    for (unsigned i = 0; i < 4; i++)
        out->pdpte[i] = v->cpu.pdpte[i];
}

static struct table_format format_of(const struct look_paging *p)
{
    if (p->efer & EFER_LMA)
        return (struct table_format){ .levels = p->cr4 & CR4_LA57 ? 5 : 4, .index_bits = 9, .entry_bytes = 8 };
    if (p->cr4 & CR4_PAE)
        return (struct table_format){ .levels = 3, .index_bits = 9, .entry_bytes = 8, .has_pdptes = true };
    return (struct table_format){ .levels = 2, .index_bits = 10, .entry_bytes = 4 };
}

static bool is_canonical(gva_t gva, unsigned bits)
{
    return (int64_t)(gva << (64 - bits)) >> (64 - bits) == (int64_t)gva;
}

/* Bits 13-20 of a 4 MiB page's entry are bits 32-39 of its address (PSE-36). */
static gpa_t frame_of(const struct table_format *f, uint64_t entry, unsigned shift)
{
    gpa_t frame = entry & (f->entry_bytes == 4 ? ENTRY_ADDRESS_32 : ENTRY_ADDRESS) & ~((1ull << shift) - 1);
    return f->entry_bytes == 4 && shift > PAGE_SHIFT ? frame | (entry >> 13 & 0xff) << 32 : frame;
}

static bool is_leaf(const struct look_paging *p, const struct table_format *f, unsigned level, uint64_t entry)
{
    if (level == 1)
        return true;
    return (entry & ENTRY_PS) && level <= 3 && (f->entry_bytes == 8 || (p->cr4 & CR4_PSE));
}

static bool has_reserved(const struct look_paging *p, const struct table_format *f, unsigned level, uint64_t entry)
{
    if (f->entry_bytes == 4)
        return false;
    if ((entry & ENTRY_NX) && !(p->efer & EFER_NXE))
        return true;
    return (entry & ENTRY_PS) && (level > 3 || (level == 3 && f->has_pdptes));
}

/* False: out->result says why. */
static bool read_entry(struct vm *vm, const struct look_paging *p, const struct table_format *f, unsigned level, gpa_t table, unsigned index,
                       struct look_walk *out)
{
    out->level = level;
    out->entry = 0;
    if (f->has_pdptes && level == 3)
        out->entry = p->pdpte[index & 3];
    else if (vm_space_read(vm, p->space, look_view_memory(vm, p->view, table + (uint64_t)index * f->entry_bytes), &out->entry, f->entry_bytes))
        out->result = WALK_NO_MEMORY;
    if (out->result == WALK_OK && !(out->entry & ENTRY_P))
        out->result = WALK_NOT_PRESENT;
    else if (out->result == WALK_OK && !(f->has_pdptes && level == 3) && has_reserved(p, f, level, out->entry))
        out->result = WALK_RESERVED;
    return out->result == WALK_OK;
}

void look_walk(struct vm *vm, const struct look_paging *p, gva_t gva, struct look_walk *out)
{
    *out = (struct look_walk){ .is_writeable = true, .is_user = true, .is_executable = true, .page_bytes = PAGE_BYTES };
    if (!(p->efer & EFER_LMA))
        gva = (uint32_t)gva;
    if (!(p->cr0 & CR0_PG)) {
        out->gpa = gva;
        return;
    }
    struct table_format f = format_of(p);
    if ((p->efer & EFER_LMA) && !is_canonical(gva, 12 + 9 * f.levels)) {
        out->result = WALK_NOT_CANONICAL;
        return;
    }
    gpa_t table = p->cr3 & (p->efer & EFER_LMA ? ENTRY_ADDRESS : ENTRY_ADDRESS_32);
    for (unsigned level = f.levels;; level--) {
        unsigned shift = PAGE_SHIFT + f.index_bits * (level - 1), index = (unsigned)(gva >> shift) & ((1u << f.index_bits) - 1);
        if (!read_entry(vm, p, &f, level, table, index, out))
            return;
        if (!(f.has_pdptes && level == 3)) {
            out->is_writeable &= (out->entry & ENTRY_W) != 0;
            out->is_user &= (out->entry & ENTRY_U) != 0;
            out->is_executable &= f.entry_bytes == 4 || !(out->entry & ENTRY_NX);
        }
        if (is_leaf(p, &f, level, out->entry)) {
            out->page_bytes = 1ull << shift;
            out->gpa = frame_of(&f, out->entry, shift) | (gva & (out->page_bytes - 1));
            return;
        }
        table = out->entry & (f.entry_bytes == 4 ? ENTRY_ADDRESS_32 : ENTRY_ADDRESS);
    }
}
