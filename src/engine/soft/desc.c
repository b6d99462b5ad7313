/* SPDX-License-Identifier: MIT */
/*
 * Access to the GDT and the LDT by the CPU itself. Not here: what may be loaded into which register (help_seg.c, transfer.c). Called by the control helpers on
 * the vCPU's thread; no lock. A descriptor's accessed bit may be set though the instruction faults later, as real processors do.
 */
#include "engine/soft/desc.h"

#define DESC_ACCESS_BYTE 5 /* byte of the descriptor with type, S, DPL, P */

/* Base and limit of the selector's table; false if there is none (no LDT). */
static bool desc_table(const struct soft_vcpu *sv, uint16_t selector, uint64_t *base, uint32_t *limit)
{
    const struct cpu_state *cpu = &sv->v.cpu;
    if (!(selector & 4)) {
        *base = cpu->gdtr.base;
        *limit = cpu->gdtr.limit;
        return true;
    }
    *base = cpu->ldtr.base;
    *limit = cpu->ldtr.limit;
    return !cpu->ldtr.unusable && cpu->ldtr.present;
}

enum step desc_find(struct soft_vcpu *sv, uint16_t selector, struct descriptor *d, bool *is_found)
{
    uint64_t base;
    uint32_t limit;
    *is_found = desc_table(sv, selector, &base, &limit) && (selector | 7u) <= limit;
    if (!*is_found)
        return STEP_NEXT;
    d->address = desc_linear(sv, base + (selector & ~7u));
    d->high = 0;
    return linear_read(sv, d->address, &d->low, 8, ACCESS_READ | ACCESS_IMPLICIT);
}

enum step desc_read(struct soft_vcpu *sv, uint16_t selector, unsigned vector, uint32_t ext, struct descriptor *d)
{
    bool is_found;
    enum step step = desc_find(sv, selector, d, &is_found);
    if (step != STEP_NEXT)
        return step;
    return is_found ? STEP_NEXT : step_fault_code(sv, vector, desc_error(selector, ext));
}

enum step desc_read_high(struct soft_vcpu *sv, uint16_t selector, unsigned vector, uint32_t ext, struct descriptor *d)
{
    uint64_t base;
    uint32_t limit;
    if (!desc_table(sv, selector, &base, &limit) || (selector & ~7u) + 15 > limit)
        return step_fault_code(sv, vector, desc_error(selector, ext));
    enum step step = linear_read(sv, d->address + 8, &d->high, 8, ACCESS_READ | ACCESS_IMPLICIT);
    if (step != STEP_NEXT)
        return step;
    if (d->high >> 40 & 0x1f)
        return step_fault_code(sv, vector, desc_error(selector, ext));
    return STEP_NEXT;
}

void desc_to_segment(const struct descriptor *d, uint16_t selector, struct segment *out)
{
    uint64_t low = d->low;
    uint32_t limit = (uint32_t)(low & 0xffff) | (uint32_t)(low >> 32 & 0xf0000);
    bool is_pages = low >> 55 & 1;
    *out = segment_make(selector, (uint32_t)(low >> 32), is_pages ? limit << 12 | 0xfff : limit, (low >> 16 & 0xffffff) | (low >> 56 << 24));
    out->unusable = 0;
}

uint64_t desc_long_base(const struct descriptor *d)
{
    return (d->low >> 16 & 0xffffff) | (d->low >> 56 << 24) | d->high << 32;
}

/* Changes bits of the access byte. Only this byte is written, so a neighbour's update of the other fields is never lost. */
static enum step desc_update(struct soft_vcpu *sv, gva_t address, uint8_t clear, uint8_t set)
{
    uint8_t byte;
    gva_t at = address + DESC_ACCESS_BYTE;
    enum step step = linear_read(sv, at, &byte, 1, ACCESS_READ | ACCESS_IMPLICIT);
    if (step != STEP_NEXT)
        return step;
    byte = (uint8_t)((byte & ~clear) | set);
    return linear_write(sv, at, &byte, 1, ACCESS_WRITE | ACCESS_IMPLICIT);
}

enum step desc_set_accessed(struct soft_vcpu *sv, struct descriptor *d)
{
    if (desc_type(d) & SEG_TYPE_ACCESSED)
        return STEP_NEXT;
    d->low |= (uint64_t)SEG_TYPE_ACCESSED << 40;
    return desc_update(sv, d->address, 0, SEG_TYPE_ACCESSED);
}

enum step desc_set_busy(struct soft_vcpu *sv, gva_t address, bool is_busy)
{
    return desc_update(sv, address, DESC_TYPE_BUSY, is_busy ? DESC_TYPE_BUSY : 0);
}

/* Limit and granularity stay, as on Intel processors: a later real-mode load finds them. */
void desc_set_null(struct segment *s, uint16_t selector)
{
    s->base = 0;
    s->selector = selector;
    s->type = s->s = s->present = s->dpl = s->l = s->avl = 0;
    s->unusable = 1;
}

void desc_set_8086(struct soft_vcpu *sv, struct segment *s, uint16_t selector)
{
    if (desc_is_protected(sv)) {
        desc_set_vm86(s, selector);
        return;
    }
    /* Limit, G and D/B are left from protected mode: "unreal" mode depends on it. */
    s->selector = selector;
    s->base = (uint32_t)selector << 4;
    s->type = SEG_TYPE_WRITE | SEG_TYPE_ACCESSED;
    s->s = s->present = 1;
    s->dpl = s->l = s->unusable = 0;
}

void desc_set_vm86(struct segment *s, uint16_t selector)
{
    *s = (struct segment){
        .base = (uint32_t)selector << 4,
        .limit = 0xffff,
        .selector = selector,
        .type = SEG_TYPE_WRITE | SEG_TYPE_ACCESSED,
        .s = 1,
        .present = 1,
        .dpl = 3,
    };
}
