/* SPDX-License-Identifier: MIT */
/*
 * Helpers of control transfer and segmentation: help_seg.c, help_table.c, help_far.c, help_int.c, help_syscall.c. Each executes one decoded instruction on
 * v.cpu by the rules in soft_priv.h (restartable, enum step). helpers.c maps mnemonics to them. A helper reads its forms from the operands and prefixes, so one
 * function serves every size.
 */
#ifndef VITRINE_ENGINE_SOFT_HELP_CONTROL_H
#define VITRINE_ENGINE_SOFT_HELP_CONTROL_H

#include "engine/soft/soft_priv.h"

/* help_seg.c */
enum step help_mov_seg(struct soft_vcpu *sv, const struct insn *in); /* both directions; MOV CS is #UD */
enum step help_push_seg(struct soft_vcpu *sv, const struct insn *in);
enum step help_pop_seg(struct soft_vcpu *sv, const struct insn *in);
enum step help_lds(struct soft_vcpu *sv, const struct insn *in);
enum step help_les(struct soft_vcpu *sv, const struct insn *in);
enum step help_lfs(struct soft_vcpu *sv, const struct insn *in);
enum step help_lgs(struct soft_vcpu *sv, const struct insn *in);
enum step help_lss(struct soft_vcpu *sv, const struct insn *in);
enum step help_swapgs(struct soft_vcpu *sv, const struct insn *in);
enum step help_rdfsbase(struct soft_vcpu *sv, const struct insn *in);
enum step help_rdgsbase(struct soft_vcpu *sv, const struct insn *in);
enum step help_wrfsbase(struct soft_vcpu *sv, const struct insn *in);
enum step help_wrgsbase(struct soft_vcpu *sv, const struct insn *in);

/* help_table.c */
enum step help_lar(struct soft_vcpu *sv, const struct insn *in);
enum step help_lsl(struct soft_vcpu *sv, const struct insn *in);
enum step help_verr(struct soft_vcpu *sv, const struct insn *in);
enum step help_verw(struct soft_vcpu *sv, const struct insn *in);
enum step help_arpl(struct soft_vcpu *sv, const struct insn *in);
enum step help_lgdt(struct soft_vcpu *sv, const struct insn *in);
enum step help_lidt(struct soft_vcpu *sv, const struct insn *in);
enum step help_sgdt(struct soft_vcpu *sv, const struct insn *in);
enum step help_sidt(struct soft_vcpu *sv, const struct insn *in);
enum step help_lldt(struct soft_vcpu *sv, const struct insn *in);
enum step help_ltr(struct soft_vcpu *sv, const struct insn *in);
enum step help_sldt(struct soft_vcpu *sv, const struct insn *in);
enum step help_str(struct soft_vcpu *sv, const struct insn *in);

/* help_far.c: direct pointers and memory operands alike; help_iret serves IRET, IRETD and IRETQ */
enum step help_jmp_far(struct soft_vcpu *sv, const struct insn *in);
enum step help_call_far(struct soft_vcpu *sv, const struct insn *in);
enum step help_ret_far(struct soft_vcpu *sv, const struct insn *in);
enum step help_iret(struct soft_vcpu *sv, const struct insn *in);

/* help_int.c */
enum step help_int(struct soft_vcpu *sv, const struct insn *in);  /* INT n */
enum step help_int1(struct soft_vcpu *sv, const struct insn *in); /* F1 */
enum step help_int3(struct soft_vcpu *sv, const struct insn *in); /* CC */
enum step help_into(struct soft_vcpu *sv, const struct insn *in);
enum step help_ud(struct soft_vcpu *sv, const struct insn *in); /* UD0 UD1 UD2 */

/* help_syscall.c */
enum step help_syscall(struct soft_vcpu *sv, const struct insn *in);
enum step help_sysret(struct soft_vcpu *sv, const struct insn *in);
enum step help_sysenter(struct soft_vcpu *sv, const struct insn *in);
enum step help_sysexit(struct soft_vcpu *sv, const struct insn *in);

#endif
