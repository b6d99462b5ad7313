/* SPDX-License-Identifier: MIT */
/*
 * Descriptor tables as the CPU itself reads them: lookup with limit checks, descriptors to hidden parts, accessed and busy bits; and the mode predicates that
 * every control-transfer helper asks. All reads are implicit supervisor accesses (SDM vol. 3A, "Implicit Supervisor-Mode Accesses").
 */
#ifndef VITRINE_ENGINE_SOFT_DESC_H
#define VITRINE_ENGINE_SOFT_DESC_H

#include "engine/soft/soft_priv.h"

/* One descriptor as found in memory. `high` is valid only after desc_read_high. */
struct descriptor {
    uint64_t low, high;
    gva_t address;
};

/* System descriptor types (the 4-bit type with S = 0); bit 1 of a TSS type is its busy bit, bit 3 of most types tells 32-bit from 16-bit. */
enum desc_type {
    DESC_TSS16 = 1,
    DESC_LDT = 2,
    DESC_TSS16_BUSY = 3,
    DESC_CALL16 = 4,
    DESC_TASK_GATE = 5,
    DESC_INT16 = 6,
    DESC_TRAP16 = 7,
    DESC_TSS = 9,
    DESC_TSS_BUSY = 11,
    DESC_CALL = 12,
    DESC_INT = 14,
    DESC_TRAP = 15
};
#define DESC_TYPE_BUSY 2u

/* Type bits of code and data segments. */
#define SEG_TYPE_ACCESSED 1u
#define SEG_TYPE_WRITE 2u /* data */
#define SEG_TYPE_READ 2u  /* code */
#define SEG_TYPE_DOWN 4u  /* data: expands down */
#define SEG_TYPE_CONFORMING 4u
#define SEG_TYPE_CODE 8u

static inline unsigned desc_type(const struct descriptor *d)
{
    return d->low >> 40 & 15;
}
static inline bool desc_is_segment(const struct descriptor *d) /* code or data, not system */
{
    return d->low >> 44 & 1;
}
static inline unsigned desc_dpl(const struct descriptor *d)
{
    return d->low >> 45 & 3;
}
static inline bool desc_is_present(const struct descriptor *d)
{
    return d->low >> 47 & 1;
}
static inline bool desc_is_code(const struct descriptor *d)
{
    return desc_is_segment(d) && (desc_type(d) & SEG_TYPE_CODE);
}
static inline bool desc_is_conforming(const struct descriptor *d)
{
    return desc_is_code(d) && (desc_type(d) & SEG_TYPE_CONFORMING);
}
static inline bool desc_is_writable_data(const struct descriptor *d)
{
    return desc_is_segment(d) && !(desc_type(d) & SEG_TYPE_CODE) && (desc_type(d) & SEG_TYPE_WRITE);
}
static inline bool desc_is_long_code(const struct descriptor *d) /* L = 1 and D = 0 */
{
    return (d->low >> 53 & 3) == 1;
}
/* L and D both set are reserved: a code descriptor that faults in long mode. */
static inline bool desc_is_bad_code(const struct descriptor *d)
{
    return (d->low >> 53 & 3) == 3;
}
static inline bool desc_is_null(uint16_t selector)
{
    return !(selector & 0xfffc);
}
/* The error code that names a selector; ext is 0 or 1. */
static inline uint32_t desc_error(uint16_t selector, uint32_t ext)
{
    return (selector & 0xfffcu) | ext;
}

static inline bool desc_is_protected(const struct soft_vcpu *sv)
{
    return sv->v.cpu.cr0 & CR0_PE;
}
static inline bool desc_is_vm86(const struct soft_vcpu *sv)
{
    return (sv->v.cpu.cr0 & CR0_PE) && (sv->v.cpu.rflags & RFLAGS_VM);
}
/* Selectors are paragraph numbers: real or virtual-8086 mode. */
static inline bool desc_is_8086(const struct soft_vcpu *sv)
{
    return !(sv->v.cpu.cr0 & CR0_PE) || (sv->v.cpu.rflags & RFLAGS_VM);
}
static inline bool desc_is_long(const struct soft_vcpu *sv) /* 64-bit or compatibility mode */
{
    return sv->v.cpu.efer & EFER_LMA;
}
static inline bool desc_is_64bit(const struct soft_vcpu *sv)
{
    return desc_is_long(sv) && sv->v.cpu.seg[SEG_CS].l;
}
static inline bool desc_is_canonical(const struct soft_vcpu *sv, uint64_t address)
{
    unsigned unused = sv->v.cpu.cr4 & CR4_LA57 ? 7 : 16;
    return (uint64_t)((int64_t)(address << unused) >> unused) == address;
}

/* Linear address as the mode has it: 32 bits outside long mode. */
static inline gva_t desc_linear(const struct soft_vcpu *sv, uint64_t address)
{
    return desc_is_long(sv) ? address : (uint32_t)address;
}

/* Reads 8 bytes of the descriptor that a non-null selector names. *is_found false: outside its table. STEP_NEXT, or a fault of the access itself. */
enum step desc_find(struct soft_vcpu *sv, uint16_t selector, struct descriptor *d, bool *is_found);
/* The same where outside the table is `vector` with the selector's error code. */
enum step desc_read(struct soft_vcpu *sv, uint16_t selector, unsigned vector, uint32_t ext, struct descriptor *d);
/* The upper half of a 16-byte system descriptor (long mode). Its own type field must be zero, or `vector`. */
enum step desc_read_high(struct soft_vcpu *sv, uint16_t selector, unsigned vector, uint32_t ext, struct descriptor *d);

/* Hidden part of a code, data or (32-bit) system descriptor. */
void desc_to_segment(const struct descriptor *d, uint16_t selector, struct segment *out);
/* The base of a 16-byte system descriptor. */
uint64_t desc_long_base(const struct descriptor *d);

/* Sets the accessed bit in memory (and in *d) unless it is set: tables in read-only pages work when it was set beforehand. */
enum step desc_set_accessed(struct soft_vcpu *sv, struct descriptor *d);
/* Sets or clears the busy bit of the TSS descriptor at `address`. */
enum step desc_set_busy(struct soft_vcpu *sv, gva_t address, bool is_busy);

/* Hidden parts that come from no table. */
void desc_set_null(struct segment *s, uint16_t selector);
void desc_set_8086(struct soft_vcpu *sv, struct segment *s, uint16_t selector); /* real mode keeps limit and size; virtual-8086 sets all */
void desc_set_vm86(struct segment *s, uint16_t selector);

#endif
