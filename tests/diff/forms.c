/* SPDX-License-Identifier: MIT */
/*
 * What is tested: every point of the opcode space that decodes, is offered by CPUID and means the same to a user-mode process and to a guest.
 */
#include "diff.h"

#include <Zydis/Zydis.h>
#include <stdlib.h>
#include <string.h>

#define FORMS_MAX 40000
static struct form table[FORMS_MAX];
static unsigned n_forms;

const struct form *form_at(unsigned n)
{
    return &table[n];
}

const char *form_name(unsigned mnemonic)
{
    const char *s = ZydisMnemonicGetString((ZydisMnemonic)mnemonic);
    return s ? s : "?";
}

/* ---- what cannot be compared ---- */

static bool category_is_comparable(unsigned category)
{
    switch (category) {
    case ZYDIS_CATEGORY_SYSTEM:  /* privileged, or tells the machine's own tables, time and identity */
    case ZYDIS_CATEGORY_SYSCALL: /* the host kernel answers */
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_INTERRUPT: /* the host kernel answers */
    case ZYDIS_CATEGORY_IO:        /* no port is permitted to a process; the tail's is to the guest */
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_CALL: /* leave the piece of code */
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_RDRAND: /* not reproducible */
    case ZYDIS_CATEGORY_RDSEED:
    case ZYDIS_CATEGORY_SEGOP:   /* loads from the host's descriptor tables */
    case ZYDIS_CATEGORY_VTX:     /* needs a hypervisor */
    case ZYDIS_CATEGORY_COND_BR: /* only where it has somewhere to go: sequences */
        return false;
    default:
        return true;
    }
}

bool form_is_comparable(const struct insn *in)
{
    if (!category_is_comparable(in->category))
        return false;
    for (unsigned i = 0; i < in->n_opnds; i++) {
        unsigned kind = in->opnd[i].kind;
        if (kind == OPND_CR || kind == OPND_DR || (kind == OPND_SEG && (in->opnd[i].access & OPND_WRITE)))
            return false;
    }
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_UD0: /* the host kernel uses and emulates some */
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_LAR: /* the host's descriptor tables */
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_SGDT: /* with UMIP the host kernel emulates these */
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_RDPID: /* the machine's own */
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_RDPMC:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_VMCALL:
    case ZYDIS_MNEMONIC_VMMCALL:
    case ZYDIS_MNEMONIC_XSAVEOPT: /* what it leaves out depends on the processor's tracking */
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
        return false;
    default:
        return true;
    }
}

bool form_is_system(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_RET: /* near and far */
    case ZYDIS_MNEMONIC_IRET:
    case ZYDIS_MNEMONIC_IRETD:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT3:
        return true;
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_MOV:
        return (in->opnd[0].kind == OPND_SEG && in->mnemonic == ZYDIS_MNEMONIC_POP) || (in->has_mem && in->opnd[0].kind == OPND_SEG);
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SMSW:
    case ZYDIS_MNEMONIC_LGDT:
    case ZYDIS_MNEMONIC_LIDT:
    case ZYDIS_MNEMONIC_LLDT:
    case ZYDIS_MNEMONIC_LTR:
    case ZYDIS_MNEMONIC_LMSW:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_INVPCID:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVES:
    case ZYDIS_MNEMONIC_XSAVES64:
    case ZYDIS_MNEMONIC_XRSTORS:
    case ZYDIS_MNEMONIC_XRSTORS64:
        return in->has_mem;
    default:
        return false;
    }
}

bool form_is_wanted(const struct insn *in)
{
    return diff_is_system ? form_is_system(in) : form_is_comparable(in);
}

bool form_is_popa(const struct insn *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_POPA || in->mnemonic == ZYDIS_MNEMONIC_POPAD;
}

bool form_is_string(const struct insn *in)
{
    return in->category == ZYDIS_CATEGORY_STRINGOP;
}

bool form_is_masked_store(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        return true;
    default:
        return false;
    }
}

bool form_is_state_load(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FLDENV:
        return true;
    default:
        return false;
    }
}

bool form_suits_sequence(const struct insn *in)
{
    switch (in->category) {
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_XSAVEOPT:
    case ZYDIS_CATEGORY_GATHER:
    case ZYDIS_CATEGORY_SCATTER:
        return false;
    }
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_FXSAVE: /* hold addresses of the last x87 instruction, which differ */
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_XLAT:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE:
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_POPAD:
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_BOUND:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_HLT:
        return false;
    default:
        return true;
    }
}

/* ---- enumeration ---- */

/* The smallest encoding of a form with given modrm; returns its length with 12 bytes of operands after it. */
static unsigned encode_probe(const struct form *f, unsigned modrm, uint8_t *p)
{
    unsigned n = 0;
    if (f->enc == ENC_LEGACY) {
        if (f->pp & FORM_66)
            p[n++] = 0x66;
        if (f->pp & FORM_F3)
            p[n++] = 0xf3;
        if (f->pp & FORM_F2)
            p[n++] = 0xf2;
        if (f->w)
            p[n++] = 0x48;
        if (f->map)
            p[n++] = 0x0f;
        if (f->map > 1)
            p[n++] = f->map == 2 ? 0x38 : 0x3a;
    } else if (f->enc == ENC_VEX) {
        p[n++] = 0xc4;
        p[n++] = 0xe0 | f->map;
        p[n++] = (uint8_t)(f->w << 7 | 0x78 | f->l << 2 | f->pp);
    } else {
        p[n++] = 0x62;
        p[n++] = 0xf0 | f->map;
        p[n++] = (uint8_t)(f->w << 7 | 0x7c | f->pp);
        p[n++] = (uint8_t)(f->l << 5 | f->b << 4 | 8);
    }
    p[n++] = f->opcode;
    p[n++] = (uint8_t)modrm;
    memset(p + n, 0, 12);
    return n + 12;
}

/* VEX and EVEX: vvvv may have to be 1111 or may have to name a register that is not the destination's; gathers need a mask. Several tries. */
static bool decodes_as(const struct form *f, const uint8_t *p, unsigned n, struct insn *in)
{
    return insn_decode(in, p, n, diff_mode_bits) == 0 && in->enc == f->enc && in->map == f->map && in->opcode == f->opcode;
}

static bool decode_probe(const struct form *f, unsigned modrm, struct insn *in)
{
    uint8_t p[32];
    unsigned n = encode_probe(f, modrm, p);
    if (decodes_as(f, p, n, in))
        return true;
    if (f->enc == ENC_LEGACY)
        return false;
    if (f->enc == ENC_EVEX) {
        p[3] |= 1; /* k1 */
        if (decodes_as(f, p, n, in))
            return true;
    }
    p[2] ^= 0x18; /* another vvvv */
    if (decodes_as(f, p, n, in))
        return true;
    p[n - 12] = 0x11; /* SIB with another index */
    p[n - 13] = (p[n - 13] & 0xf8) | 4;
    if (decodes_as(f, p, n, in))
        return true;
    p[2] ^= 0x18;
    return decodes_as(f, p, n, in);
}

static bool is_wanted(const struct features *features, const struct insn *in, const char *only)
{
    if (!features_allow_insn(features, in) || !form_is_wanted(in))
        return false;
    return !only || !strcmp(form_name(in->mnemonic), only);
}

static void add_form(const struct form *f, const struct insn *in, unsigned reg, unsigned rm)
{
    for (unsigned i = n_forms; i-- > 0 && i + 64 > n_forms;) {
        struct form *o = &table[i];
        if (o->opcode != f->opcode || o->map != f->map || o->pp != f->pp || o->w != f->w || o->l != f->l || o->b != f->b || o->enc != f->enc)
            break;
        if (o->is_mem == f->is_mem && o->mnemonic == in->mnemonic && (f->is_mem || !in->has_modrm || (o->regs == 1u << reg) || o->rms == 0xff)) {
            o->regs |= (uint8_t)(1u << reg);
            o->rms |= (uint8_t)(1u << rm);
            return;
        }
    }
    if (n_forms == FORMS_MAX)
        return;
    table[n_forms] = *f;
    table[n_forms].mnemonic = in->mnemonic;
    table[n_forms].has_modrm = in->has_modrm;
    table[n_forms].regs = (uint8_t)(1u << reg);
    table[n_forms].rms = (uint8_t)(1u << rm);
    n_forms++;
}

/* A legacy prefix that changes nothing makes no form of its own. */
static bool is_redundant(const struct form *f, unsigned modrm, const struct insn *in)
{
    if (f->enc != ENC_LEGACY || !(f->pp & (FORM_F2 | FORM_F3)) || in->category == ZYDIS_CATEGORY_STRINGOP)
        return false;
    struct form plain = *f;
    struct insn other;
    plain.pp = f->pp & FORM_66;
    return decode_probe(&plain, modrm, &other) && other.mnemonic == in->mnemonic;
}

static void enumerate_modrm(struct form *f, const struct features *features, const char *only)
{
    struct insn in;
    for (unsigned mod = 0; mod < 2; mod++) {
        f->is_mem = mod == 0;
        for (unsigned reg = 0; reg < 8; reg++) {
            for (unsigned rm = 0; rm < 8; rm++) {
                unsigned modrm = (mod ? 0xc0 : 0) | reg << 3 | rm;
                if (mod == 0 && rm != 0)
                    break;
                if (!decode_probe(f, modrm, &in) || !is_wanted(features, &in, only) || is_redundant(f, modrm, &in))
                    continue;
                if (!in.has_modrm) {
                    if (mod == 0 && reg == 0)
                        add_form(f, &in, 0, 0);
                    continue;
                }
                add_form(f, &in, reg, rm);
            }
        }
    }
}

static void enumerate_encoding(unsigned enc, unsigned map, const struct features *features, const char *only)
{
    static const uint8_t legacy_sets[] = { 0, FORM_66, FORM_F3, FORM_F2, FORM_66 | FORM_F2, FORM_66 | FORM_F3 };
    unsigned n_pp = enc == ENC_LEGACY ? sizeof legacy_sets : 4, n_l = enc == ENC_LEGACY ? 1 : enc == ENC_VEX ? 2 : 4;
    for (unsigned opcode = 0; opcode < 256; opcode++)
        for (unsigned pp = 0; pp < n_pp; pp++)
            for (unsigned x = 0; x < 2 * n_l * (enc == ENC_EVEX ? 2 : 1); x++) {
                if (diff_mode_bits == 32 && enc == ENC_LEGACY && (x & 1))
                    continue; /* no REX */
                struct form f = { .enc = (uint8_t)enc,
                                  .map = (uint8_t)map,
                                  .opcode = (uint8_t)opcode,
                                  .w = x & 1,
                                  .l = (uint8_t)((x >> 1) % n_l),
                                  .b = (uint8_t)((x >> 1) / n_l) };
                f.pp = enc == ENC_LEGACY ? legacy_sets[pp] : (uint8_t)pp;
                enumerate_modrm(&f, features, only);
            }
}

unsigned forms_build(const struct features *features, const char *only)
{
    for (unsigned map = 0; map < 4; map++)
        enumerate_encoding(ENC_LEGACY, map, features, only);
    for (unsigned map = 1; map < 4; map++)
        enumerate_encoding(ENC_VEX, map, features, only);
    for (unsigned map = 1; map < 7; map++)
        enumerate_encoding(ENC_EVEX, map, features, only);
    return n_forms;
}
