/* SPDX-License-Identifier: MIT */
/*
 * The translation under construction, shared by translate.c, probe.c and branch.c.
 */
#ifndef VITRINE_ENGINE_SOFT_TRANSLATE_PRIV_H
#define VITRINE_ENGINE_SOFT_TRANSLATE_PRIV_H

#include "engine/soft/code.h"

#define FIELD(f) ((uint32_t)offsetof(struct soft_vcpu, f))
#define GPR_AT(n) (FIELD(v.cpu.gpr) + 8u * (n))

#define BLOCK_INSNS_MAX 64u

enum tc_class {
    CLASS_NATIVE,
    CLASS_STACK,  /* PUSH, POP, LEAVE done inline: touch no flags, do not end the block */
    CLASS_STRING, /* MOVS, STOS, LODS without REP: as CLASS_STACK */
    CLASS_SYSTEM, /* small system instructions done inline: write no status flags, do not end the block */
    CLASS_BRANCH, /* the rest end it */
    CLASS_EXEC
};

struct tc_insn {
    struct insn in;
    gva_t gva;
    uint16_t guest_offset;
    uint8_t class;
    bool is_decoded;
    uint32_t live; /* status flags that are live before it */
    /* group.c: its access is a member of tc.group[group - 1], 0: of none */
    uint8_t group;
    bool is_group_first;
    int64_t group_disp; /* from the group's lowest byte */
    int64_t rsp_offset; /* of rSP before the instruction, from what group displacements count from */
};

/* Accesses that one probe serves. */
struct tc_group {
    int64_t low;
    unsigned bytes;
    bool is_write;
    uint8_t *miss; /* rel32 of the probe's jump */
    gva_t gva;     /* of the first member */
};

/* Out-of-line code of one TLB probe. */
struct tc_slow {
    bool is_exec;  /* not a miss: exec_insn is to run the instruction */
    uint8_t *miss; /* rel32 of the jump here */
    const uint8_t *hit;
    gva_t gva;
    uint32_t info; /* for the fill stub */
    uint32_t tlb_offset;
};

/* Out-of-line code of one direct exit. */
struct tc_stub {
    struct link *link; /* in-page: jumps here until linked; else NULL */
    uint8_t *rel32;    /* the jump to patch */
    gva_t target;
    bool is_saved;
};

struct tc {
    struct soft_vm *svm;
    struct emit e;
    struct block *block;
    struct code_page *page;
    gva_t gva, next_gva; /* of the block; of the instruction after the one at hand */
    uint64_t cs_base;
    uint32_t cs_limit; /* 4 GiB - 1 with KEY_FLAT_CS */
    uint32_t key;
    unsigned mode_bits;
    uint16_t page_offset;
    struct tc_insn insn[BLOCK_INSNS_MAX + 1];
    unsigned n;
    uint8_t *start, *poll_exit;
    const uint8_t *polled, *polled_from_hw, *body;
    bool needs_flags;
    bool is_saved;                                       /* at this point of emission the status flags are in saved_flags (or dead), not in the hardware */
    struct fault_entry fault[2 * (BLOCK_INSNS_MAX + 1)]; /* CALL of a memory operand and PUSH of one have two accesses */
    unsigned n_faults;
    struct tc_slow slow[5 * BLOCK_INSNS_MAX]; /* MOVS: the direction, two limits, two misses */
    unsigned n_slow;
    struct tc_group group[GROUPS_MAX];
    struct tc_stub stub[2];
    unsigned n_stubs;
};

/* ---- translate.c ---- */
void tc_save_flags(struct tc *tc);                      /* no-op if saved; clobbers T1 */
void tc_restore_flags(struct tc *tc);                   /* no-op if in the hardware; clobbers T1 */
void tc_restore_flags_by(struct tc *tc, bool keeps_t1); /* the same, by way of memory if T1 is in use */
void tc_note_fault(struct tc *tc, const struct tc_insn *ti);

/* ---- insn_kind.c: the only file here that names mnemonics, but for helpers.c ---- */
bool insn_is_lea(const struct insn *in);
bool insn_is_pause(const struct insn *in);
bool insn_is_bit_test(const struct insn *in);      /* BT BTS BTR BTC */
bool insn_is_nop(const struct insn *in);           /* NOP in any form, prefetches: nothing to do, whatever the operand */
bool insn_is_x87_unchecked(const struct insn *in); /* FNSTCW, FNSTSW: run with an x87 exception pending */
bool insn_needs_alignment(const struct insn *in);  /* a vector operand in memory must be aligned to its size */
enum branch_kind { BRANCH_NONE, BRANCH_JMP, BRANCH_JCC, BRANCH_CALL, BRANCH_RET, BRANCH_PUSH, BRANCH_POP, BRANCH_LEAVE };
enum branch_kind insn_branch_kind(const struct insn *in);
bool insn_rsp_delta(const struct insn *in, int64_t *delta); /* ADD, SUB, LEA that move rSP by a constant */
unsigned insn_cc(const struct insn *in);                    /* condition code of a Jcc */

enum system_kind { SYSTEM_NONE, SYSTEM_CLI, SYSTEM_STI, SYSTEM_PUSHF, SYSTEM_SWAPGS, SYSTEM_RDTSC, SYSTEM_RDTSCP, SYSTEM_STAC };
enum system_kind insn_system_kind(const struct insn *in);

enum string_kind { STRING_NONE, STRING_MOVS, STRING_STOS, STRING_LODS };
enum string_kind insn_string_kind(const struct insn *in); /* without REP */

/* ---- system.c ---- */
bool system_is_inline(const struct tc *tc, const struct insn *in);
void system_emit(struct tc *tc, const struct tc_insn *ti);

/* ---- bit.c: BT, BTS, BTR, BTC of memory with the bit number in a register, which reaches beyond the operand ---- */
bool bit_is_inline(const struct tc *tc, const struct insn *in);
void bit_emit(struct tc *tc, const struct tc_insn *ti);

/* ---- string.c ---- */
bool string_is_inline(const struct tc *tc, const struct insn *in);
void string_emit(struct tc *tc, const struct tc_insn *ti);

/* ---- probe.c ---- */
/* jcc to an exit that has exec_insn run the instruction at hand; the flags must be saved or dead. */
void probe_emit_exec_exit(struct tc *tc, const struct tc_insn *ti, unsigned cc);
/* Effective address (offset in its segment) to T0; clobbers T1, keeps flags. */
bool probe_is_direct(uint32_t key, unsigned seg); /* offset = linear address, or only the base to add: no limit check */
void probe_ea(struct tc *tc, const struct insn *in);
/*
 * T0 = offset in a segment of KEY_ORDINARY -> T0 = linear address, past a check of the limit; flags are saved first if they are live. Nothing to do for
 * segments that need no check.
 */
void probe_segment(struct tc *tc, const struct tc_insn *ti, unsigned seg, unsigned bytes);
/* T0 = linear address -> T0 = host address; clobbers T1; flags are saved first if they are live. */
void probe(struct tc *tc, const struct tc_insn *ti, unsigned bytes, bool is_write);
/* The memory operand's host address is T0 + the result. */
int probe_operand(struct tc *tc, const struct tc_insn *ti);
/* probe() of a range that no slow path serves: returns the rel32 of the jump that is taken on a miss. */
uint8_t *probe_without_fill(struct tc *tc, unsigned bytes, bool is_write, bool is_link /* aligned, to be patched later */);
unsigned probe_address_reg(struct tc *tc, unsigned guest, unsigned temp); /* a guest register in a host register: its own, or temp loaded from memory */
void probe_emit_slow_paths(struct tc *tc);

/* ---- group.c ---- */
void group_find(struct tc *tc);
int group_locate(struct tc *tc, const struct tc_insn *ti); /* T0 + the result is the host address of a member's access; clobbers T1 */
bool group_make_links(struct tc *tc);                      /* false: no memory */
void group_emit_misses(struct tc *tc);

/* ---- branch.c ---- */
enum tc_class branch_class(struct tc *tc, const struct tc_insn *ti); /* CLASS_NATIVE if it is no branch or stack instruction */
void branch_emit(struct tc *tc, const struct tc_insn *ti);
void branch_emit_direct(struct tc *tc, gva_t target, unsigned n);
void branch_emit_store_slot(struct tc *tc, const struct tc_insn *ti, uint32_t field); /* pushes the word at gs:[field] */
void branch_emit_exec(struct tc *tc, const struct tc_insn *ti);
void branch_emit_stubs(struct tc *tc);

#endif
