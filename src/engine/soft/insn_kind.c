/* SPDX-License-Identifier: MIT */
/*
 * What the translator asks about an instruction by name. Beside helpers.c the only place of the engine that knows mnemonics.
 */
#include "engine/soft/translate_priv.h"

#include <Zydis/Zydis.h>

bool insn_is_lea(const struct insn *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_LEA;
}

bool insn_is_pause(const struct insn *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_PAUSE;
}

bool insn_is_bit_test(const struct insn *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_BT || in->mnemonic == ZYDIS_MNEMONIC_BTS || in->mnemonic == ZYDIS_MNEMONIC_BTR || in->mnemonic == ZYDIS_MNEMONIC_BTC;
}

/* The category holds SSE's MOVSD no more than port strings. */
enum string_kind insn_string_kind(const struct insn *in)
{
    if (in->category != ZYDIS_CATEGORY_STRINGOP || in->has_f2 || in->has_f3)
        return STRING_NONE;
    switch (in->opcode & ~1u) {
    case 0xa4:
        return STRING_MOVS;
    case 0xaa:
        return STRING_STOS;
    case 0xac:
        return STRING_LODS;
    default:
        return STRING_NONE;
    }
}

bool insn_is_nop(const struct insn *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_NOP || in->category == ZYDIS_CATEGORY_PREFETCH || in->category == ZYDIS_CATEGORY_NOP ||
           in->category == ZYDIS_CATEGORY_WIDENOP;
}

bool insn_is_x87_unchecked(const struct insn *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_FNSTCW || in->mnemonic == ZYDIS_MNEMONIC_FNSTSW;
}

/* SSE asks for it except in moves made for unaligned data and in the string comparisons; AVX only in moves made for aligned data. */
bool insn_needs_alignment(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return false;
    case ZYDIS_MNEMONIC_VMOVAPS:
    case ZYDIS_MNEMONIC_VMOVAPD:
    case ZYDIS_MNEMONIC_VMOVDQA:
    case ZYDIS_MNEMONIC_VMOVDQA32:
    case ZYDIS_MNEMONIC_VMOVDQA64:
    case ZYDIS_MNEMONIC_VMOVNTPS:
    case ZYDIS_MNEMONIC_VMOVNTPD:
    case ZYDIS_MNEMONIC_VMOVNTDQ:
    case ZYDIS_MNEMONIC_VMOVNTDQA:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        return true;
    default:
        return in->enc == ENC_LEGACY && in->mem.bytes == 16 && (in->fp_class == FP_SSE || in->fp_class == FP_MMX);
    }
}

static bool is_jcc(unsigned mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_JB:
    case ZYDIS_MNEMONIC_JBE:
    case ZYDIS_MNEMONIC_JL:
    case ZYDIS_MNEMONIC_JLE:
    case ZYDIS_MNEMONIC_JNB:
    case ZYDIS_MNEMONIC_JNBE:
    case ZYDIS_MNEMONIC_JNL:
    case ZYDIS_MNEMONIC_JNLE:
    case ZYDIS_MNEMONIC_JNO:
    case ZYDIS_MNEMONIC_JNP:
    case ZYDIS_MNEMONIC_JNS:
    case ZYDIS_MNEMONIC_JNZ:
    case ZYDIS_MNEMONIC_JO:
    case ZYDIS_MNEMONIC_JP:
    case ZYDIS_MNEMONIC_JS:
    case ZYDIS_MNEMONIC_JZ:
        return true;
    default:
        return false;
    }
}

enum branch_kind insn_branch_kind(const struct insn *in)
{
    if (in->enc != ENC_LEGACY)
        return BRANCH_NONE;
    bool is_far = in->n_opnds > 0 && in->opnd[0].kind == OPND_FAR;
    bool is_far_mem = in->map == 0 && in->opcode == 0xff && in->has_modrm && ((in->modrm >> 3 & 7) == 3 || (in->modrm >> 3 & 7) == 5);
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return is_far || is_far_mem ? BRANCH_NONE : BRANCH_JMP;
    case ZYDIS_MNEMONIC_CALL:
        return is_far || is_far_mem ? BRANCH_NONE : BRANCH_CALL;
    case ZYDIS_MNEMONIC_RET:
        return in->opcode == 0xc2 || in->opcode == 0xc3 ? BRANCH_RET : BRANCH_NONE;
    case ZYDIS_MNEMONIC_PUSH:
        return BRANCH_PUSH;
    case ZYDIS_MNEMONIC_POP:
        return BRANCH_POP;
    case ZYDIS_MNEMONIC_LEAVE:
        return BRANCH_LEAVE;
    default:
        return is_jcc(in->mnemonic) ? BRANCH_JCC : BRANCH_NONE;
    }
}

unsigned insn_cc(const struct insn *in)
{
    return in->opcode & 15;
}

enum system_kind insn_system_kind(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
        return SYSTEM_CLI;
    case ZYDIS_MNEMONIC_STI:
        return SYSTEM_STI;
    case ZYDIS_MNEMONIC_PUSHFQ:
        return SYSTEM_PUSHF;
    case ZYDIS_MNEMONIC_SWAPGS:
        return SYSTEM_SWAPGS;
    case ZYDIS_MNEMONIC_RDTSC:
        return SYSTEM_RDTSC;
    case ZYDIS_MNEMONIC_RDTSCP:
        return SYSTEM_RDTSCP;
    case ZYDIS_MNEMONIC_STAC:
        return SYSTEM_STAC;
    default:
        return SYSTEM_NONE;
    }
}

bool insn_rsp_delta(const struct insn *in, int64_t *delta)
{
    if (in->n_opnds < 2 || in->opnd[0].kind != OPND_GPR || in->opnd[0].reg != GPR_RSP || in->op_bytes != 8)
        return false;
    bool is_imm = in->opnd[1].kind == OPND_IMM;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
        *delta = (int64_t)in->imm;
        return is_imm;
    case ZYDIS_MNEMONIC_SUB:
        *delta = -(int64_t)in->imm;
        return is_imm;
    case ZYDIS_MNEMONIC_LEA:
        *delta = in->mem.disp;
        return in->mem.base == GPR_RSP && in->mem.index == GPR_NONE && in->addr_bytes == 8;
    default:
        return false;
    }
}
