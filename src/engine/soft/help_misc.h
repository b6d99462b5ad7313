/* SPDX-License-Identifier: MIT */
/*
 * Prototypes of the helpers for stack, near branches, flags, control and debug registers, MSRs, FPU state, masked vector accesses and the rest,
 * with the small checks they share. String, I/O, segment, far-transfer and interrupt helpers have their own headers. Included by this folder only.
 */
#ifndef VITRINE_ENGINE_SOFT_HELP_MISC_H
#define VITRINE_ENGINE_SOFT_HELP_MISC_H

#include "engine/soft/soft_priv.h"

/* ---- help_stack.c ---- */
enum step help_pause(struct soft_vcpu *sv, const struct insn *in); /* in kernels; user mode runs it natively */
enum step help_push(struct soft_vcpu *sv, const struct insn *in);
enum step help_pop(struct soft_vcpu *sv, const struct insn *in);
enum step help_pusha(struct soft_vcpu *sv, const struct insn *in);
enum step help_popa(struct soft_vcpu *sv, const struct insn *in);
enum step help_enter(struct soft_vcpu *sv, const struct insn *in);
enum step help_leave(struct soft_vcpu *sv, const struct insn *in);

/* ---- help_branch.c ---- */
enum step help_jmp_near(struct soft_vcpu *sv, const struct insn *in);
enum step help_call_near(struct soft_vcpu *sv, const struct insn *in);
enum step help_ret_near(struct soft_vcpu *sv, const struct insn *in);
enum step help_jcc(struct soft_vcpu *sv, const struct insn *in);
enum step help_jcxz(struct soft_vcpu *sv, const struct insn *in);
enum step help_loop(struct soft_vcpu *sv, const struct insn *in);

/* ---- help_flags.c ---- */
enum step help_pushf(struct soft_vcpu *sv, const struct insn *in);
enum step help_popf(struct soft_vcpu *sv, const struct insn *in);
enum step help_cli(struct soft_vcpu *sv, const struct insn *in);
enum step help_sti(struct soft_vcpu *sv, const struct insn *in);
enum step help_cld(struct soft_vcpu *sv, const struct insn *in);
enum step help_std(struct soft_vcpu *sv, const struct insn *in);
enum step help_clac(struct soft_vcpu *sv, const struct insn *in);
enum step help_stac(struct soft_vcpu *sv, const struct insn *in);

/* ---- help_cr.c ---- */
enum step help_mov_cr(struct soft_vcpu *sv, const struct insn *in);
enum step help_smsw(struct soft_vcpu *sv, const struct insn *in);
enum step help_lmsw(struct soft_vcpu *sv, const struct insn *in);
enum step help_clts(struct soft_vcpu *sv, const struct insn *in);
enum step help_mov_dr(struct soft_vcpu *sv, const struct insn *in);
enum step help_xsetbv(struct soft_vcpu *sv, const struct insn *in);
enum step help_xgetbv(struct soft_vcpu *sv, const struct insn *in);
enum step help_invlpg(struct soft_vcpu *sv, const struct insn *in);
enum step help_invpcid(struct soft_vcpu *sv, const struct insn *in);
enum step help_wbinvd(struct soft_vcpu *sv, const struct insn *in);
enum step help_hlt(struct soft_vcpu *sv, const struct insn *in);
enum step help_monitor(struct soft_vcpu *sv, const struct insn *in);
enum step help_mwait(struct soft_vcpu *sv, const struct insn *in);

/* ---- help_msr.c ---- */
enum step help_rdmsr(struct soft_vcpu *sv, const struct insn *in);
enum step help_wrmsr(struct soft_vcpu *sv, const struct insn *in);
enum step help_rdtsc(struct soft_vcpu *sv, const struct insn *in);
enum step help_rdtscp(struct soft_vcpu *sv, const struct insn *in);
enum step help_rdpid(struct soft_vcpu *sv, const struct insn *in);
enum step help_rdpmc(struct soft_vcpu *sv, const struct insn *in);
enum step help_cpuid(struct soft_vcpu *sv, const struct insn *in);
enum step help_vmcall(struct soft_vcpu *sv, const struct insn *in);

/* ---- help_fpu.c ---- */
enum step help_fxsave(struct soft_vcpu *sv, const struct insn *in);
enum step help_fxrstor(struct soft_vcpu *sv, const struct insn *in);
enum step help_fnsave(struct soft_vcpu *sv, const struct insn *in);
enum step help_frstor(struct soft_vcpu *sv, const struct insn *in);
enum step help_fnstenv(struct soft_vcpu *sv, const struct insn *in);
enum step help_fldenv(struct soft_vcpu *sv, const struct insn *in);

/* ---- help_xsave.c ---- */
enum step help_xsave(struct soft_vcpu *sv, const struct insn *in);
enum step help_xsaveopt(struct soft_vcpu *sv, const struct insn *in);
enum step help_xsavec(struct soft_vcpu *sv, const struct insn *in);
enum step help_xsaves(struct soft_vcpu *sv, const struct insn *in);
enum step help_xrstor(struct soft_vcpu *sv, const struct insn *in);
enum step help_xrstors(struct soft_vcpu *sv, const struct insn *in);

/* ---- help_vector.c ---- */
enum step help_maskmovq(struct soft_vcpu *sv, const struct insn *in);
enum step help_maskmovdqu(struct soft_vcpu *sv, const struct insn *in);
enum step help_vmaskmov(struct soft_vcpu *sv, const struct insn *in);
enum step help_gather(struct soft_vcpu *sv, const struct insn *in);
enum step help_scatter(struct soft_vcpu *sv, const struct insn *in);

/* ---- help_smm.c ---- */
enum step help_rsm(struct soft_vcpu *sv, const struct insn *in);

/* ---- help_misc.c ---- */
enum step help_aaa(struct soft_vcpu *sv, const struct insn *in);
enum step help_aas(struct soft_vcpu *sv, const struct insn *in);
enum step help_aad(struct soft_vcpu *sv, const struct insn *in);
enum step help_aam(struct soft_vcpu *sv, const struct insn *in);
enum step help_daa(struct soft_vcpu *sv, const struct insn *in);
enum step help_das(struct soft_vcpu *sv, const struct insn *in);
enum step help_bound(struct soft_vcpu *sv, const struct insn *in);
enum step help_xlat(struct soft_vcpu *sv, const struct insn *in);
enum step help_salc(struct soft_vcpu *sv, const struct insn *in);
enum step help_bit_string(struct soft_vcpu *sv, const struct insn *in); /* BT BTS BTR BTC mem, reg */
enum step help_cache_line(struct soft_vcpu *sv, const struct insn *in); /* CLFLUSH CLFLUSHOPT CLWB */
enum step help_nop(struct soft_vcpu *sv, const struct insn *in);
enum step help_undefined(struct soft_vcpu *sv, const struct insn *in);

/* One register (0-3 = eax..edx) of the guest's static CPUID; 0 if the leaf is absent. General registers only, so fp_put() is not needed. */
uint32_t misc_cpuid(const struct vcpu *v, uint32_t function, uint32_t index, unsigned reg);

/* The segment of an implicit data operand (DS:rAX, DS:rDI, DS:rBX): DS unless overridden. */
unsigned misc_data_seg(const struct insn *in);

/* ---- shared checks ---- */

static inline bool misc_is_vm86(const struct soft_vcpu *sv)
{
    return (sv->v.cpu.cr0 & CR0_PE) && (sv->v.cpu.rflags & RFLAGS_VM);
}

static inline bool misc_is_canonical(const struct soft_vcpu *sv, uint64_t addr)
{
    unsigned shift = sv->v.cpu.cr4 & CR4_LA57 ? 7 : 16;
    return (uint64_t)((int64_t)(addr << shift) >> shift) == addr;
}

/* Low `bytes` bytes of a value. */
static inline uint64_t misc_truncate(uint64_t value, unsigned bytes)
{
    return bytes >= 8 ? value : value & ((1ull << (bytes * 8)) - 1);
}

/* rip of the following instruction. */
static inline uint64_t misc_next_rip(const struct soft_vcpu *sv, const struct insn *in)
{
    return misc_truncate(sv->v.cpu.rip + in->len, in->mode_bits == 64 ? 8 : 4);
}

/* Operand size of stack instructions: in 64-bit mode 8, or 2 with the operand-size prefix; never 4 (SDM vol. 1, "Stack Behavior in 64-Bit Mode"). */
static inline unsigned misc_stack_op_bytes(const struct insn *in)
{
    if (in->mode_bits == 64)
        return in->has_66 && !in->rex_w ? 2 : 8;
    return (in->mode_bits == 16) == in->has_66 ? 4 : 2;
}

static inline uint64_t misc_edx_eax(const struct soft_vcpu *sv)
{
    return (uint32_t)sv->v.cpu.gpr[GPR_RAX] | sv->v.cpu.gpr[GPR_RDX] << 32;
}

static inline void misc_edx_eax_set(struct soft_vcpu *sv, uint64_t value)
{
    sv->v.cpu.gpr[GPR_RAX] = (uint32_t)value;
    sv->v.cpu.gpr[GPR_RDX] = value >> 32;
}

#endif
