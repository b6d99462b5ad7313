/* SPDX-License-Identifier: MIT */
/*
 * Writes host machine code: the few forms the translator needs around re-emitted guest instructions. Knows nothing of guests but where their registers live.
 * An emitter that runs over its end sets `overflow` and writes no further.
 */
#ifndef VITRINE_ENGINE_SOFT_EMIT_H
#define VITRINE_ENGINE_SOFT_EMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "x86/insn.h"

/*
 * Host registers of translated code. Guest rax-rdi but rsp, and r8-r12, live in the host registers of the same number; guest rsp lives in host r13; guest
 * r13-r15 live in memory. Host rsp is the private stack, r14 and r15 are scratch.
 */
#define HOST_RSP_OF_GUEST 13
#define T0 14
#define T1 15
#define HOST_IN_MEMORY 0xff

struct emit {
    uint8_t *p, *end; /* writable mapping */
    intptr_t to_exec; /* added to a writable address gives the executable one */
    bool overflow;
};

static inline unsigned host_of(unsigned guest)
{
    if (guest == GPR_RSP)
        return HOST_RSP_OF_GUEST;
    return guest >= GPR_R13 ? HOST_IN_MEMORY : guest;
}

static inline uint8_t *emit_here(const struct emit *e) /* executable address of the next byte */
{
    return e->p + e->to_exec;
}

void emit_bytes(struct emit *e, const void *bytes, unsigned n);
void emit_8(struct emit *e, unsigned v);
void emit_32(struct emit *e, uint32_t v);

/* op reg, rm (both registers). w: 64-bit. op may have a 0F in bits 8-15. */
void emit_rr(struct emit *e, bool w, unsigned op, unsigned reg, unsigned rm);
/* op reg, gs:[disp] and op reg, gs:[index + disp] */
void emit_gs(struct emit *e, bool w, unsigned op, unsigned reg, uint32_t disp);
void emit_gs_index(struct emit *e, bool w, unsigned op, unsigned reg, unsigned index, unsigned scale, uint32_t disp);
/* op reg, [base + disp] */
void emit_base(struct emit *e, bool w, unsigned op, unsigned reg, unsigned base, int disp);
/* group-1 operation n (0 add, 4 and, 5 sub, 7 cmp) reg, imm32 sign-extended */
void emit_ri(struct emit *e, bool w, unsigned n, unsigned reg, int32_t imm);
/* lea dst, [base + index * scale + disp]; base and index may be GPR_NONE. w false: a 32-bit result. */
void emit_lea(struct emit *e, bool w, unsigned dst, unsigned base, unsigned index, unsigned scale, int32_t disp);
/* mov reg, imm: the shortest form; touches no flags */
void emit_mov_imm(struct emit *e, unsigned reg, uint64_t imm);
/* mov [gs:disp] (64 bits), imm through T1 if it does not fit */
void emit_mov_gs_imm(struct emit *e, uint32_t disp, uint64_t imm);
void emit_mov_gs_imm32(struct emit *e, uint32_t disp, uint32_t imm); /* 32-bit store */
void emit_jmp(struct emit *e, const uint8_t *exec_target);
void emit_jcc(struct emit *e, unsigned cc, const uint8_t *exec_target);
void emit_call(struct emit *e, const uint8_t *exec_target);
/* jmp rel32 or jcc rel32 to be set later: returns the writable address of the rel32, 4-byte aligned if asked (NOPs before) */
uint8_t *emit_jmp_forward(struct emit *e, bool is_aligned);
uint8_t *emit_jcc_forward(struct emit *e, unsigned cc, bool is_aligned);
void emit_patch(struct emit *e, uint8_t *rel32); /* to here */

#define OP_MOV_LOAD 0x8b  /* reg <- rm */
#define OP_MOV_STORE 0x89 /* rm <- reg */
#define OP_ADD 0x03
#define OP_SUB 0x2b
#define OP_CMP 0x3b
#define OP_XOR 0x33
#define CC_NE 5
#define CC_A 7
#define CC_G 15

/* Where a guest instruction's register fields go, and its memory operand if it has one. */
struct reencode {
    uint8_t reg, rm, vvvv; /* host numbers, used where the field holds a general register */
    uint8_t base;          /* the memory operand is at [base + disp] */
    int disp;
};
/* Emits the guest instruction as itself in 64-bit mode with the given registers. */
void emit_insn(struct emit *e, const struct insn *in, const struct reencode *r);

#endif
