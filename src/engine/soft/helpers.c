/* SPDX-License-Identifier: MIT */
/*
 * Which instructions are executed by C: a table from mnemonic to helper, and the mnemonics that need a look at the operands. Whatever is not here runs
 * natively: it touches only general, vector, x87 and mask registers, status flags and one memory operand of known size. Constant data, no lock.
 */
#include <Zydis/Zydis.h>

#include "engine/soft/help_control.h"
#include "engine/soft/help_io.h"
#include "engine/soft/help_misc.h"
#include "engine/soft/help_string.h"

static const helper_fn helper_table[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    [ZYDIS_MNEMONIC_PAUSE] = help_pause,
    [ZYDIS_MNEMONIC_PUSH] = help_push,
    [ZYDIS_MNEMONIC_POP] = help_pop,
    [ZYDIS_MNEMONIC_PUSHA] = help_pusha,
    [ZYDIS_MNEMONIC_PUSHAD] = help_pusha,
    [ZYDIS_MNEMONIC_POPA] = help_popa,
    [ZYDIS_MNEMONIC_POPAD] = help_popa,
    [ZYDIS_MNEMONIC_ENTER] = help_enter,
    [ZYDIS_MNEMONIC_LEAVE] = help_leave,
    [ZYDIS_MNEMONIC_JMP] = help_jmp_near,
    [ZYDIS_MNEMONIC_CALL] = help_call_near,
    [ZYDIS_MNEMONIC_RET] = help_ret_near,
    [ZYDIS_MNEMONIC_JB] = help_jcc,
    [ZYDIS_MNEMONIC_JBE] = help_jcc,
    [ZYDIS_MNEMONIC_JL] = help_jcc,
    [ZYDIS_MNEMONIC_JLE] = help_jcc,
    [ZYDIS_MNEMONIC_JNB] = help_jcc,
    [ZYDIS_MNEMONIC_JNBE] = help_jcc,
    [ZYDIS_MNEMONIC_JNL] = help_jcc,
    [ZYDIS_MNEMONIC_JNLE] = help_jcc,
    [ZYDIS_MNEMONIC_JNO] = help_jcc,
    [ZYDIS_MNEMONIC_JNP] = help_jcc,
    [ZYDIS_MNEMONIC_JNS] = help_jcc,
    [ZYDIS_MNEMONIC_JNZ] = help_jcc,
    [ZYDIS_MNEMONIC_JO] = help_jcc,
    [ZYDIS_MNEMONIC_JP] = help_jcc,
    [ZYDIS_MNEMONIC_JS] = help_jcc,
    [ZYDIS_MNEMONIC_JZ] = help_jcc,
    [ZYDIS_MNEMONIC_JCXZ] = help_jcxz,
    [ZYDIS_MNEMONIC_JECXZ] = help_jcxz,
    [ZYDIS_MNEMONIC_JRCXZ] = help_jcxz,
    [ZYDIS_MNEMONIC_LOOP] = help_loop,
    [ZYDIS_MNEMONIC_LOOPE] = help_loop,
    [ZYDIS_MNEMONIC_LOOPNE] = help_loop,
    [ZYDIS_MNEMONIC_PUSHF] = help_pushf,
    [ZYDIS_MNEMONIC_PUSHFD] = help_pushf,
    [ZYDIS_MNEMONIC_PUSHFQ] = help_pushf,
    [ZYDIS_MNEMONIC_POPF] = help_popf,
    [ZYDIS_MNEMONIC_POPFD] = help_popf,
    [ZYDIS_MNEMONIC_POPFQ] = help_popf,
    [ZYDIS_MNEMONIC_CLI] = help_cli,
    [ZYDIS_MNEMONIC_STI] = help_sti,
    [ZYDIS_MNEMONIC_CLD] = help_cld,
    [ZYDIS_MNEMONIC_STD] = help_std,
    [ZYDIS_MNEMONIC_CLAC] = help_clac,
    [ZYDIS_MNEMONIC_STAC] = help_stac,
    [ZYDIS_MNEMONIC_SMSW] = help_smsw,
    [ZYDIS_MNEMONIC_LMSW] = help_lmsw,
    [ZYDIS_MNEMONIC_CLTS] = help_clts,
    [ZYDIS_MNEMONIC_XSETBV] = help_xsetbv,
    [ZYDIS_MNEMONIC_XGETBV] = help_xgetbv,
    [ZYDIS_MNEMONIC_INVLPG] = help_invlpg,
    [ZYDIS_MNEMONIC_INVPCID] = help_invpcid,
    [ZYDIS_MNEMONIC_HLT] = help_hlt,
    [ZYDIS_MNEMONIC_MONITOR] = help_monitor,
    [ZYDIS_MNEMONIC_MWAIT] = help_mwait,
    [ZYDIS_MNEMONIC_WBINVD] = help_wbinvd,
    [ZYDIS_MNEMONIC_INVD] = help_wbinvd,
    [ZYDIS_MNEMONIC_RDMSR] = help_rdmsr,
    [ZYDIS_MNEMONIC_WRMSR] = help_wrmsr,
    [ZYDIS_MNEMONIC_RDTSC] = help_rdtsc,
    [ZYDIS_MNEMONIC_RDTSCP] = help_rdtscp,
    [ZYDIS_MNEMONIC_RDPID] = help_rdpid,
    [ZYDIS_MNEMONIC_RDPMC] = help_rdpmc,
    [ZYDIS_MNEMONIC_CPUID] = help_cpuid,
    [ZYDIS_MNEMONIC_VMCALL] = help_vmcall,
    [ZYDIS_MNEMONIC_VMMCALL] = help_vmcall,
    [ZYDIS_MNEMONIC_FXSAVE] = help_fxsave,
    [ZYDIS_MNEMONIC_FXSAVE64] = help_fxsave,
    [ZYDIS_MNEMONIC_FXRSTOR] = help_fxrstor,
    [ZYDIS_MNEMONIC_FXRSTOR64] = help_fxrstor,
    [ZYDIS_MNEMONIC_FNSAVE] = help_fnsave,
    [ZYDIS_MNEMONIC_FRSTOR] = help_frstor,
    [ZYDIS_MNEMONIC_FNSTENV] = help_fnstenv,
    [ZYDIS_MNEMONIC_FLDENV] = help_fldenv,
    [ZYDIS_MNEMONIC_XSAVE] = help_xsave,
    [ZYDIS_MNEMONIC_XSAVE64] = help_xsave,
    [ZYDIS_MNEMONIC_XSAVEOPT] = help_xsaveopt,
    [ZYDIS_MNEMONIC_XSAVEOPT64] = help_xsaveopt,
    [ZYDIS_MNEMONIC_XSAVEC] = help_xsavec,
    [ZYDIS_MNEMONIC_XSAVEC64] = help_xsavec,
    [ZYDIS_MNEMONIC_XSAVES] = help_xsaves,
    [ZYDIS_MNEMONIC_XSAVES64] = help_xsaves,
    [ZYDIS_MNEMONIC_XRSTOR] = help_xrstor,
    [ZYDIS_MNEMONIC_XRSTOR64] = help_xrstor,
    [ZYDIS_MNEMONIC_XRSTORS] = help_xrstors,
    [ZYDIS_MNEMONIC_XRSTORS64] = help_xrstors,
    [ZYDIS_MNEMONIC_MASKMOVQ] = help_maskmovq,
    [ZYDIS_MNEMONIC_MASKMOVDQU] = help_maskmovdqu,
    [ZYDIS_MNEMONIC_VMASKMOVDQU] = help_maskmovdqu,
    [ZYDIS_MNEMONIC_VMASKMOVPS] = help_vmaskmov,
    [ZYDIS_MNEMONIC_VMASKMOVPD] = help_vmaskmov,
    [ZYDIS_MNEMONIC_VPMASKMOVD] = help_vmaskmov,
    [ZYDIS_MNEMONIC_VPMASKMOVQ] = help_vmaskmov,
    [ZYDIS_MNEMONIC_VGATHERDPD] = help_gather,
    [ZYDIS_MNEMONIC_VGATHERDPS] = help_gather,
    [ZYDIS_MNEMONIC_VGATHERQPD] = help_gather,
    [ZYDIS_MNEMONIC_VGATHERQPS] = help_gather,
    [ZYDIS_MNEMONIC_VPGATHERDD] = help_gather,
    [ZYDIS_MNEMONIC_VPGATHERDQ] = help_gather,
    [ZYDIS_MNEMONIC_VPGATHERQD] = help_gather,
    [ZYDIS_MNEMONIC_VPGATHERQQ] = help_gather,
    [ZYDIS_MNEMONIC_VSCATTERDPD] = help_scatter,
    [ZYDIS_MNEMONIC_VSCATTERDPS] = help_scatter,
    [ZYDIS_MNEMONIC_VSCATTERQPD] = help_scatter,
    [ZYDIS_MNEMONIC_VSCATTERQPS] = help_scatter,
    [ZYDIS_MNEMONIC_VPSCATTERDD] = help_scatter,
    [ZYDIS_MNEMONIC_VPSCATTERDQ] = help_scatter,
    [ZYDIS_MNEMONIC_VPSCATTERQD] = help_scatter,
    [ZYDIS_MNEMONIC_VPSCATTERQQ] = help_scatter,
    [ZYDIS_MNEMONIC_AAA] = help_aaa,
    [ZYDIS_MNEMONIC_AAS] = help_aas,
    [ZYDIS_MNEMONIC_AAD] = help_aad,
    [ZYDIS_MNEMONIC_AAM] = help_aam,
    [ZYDIS_MNEMONIC_DAA] = help_daa,
    [ZYDIS_MNEMONIC_DAS] = help_das,
    [ZYDIS_MNEMONIC_BOUND] = help_bound,
    [ZYDIS_MNEMONIC_XLAT] = help_xlat,
    [ZYDIS_MNEMONIC_SALC] = help_salc,
    [ZYDIS_MNEMONIC_CLFLUSH] = help_cache_line,
    [ZYDIS_MNEMONIC_CLFLUSHOPT] = help_cache_line,
    [ZYDIS_MNEMONIC_CLWB] = help_cache_line,
    [ZYDIS_MNEMONIC_PREFETCH] = help_nop,
    [ZYDIS_MNEMONIC_PREFETCHNTA] = help_nop,
    [ZYDIS_MNEMONIC_PREFETCHT0] = help_nop,
    [ZYDIS_MNEMONIC_PREFETCHT1] = help_nop,
    [ZYDIS_MNEMONIC_PREFETCHT2] = help_nop,
    [ZYDIS_MNEMONIC_PREFETCHW] = help_nop,
    [ZYDIS_MNEMONIC_PREFETCHWT1] = help_nop,
    [ZYDIS_MNEMONIC_CLDEMOTE] = help_nop,
    [ZYDIS_MNEMONIC_BNDCL] = help_nop,
    [ZYDIS_MNEMONIC_BNDCN] = help_nop,
    [ZYDIS_MNEMONIC_BNDCU] = help_nop,
    [ZYDIS_MNEMONIC_BNDLDX] = help_nop,
    [ZYDIS_MNEMONIC_BNDMK] = help_nop,
    [ZYDIS_MNEMONIC_BNDMOV] = help_nop,
    [ZYDIS_MNEMONIC_BNDSTX] = help_nop,
    [ZYDIS_MNEMONIC_RDSSPD] = help_nop,
    [ZYDIS_MNEMONIC_RDSSPQ] = help_nop,
    [ZYDIS_MNEMONIC_RSM] = help_rsm,
    [ZYDIS_MNEMONIC_MOVDIR64B] = help_undefined,
    [ZYDIS_MNEMONIC_ENQCMD] = help_undefined,
    [ZYDIS_MNEMONIC_ENQCMDS] = help_undefined,
    [ZYDIS_MNEMONIC_TPAUSE] = help_undefined,
    [ZYDIS_MNEMONIC_UMONITOR] = help_undefined,
    [ZYDIS_MNEMONIC_UMWAIT] = help_undefined,
    [ZYDIS_MNEMONIC_MONITORX] = help_undefined,
    [ZYDIS_MNEMONIC_MWAITX] = help_undefined,
    [ZYDIS_MNEMONIC_CLZERO] = help_undefined,
    [ZYDIS_MNEMONIC_XBEGIN] = help_undefined,
    [ZYDIS_MNEMONIC_XABORT] = help_undefined,
    [ZYDIS_MNEMONIC_XEND] = help_undefined,
    [ZYDIS_MNEMONIC_XTEST] = help_undefined,
    [ZYDIS_MNEMONIC_XSUSLDTRK] = help_undefined,
    [ZYDIS_MNEMONIC_XRESLDTRK] = help_undefined,
    [ZYDIS_MNEMONIC_RDPKRU] = help_undefined,
    [ZYDIS_MNEMONIC_WRPKRU] = help_undefined,
    [ZYDIS_MNEMONIC_RDPRU] = help_undefined,
    [ZYDIS_MNEMONIC_PCONFIG] = help_undefined,
    [ZYDIS_MNEMONIC_HRESET] = help_undefined,
    [ZYDIS_MNEMONIC_PTWRITE] = help_undefined,
    [ZYDIS_MNEMONIC_INCSSPD] = help_undefined,
    [ZYDIS_MNEMONIC_INCSSPQ] = help_undefined,
    [ZYDIS_MNEMONIC_RSTORSSP] = help_undefined,
    [ZYDIS_MNEMONIC_SAVEPREVSSP] = help_undefined,
    [ZYDIS_MNEMONIC_SETSSBSY] = help_undefined,
    [ZYDIS_MNEMONIC_CLRSSBSY] = help_undefined,
    [ZYDIS_MNEMONIC_WRSSD] = help_undefined,
    [ZYDIS_MNEMONIC_WRSSQ] = help_undefined,
    [ZYDIS_MNEMONIC_WRUSSD] = help_undefined,
    [ZYDIS_MNEMONIC_WRUSSQ] = help_undefined,
    [ZYDIS_MNEMONIC_VMXON] = help_undefined,
    [ZYDIS_MNEMONIC_VMXOFF] = help_undefined,
    [ZYDIS_MNEMONIC_VMLAUNCH] = help_undefined,
    [ZYDIS_MNEMONIC_VMRESUME] = help_undefined,
    [ZYDIS_MNEMONIC_VMREAD] = help_undefined,
    [ZYDIS_MNEMONIC_VMWRITE] = help_undefined,
    [ZYDIS_MNEMONIC_VMPTRLD] = help_undefined,
    [ZYDIS_MNEMONIC_VMPTRST] = help_undefined,
    [ZYDIS_MNEMONIC_VMCLEAR] = help_undefined,
    [ZYDIS_MNEMONIC_VMFUNC] = help_undefined,
    [ZYDIS_MNEMONIC_INVEPT] = help_undefined,
    [ZYDIS_MNEMONIC_INVVPID] = help_undefined,
    [ZYDIS_MNEMONIC_VMRUN] = help_undefined,
    [ZYDIS_MNEMONIC_VMLOAD] = help_undefined,
    [ZYDIS_MNEMONIC_VMSAVE] = help_undefined,
    [ZYDIS_MNEMONIC_STGI] = help_undefined,
    [ZYDIS_MNEMONIC_CLGI] = help_undefined,
    [ZYDIS_MNEMONIC_SKINIT] = help_undefined,
    [ZYDIS_MNEMONIC_INVLPGA] = help_undefined,
    [ZYDIS_MNEMONIC_IN] = help_in,
    [ZYDIS_MNEMONIC_OUT] = help_out,
    [ZYDIS_MNEMONIC_INSB] = help_ins,
    [ZYDIS_MNEMONIC_INSW] = help_ins,
    [ZYDIS_MNEMONIC_INSD] = help_ins,
    [ZYDIS_MNEMONIC_OUTSB] = help_outs,
    [ZYDIS_MNEMONIC_OUTSW] = help_outs,
    [ZYDIS_MNEMONIC_OUTSD] = help_outs,
    [ZYDIS_MNEMONIC_MOVSB] = help_movs,
    [ZYDIS_MNEMONIC_MOVSW] = help_movs,
    [ZYDIS_MNEMONIC_MOVSD] = help_movs,
    [ZYDIS_MNEMONIC_MOVSQ] = help_movs,
    [ZYDIS_MNEMONIC_STOSB] = help_stos,
    [ZYDIS_MNEMONIC_STOSW] = help_stos,
    [ZYDIS_MNEMONIC_STOSD] = help_stos,
    [ZYDIS_MNEMONIC_STOSQ] = help_stos,
    [ZYDIS_MNEMONIC_LODSB] = help_lods,
    [ZYDIS_MNEMONIC_LODSW] = help_lods,
    [ZYDIS_MNEMONIC_LODSD] = help_lods,
    [ZYDIS_MNEMONIC_LODSQ] = help_lods,
    [ZYDIS_MNEMONIC_CMPSB] = help_cmps,
    [ZYDIS_MNEMONIC_CMPSW] = help_cmps,
    [ZYDIS_MNEMONIC_CMPSD] = help_cmps,
    [ZYDIS_MNEMONIC_CMPSQ] = help_cmps,
    [ZYDIS_MNEMONIC_SCASB] = help_scas,
    [ZYDIS_MNEMONIC_SCASW] = help_scas,
    [ZYDIS_MNEMONIC_SCASD] = help_scas,
    [ZYDIS_MNEMONIC_SCASQ] = help_scas,
    [ZYDIS_MNEMONIC_LDS] = help_lds,
    [ZYDIS_MNEMONIC_LES] = help_les,
    [ZYDIS_MNEMONIC_LFS] = help_lfs,
    [ZYDIS_MNEMONIC_LGS] = help_lgs,
    [ZYDIS_MNEMONIC_LSS] = help_lss,
    [ZYDIS_MNEMONIC_SWAPGS] = help_swapgs,
    [ZYDIS_MNEMONIC_RDFSBASE] = help_rdfsbase,
    [ZYDIS_MNEMONIC_RDGSBASE] = help_rdgsbase,
    [ZYDIS_MNEMONIC_WRFSBASE] = help_wrfsbase,
    [ZYDIS_MNEMONIC_WRGSBASE] = help_wrgsbase,
    [ZYDIS_MNEMONIC_LAR] = help_lar,
    [ZYDIS_MNEMONIC_LSL] = help_lsl,
    [ZYDIS_MNEMONIC_VERR] = help_verr,
    [ZYDIS_MNEMONIC_VERW] = help_verw,
    [ZYDIS_MNEMONIC_ARPL] = help_arpl,
    [ZYDIS_MNEMONIC_LGDT] = help_lgdt,
    [ZYDIS_MNEMONIC_LIDT] = help_lidt,
    [ZYDIS_MNEMONIC_SGDT] = help_sgdt,
    [ZYDIS_MNEMONIC_SIDT] = help_sidt,
    [ZYDIS_MNEMONIC_LLDT] = help_lldt,
    [ZYDIS_MNEMONIC_LTR] = help_ltr,
    [ZYDIS_MNEMONIC_SLDT] = help_sldt,
    [ZYDIS_MNEMONIC_STR] = help_str,
    [ZYDIS_MNEMONIC_IRET] = help_iret,
    [ZYDIS_MNEMONIC_IRETD] = help_iret,
    [ZYDIS_MNEMONIC_IRETQ] = help_iret,
    [ZYDIS_MNEMONIC_INT] = help_int,
    [ZYDIS_MNEMONIC_INT1] = help_int1,
    [ZYDIS_MNEMONIC_INT3] = help_int3,
    [ZYDIS_MNEMONIC_INTO] = help_into,
    [ZYDIS_MNEMONIC_SYSCALL] = help_syscall,
    [ZYDIS_MNEMONIC_SYSRET] = help_sysret,
    [ZYDIS_MNEMONIC_SYSENTER] = help_sysenter,
    [ZYDIS_MNEMONIC_SYSEXIT] = help_sysexit,
    [ZYDIS_MNEMONIC_UD0] = help_ud,
    [ZYDIS_MNEMONIC_UD1] = help_ud,
    [ZYDIS_MNEMONIC_UD2] = help_ud,
};

static bool helper_has_opnd(const struct insn *in, enum opnd_kind kind)
{
    for (unsigned i = 0; i < in->n_opnds; i++)
        if (in->opnd[i].kind == kind)
            return true;
    return false;
}

static helper_fn helper_for_mov(const struct insn *in)
{
    if (helper_has_opnd(in, OPND_SEG))
        return help_mov_seg;
    if (helper_has_opnd(in, OPND_CR))
        return help_mov_cr;
    return helper_has_opnd(in, OPND_DR) ? help_mov_dr : NULL;
}

/* FF /3 and FF /5 are the far forms with a memory operand. */
static helper_fn helper_for_branch(const struct insn *in)
{
    unsigned ext = in->modrm >> 3 & 7;
    switch (in->opcode) {
    case 0x9a:
        return help_call_far;
    case 0xea:
        return help_jmp_far;
    case 0xca:
    case 0xcb:
        return help_ret_far;
    case 0xff:
        return ext == 3 ? help_call_far : ext == 5 ? help_jmp_far : helper_table[in->mnemonic];
    default:
        return helper_table[in->mnemonic];
    }
}

helper_fn helper_find(const struct insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return helper_for_mov(in);
    case ZYDIS_MNEMONIC_PUSH:
        return helper_has_opnd(in, OPND_SEG) ? help_push_seg : help_push;
    case ZYDIS_MNEMONIC_POP:
        return helper_has_opnd(in, OPND_SEG) ? help_pop_seg : help_pop;
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
        return helper_for_branch(in);
    case ZYDIS_MNEMONIC_MOVSD: /* also names of SSE2 instructions, which are in map 1 */
    case ZYDIS_MNEMONIC_CMPSD:
        return in->map == 0 ? helper_table[in->mnemonic] : NULL;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC: /* a register bit offset moves the address */
        return in->has_mem && in->opnd[1].kind == OPND_GPR ? help_bit_string : NULL;
    default:
        return in->mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE ? helper_table[in->mnemonic] : NULL;
    }
}
