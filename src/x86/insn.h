/* SPDX-License-Identifier: MIT */
/*
 * One decoded instruction as a plain struct. decode.c fills it from Zydis; nobody else reads prefix bytes.
 */
#ifndef VITRINE_X86_INSN_H
#define VITRINE_X86_INSN_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/regs.h"

enum opnd_kind { OPND_NONE, OPND_GPR, OPND_MEM, OPND_IMM, OPND_REL, OPND_FAR, OPND_SEG, OPND_CR, OPND_DR, OPND_VEC, OPND_MMX, OPND_ST, OPND_MASK, OPND_OTHER };

/* Where the encoding holds an operand. */
enum opnd_field { FIELD_NONE, FIELD_REG, FIELD_RM, FIELD_VVVV, FIELD_OPCODE, FIELD_IMM, FIELD_IS4, FIELD_MASK, FIELD_IMPLICIT };

#define OPND_READ 1u
#define OPND_WRITE 2u
#define INSN_MAX_OPNDS 5
#define INSN_MAX_BYTES 15

struct opnd {
    uint8_t kind;  /* enum opnd_kind */
    uint8_t field; /* enum opnd_field */
    uint8_t reg;   /* register number within its kind; AH CH DH BH are 0-3 with is_high */
    uint8_t is_high;
    uint8_t access; /* OPND_READ | OPND_WRITE; conditional access counts */
    uint16_t bytes; /* operand size */
};

enum insn_encoding { ENC_LEGACY, ENC_VEX, ENC_EVEX };

/* The memory operand: linear = seg.base + (base + index * scale + disp) truncated to addr_bytes. base may be GPR_RIP (disp is then relative to the next
 * instruction). */
struct insn_mem {
    uint8_t seg;    /* enum seg_reg, default or override already applied; set for implied operands too (MOVS, LODS, XLAT...) */
    uint8_t base;   /* enum gpr, GPR_RIP or GPR_NONE */
    uint8_t index;  /* enum gpr or GPR_NONE; a vector register number if is_vsib */
    uint8_t scale;  /* 1 2 4 8 */
    uint8_t access; /* OPND_READ | OPND_WRITE of the operation; 0 for LEA, NOP, INVLPG, prefetch */
    uint8_t is_vsib;
    uint16_t bytes;       /* bytes accessed; 0 if unknown to the decoder (XSAVE area) */
    uint8_t masked_bytes; /* element size if an opmask governs the access element by element and suppresses its faults; else 0 */
    uint8_t
        masked_lanes; /* with masked_bytes: opmask bits that count; more than elements for a broadcast, whose element n serves the lanes n, n + elements... */
    bool is_packed;   /* with masked_bytes: compressed store or expanding load, active elements are contiguous */
    int64_t disp;
};

struct insn {
    uint8_t bytes[INSN_MAX_BYTES];
    uint8_t len;
    uint8_t mode_bits;  /* 16, 32 or 64: the code segment's mode at decode */
    uint8_t op_bytes;   /* effective operand size 1 2 4 8 */
    uint8_t addr_bytes; /* effective address size 2 4 8 */
    uint8_t enc;        /* enum insn_encoding */
    uint8_t map;        /* opcode map: 0 one byte, 1 0F, 2 0F38, 3 0F3A, 5, 6; for VEX and EVEX their own numbers */
    uint8_t opcode;
    uint8_t has_modrm, modrm;                       /* modrm as found */
    uint8_t rex_w, vex_l, evex_z, evex_b, evex_aaa; /* W also of VEX and EVEX; vex_l holds L'L */
    uint8_t pp;                                     /* mandatory prefix of VEX and EVEX: 0 none, 1 66, 2 F3, 3 F2 */
    uint8_t reg5, rm5, vvvv5;                       /* full register numbers of the fields */
    bool has_66, has_f2, has_f3, has_lock, has_67;
    uint8_t imm_bytes; /* total trailing immediate bytes, copied unchanged when re-encoded */
    uint8_t n_opnds;   /* visible operands */
    bool has_mem;
    uint16_t mnemonic;                  /* ZydisMnemonic */
    uint16_t isa_set;                   /* ZydisISASet */
    uint16_t category;                  /* ZydisInstructionCategory */
    uint32_t flags_read, flags_written; /* RFLAGS bits tested; bits set, cleared, or left undefined */
    uint32_t flags_must;                /* subset of flags_written that is always written (not by a shift whose count may be 0) */
    uint32_t gpr_read, gpr_written;     /* bit masks over enum gpr, address registers and implicit ones included */
    struct opnd opnd[INSN_MAX_OPNDS];
    struct insn_mem mem;
    uint64_t imm, imm2; /* sign-extended as the CPU does; OPND_REL: displacement; OPND_FAR: imm = offset, imm2 = selector; ENTER: imm2 = level */
    uint8_t fp_class;   /* enum fp_class */
};

/* Which state an instruction needs enabled (CR0.EM, CR0.TS, CR4.OSFXSR, XCR0). */
enum fp_class { FP_NONE, FP_X87, FP_MMX, FP_SSE, FP_AVX, FP_AVX512 };

/*
 * Decodes one instruction of at most `avail` bytes in a code segment of `mode_bits` (16, 32, 64; virtual-8086 and real mode are 16).
 * Returns 0; -EAGAIN if more bytes are needed (the instruction runs over `avail` and is shorter than 15 bytes);
 * -E2BIG if it is longer than 15 bytes (#GP); -EILSEQ if undefined (#UD; out->len is then 1).
 */
int insn_decode(struct insn *out, const uint8_t *bytes, unsigned avail, unsigned mode_bits);

#endif
