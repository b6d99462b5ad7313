/* SPDX-License-Identifier: MIT */
/*
 * The two layouts of the state-save area in SMRAM that firmware for virtual machines knows: AMD64's (AMD APM vol. 2, "SMRAM State-Save Area") where CPUID has
 * long mode, and that of P6 processors (SDM vol. 3C, "SMRAM State Save Map", with the descriptor caches that the manual keeps quiet about) where it has not.
 * Not saved: restart of I/O instructions and of HLT, as KVM leaves them out. Both layouts keep the interrupt shadow in a byte that hardware reserves. Pure.
 */
#include <stddef.h>
#include <string.h>

#include "core/smm.h"

#define REVISION_64 0x00020064u /* both: SMBASE may be moved */
#define REVISION_32 0x00020000u

struct segment_64 {
    uint16_t selector, attributes;
    uint32_t limit;
    uint64_t base;
};

struct image_64 {
    struct segment_64 seg[6]; /* in encoding order */
    struct segment_64 gdtr, ldtr, idtr, tr;
    uint8_t io_restart[0x28];
    uint8_t io_restart_flag, halt_restart_flag, nmi_mask, interrupt_shadow;
    uint32_t reserved0;
    uint64_t efer;
    uint8_t svm[0x18], reserved1[0xc];
    uint32_t revision, smbase;
    uint8_t reserved2[0x14], svm_host[0x30];
    uint64_t cr4, cr3, cr0, dr7, dr6, rflags, rip;
    uint64_t gpr[16]; /* R15 first */
};

struct segment_32 {
    uint32_t attributes, limit, base;
};

struct image_32 {
    uint8_t reserved0[0xf8];
    uint32_t smbase, revision;
    uint16_t io_restart_flag, halt_restart_flag;
    uint8_t io_restart[0x10];
    uint32_t cr4;
    uint8_t reserved1[2], interrupt_shadow, reserved2[0x11];
    struct segment_32 ds, fs, gs, idtr, tr;
    uint32_t reserved3;
    struct segment_32 gdtr, ldtr, es, cs, ss;
    uint32_t selector[6]; /* ES CS SS DS FS GS */
    uint32_t ldtr_selector, tr_selector;
    uint32_t dr7, dr6;
    uint32_t gpr[8];
    uint32_t eip, eflags, cr3, cr0;
};

#define AT(type, field, address) _Static_assert(offsetof(struct type, field) == (address)-SMM_IMAGE_OFFSET, #field)
AT(image_64, gdtr, 0xfe60);
AT(image_64, interrupt_shadow, 0xfecb);
AT(image_64, efer, 0xfed0);
AT(image_64, revision, 0xfefc);
AT(image_64, cr4, 0xff48);
AT(image_64, gpr, 0xff80);
AT(image_32, smbase, 0xfef8);
AT(image_32, cr4, 0xff14);
AT(image_32, interrupt_shadow, 0xff1a);
AT(image_32, ds, 0xff2c);
AT(image_32, gdtr, 0xff6c);
AT(image_32, selector, 0xffa8);
AT(image_32, dr7, 0xffc8);
AT(image_32, gpr, 0xffd0);
_Static_assert(sizeof(struct image_64) == SMM_IMAGE_BYTES && sizeof(struct image_32) == SMM_IMAGE_BYTES, "size");

/* ---- AMD64 ---- */

static struct segment_64 segment_encode_64(const struct segment *s)
{
    return (struct segment_64){ .selector = s->selector, .attributes = (uint16_t)(segment_attributes(s) >> 8), .limit = s->limit, .base = s->base };
}

static struct segment segment_decode_64(const struct segment_64 *s)
{
    return segment_make(s->selector, (uint32_t)s->attributes << 8, s->limit, s->base);
}

static void encode_64(struct image_64 *out, const struct smm_state *s)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        out->seg[i] = segment_encode_64(&s->seg[i]);
    out->ldtr = segment_encode_64(&s->ldtr);
    out->tr = segment_encode_64(&s->tr);
    out->gdtr = (struct segment_64){ .limit = s->gdtr.limit, .base = s->gdtr.base };
    out->idtr = (struct segment_64){ .limit = s->idtr.limit, .base = s->idtr.base };
    out->interrupt_shadow = s->interrupt_shadow;
    out->efer = s->efer;
    out->revision = REVISION_64;
    out->smbase = (uint32_t)s->smbase;
    out->cr4 = s->cr4;
    out->cr3 = s->cr3;
    out->cr0 = s->cr0;
    out->dr7 = s->dr7;
    out->dr6 = s->dr6;
    out->rflags = s->rflags;
    out->rip = s->rip;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        out->gpr[GPR_COUNT - 1 - i] = s->gpr[i];
}

static void decode_64(const struct image_64 *in, struct smm_state *s)
{
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = segment_decode_64(&in->seg[i]);
    s->ldtr = segment_decode_64(&in->ldtr);
    s->tr = segment_decode_64(&in->tr);
    s->gdtr = (struct desc_table){ .limit = (uint16_t)in->gdtr.limit, .base = in->gdtr.base };
    s->idtr = (struct desc_table){ .limit = (uint16_t)in->idtr.limit, .base = in->idtr.base };
    s->interrupt_shadow = in->interrupt_shadow;
    s->efer = in->efer;
    s->smbase = in->smbase;
    s->cr4 = in->cr4;
    s->cr3 = in->cr3;
    s->cr0 = in->cr0;
    s->dr7 = in->dr7;
    s->dr6 = in->dr6;
    s->rflags = in->rflags;
    s->rip = in->rip;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        s->gpr[i] = in->gpr[GPR_COUNT - 1 - i];
}

/* ---- P6 ---- */

static struct segment_32 segment_encode_32(const struct segment *s)
{
    return (struct segment_32){ .attributes = segment_attributes(s), .limit = s->limit, .base = (uint32_t)s->base };
}

static struct segment segment_decode_32(const struct segment_32 *s, uint32_t selector)
{
    return segment_make((uint16_t)selector, s->attributes, s->limit, s->base);
}

static void encode_32(struct image_32 *out, const struct smm_state *s)
{
    struct segment_32 *const cache[SEG_COUNT] = { &out->es, &out->cs, &out->ss, &out->ds, &out->fs, &out->gs };
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        *cache[i] = segment_encode_32(&s->seg[i]);
        out->selector[i] = s->seg[i].selector;
    }
    out->ldtr = segment_encode_32(&s->ldtr);
    out->ldtr_selector = s->ldtr.selector;
    out->tr = segment_encode_32(&s->tr);
    out->tr_selector = s->tr.selector;
    out->gdtr = (struct segment_32){ .limit = s->gdtr.limit, .base = (uint32_t)s->gdtr.base };
    out->idtr = (struct segment_32){ .limit = s->idtr.limit, .base = (uint32_t)s->idtr.base };
    out->interrupt_shadow = s->interrupt_shadow;
    out->smbase = (uint32_t)s->smbase;
    out->revision = REVISION_32;
    out->cr4 = (uint32_t)s->cr4;
    out->cr3 = (uint32_t)s->cr3;
    out->cr0 = (uint32_t)s->cr0;
    out->dr7 = (uint32_t)s->dr7;
    out->dr6 = (uint32_t)s->dr6;
    out->eflags = (uint32_t)s->rflags;
    out->eip = (uint32_t)s->rip;
    for (unsigned i = 0; i < 8; i++)
        out->gpr[i] = (uint32_t)s->gpr[i];
}

static void decode_32(const struct image_32 *in, struct smm_state *s)
{
    const struct segment_32 *const cache[SEG_COUNT] = { &in->es, &in->cs, &in->ss, &in->ds, &in->fs, &in->gs };
    for (unsigned i = 0; i < SEG_COUNT; i++)
        s->seg[i] = segment_decode_32(cache[i], in->selector[i]);
    s->ldtr = segment_decode_32(&in->ldtr, in->ldtr_selector);
    s->tr = segment_decode_32(&in->tr, in->tr_selector);
    s->gdtr = (struct desc_table){ .limit = (uint16_t)in->gdtr.limit, .base = in->gdtr.base };
    s->idtr = (struct desc_table){ .limit = (uint16_t)in->idtr.limit, .base = in->idtr.base };
    s->interrupt_shadow = in->interrupt_shadow;
    s->smbase = in->smbase;
    s->cr4 = in->cr4;
    s->cr3 = in->cr3;
    s->cr0 = in->cr0;
    s->dr7 = in->dr7;
    s->dr6 = in->dr6;
    s->rflags = in->eflags;
    s->rip = in->eip;
    for (unsigned i = 0; i < 8; i++)
        s->gpr[i] = in->gpr[i];
}

void smm_image_encode(uint8_t image[SMM_IMAGE_BYTES], const struct smm_state *s, bool is_64)
{
    union {
        struct image_64 in_64;
        struct image_32 in_32;
    } u;
    memset(&u, 0, sizeof u);
    if (is_64)
        encode_64(&u.in_64, s);
    else
        encode_32(&u.in_32, s);
    memcpy(image, &u, sizeof u);
}

void smm_image_decode(const uint8_t image[SMM_IMAGE_BYTES], struct smm_state *s, bool is_64)
{
    union {
        struct image_64 in_64;
        struct image_32 in_32;
    } u;
    memcpy(&u, image, sizeof u);
    if (is_64)
        decode_64(&u.in_64, s);
    else
        decode_32(&u.in_32, s);
}
