/* SPDX-License-Identifier: MIT */
/*
 * What far transfers, event delivery, task switches and segment loads share: checked loads of SS, CS and data segments, and stack frames on a stack that is
 * not (yet) the current one. Everything here checks and computes; only functions named *_set and *_commit change the vCPU.
 */
#ifndef VITRINE_ENGINE_SOFT_TRANSFER_H
#define VITRINE_ENGINE_SOFT_TRANSFER_H

#include "engine/soft/desc.h"

/* A stack that a frame is written to or read from. sp is a full-width working copy of which only the low sp_bytes move. */
struct transfer_stack {
    struct segment ss;
    uint64_t sp;
    uint8_t sp_bytes; /* 2 4 8 */
    unsigned access;  /* ACCESS_IMPLICIT while the CPL is 3 and that of the stack is not */
    uint32_t error;   /* code of the #SS if the frame does not fit */
};

/* Parameters of a call gate (31), the old stack pointer and the return address. */
#define TRANSFER_MAX_ITEMS 36

/* The current stack as the current mode addresses it. */
void transfer_current_stack(const struct soft_vcpu *sv, struct transfer_stack *out);
/*
 * The stack of an inner privilege level from the current TSS; in long mode with a null SS, and from the IST if ist is not 0. #TS or #SS with the
 * selector's code and ext. out->error is set to what a frame that does not fit raises.
 */
enum step transfer_tss_stack(struct soft_vcpu *sv, unsigned cpl, unsigned ist, uint32_t ext, struct transfer_stack *out);

/* Pushes items[0] first. All of it is checked before anything is written. */
enum step transfer_push(struct soft_vcpu *sv, struct transfer_stack *st, const uint64_t *items, unsigned n, unsigned bytes);
/* Pops items[0] first, zero-extended. */
enum step transfer_pop(struct soft_vcpu *sv, struct transfer_stack *st, uint64_t *items, unsigned n, unsigned bytes);
/* Moves sp up over parameters. */
void transfer_drop(struct transfer_stack *st, unsigned bytes);

/* SS for privilege level `cpl`: `vector` with the selector's code, or #SS if not present. A null selector is refused. Sets the accessed bit. */
enum step transfer_load_ss(struct soft_vcpu *sv, uint16_t selector, unsigned cpl, unsigned vector, uint32_t ext, struct segment *out);
/* DS ES FS GS: a null selector gives an unusable segment. */
enum step transfer_load_data(struct soft_vcpu *sv, const struct segment *old, uint16_t selector, unsigned cpl, unsigned vector, uint32_t ext,
                             struct segment *out);
/* SS as IRET and RETF to level `cpl` pop it: may be null when they go to 64-bit code outside ring 3. */
enum step transfer_load_return_ss(struct soft_vcpu *sv, uint16_t selector, unsigned cpl, const struct segment *cs, struct segment *out);

/* CS as IRET and RETF pop it. Sets the accessed bit. */
enum step transfer_load_return_cs(struct soft_vcpu *sv, uint16_t selector, struct segment *out);

/* Offset within the limit of cs, or canonical: else #GP(ext). */
enum step transfer_check_rip(struct soft_vcpu *sv, const struct segment *cs, uint64_t rip, uint32_t ext);

/* True if cs holds 64-bit code. */
static inline bool transfer_is_long_cs(const struct soft_vcpu *sv, const struct segment *cs)
{
    return desc_is_long(sv) && cs->l;
}

/* Loads CS at privilege level cpl. The caller follows with mode_update. */
void transfer_set_cs(struct soft_vcpu *sv, const struct segment *cs, unsigned cpl);
/* Loads SS with the CPL that goes with it, and the whole stack pointer. */
void transfer_set_stack(struct soft_vcpu *sv, const struct transfer_stack *st, unsigned cpl);
/* Return to an outer level: rSP as the width of the new stack has it. */
void transfer_set_outer_sp(struct soft_vcpu *sv, uint64_t sp);
/* Return to an outer level: data segments that it may not hold become null. */
void transfer_set_outer_data(struct soft_vcpu *sv, unsigned cpl);

/* Operand size of a far transfer: 32 bits in 64-bit mode unless REX.W. */
unsigned transfer_op_bytes(const struct insn *in);
/* rip past the instruction, truncated to the mode. */
uint64_t transfer_next_rip(const struct soft_vcpu *sv, const struct insn *in);

/* help_task.c: hardware task switch. */
enum task_reason { TASK_JMP, TASK_CALL, TASK_IRET, TASK_EVENT };
struct task_switch {
    enum task_reason reason;
    uint16_t selector;   /* of the new TSS, in the GDT */
    uint64_t return_rip; /* goes to the old TSS */
    uint64_t flags;      /* likewise */
    bool has_code;       /* push `code` on the new stack */
    uint32_t code;
    uint32_t ext;
    bool is_trap; /* out: the new TSS has T set, so #DB with DR6.BT is due */
};
/* Reads and checks the TSS descriptor for `selector` by the rules of ts->reason, then switches. A fault raised after the switch belongs to the new task. */
enum step task_switch_run(struct soft_vcpu *sv, struct task_switch *ts);
/* The same for an instruction: delivers the T-bit trap too. */
enum step task_switch_insn(struct soft_vcpu *sv, enum task_reason reason, uint16_t selector, uint64_t return_rip);

#endif
