/* SPDX-License-Identifier: MIT */
/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT: transfers to fixed flat segments without descriptors or gates (SDM vol. 2; AMD APM vol. 3 for what AMD processors have
 * beyond: SYSCALL outside 64-bit mode, no SYSENTER in long mode). The guest's CPUID vendor chooses. Runs on the vCPU's thread; no lock.
 */
#include "engine/soft/help_control.h"
#include "engine/soft/transfer.h"

#define SYSRET_FLAGS 0x3c7fd7u       /* R11 bits that SYSRET loads: not RF, not VM */
#define VENDOR_AMD_EBX 0x68747541u   /* "Auth" */
#define VENDOR_HYGON_EBX 0x6f677948u /* "Hygo" */

static bool vendor_is_amd(const struct vcpu *v)
{
    for (unsigned i = 0; i < v->n_cpuid; i++)
        if (v->cpuid[i].function == 0)
            return v->cpuid[i].ebx == VENDOR_AMD_EBX || v->cpuid[i].ebx == VENDOR_HYGON_EBX;
    return false;
}

/* CS and SS as these instructions force them. The CPL follows SS. */
static void flat_set(struct soft_vcpu *sv, uint16_t cs, uint16_t ss, unsigned cpl, bool is_long)
{
    struct segment flat = { .limit = 0xffffffff, .s = 1, .present = 1, .dpl = (uint8_t)cpl, .g = 1 };
    struct segment *seg = sv->v.cpu.seg;
    seg[SEG_CS] = flat;
    seg[SEG_CS].selector = (uint16_t)((cs & ~3u) | cpl);
    seg[SEG_CS].type = SEG_TYPE_CODE | SEG_TYPE_READ | SEG_TYPE_ACCESSED;
    seg[SEG_CS].l = is_long;
    seg[SEG_CS].db = !is_long;
    seg[SEG_SS] = flat;
    seg[SEG_SS].selector = (uint16_t)((ss & ~3u) | cpl);
    seg[SEG_SS].type = SEG_TYPE_WRITE | SEG_TYPE_ACCESSED;
    seg[SEG_SS].db = 1;
}

/* Outside long mode (AMD): the target is in STAR, only IF and VM (and RF) change. */
static enum step syscall_legacy(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *cpu = &sv->v.cpu;
    uint16_t cs = (uint16_t)(cpu->star >> 32);
    cpu->gpr[GPR_RCX] = transfer_next_rip(sv, in);
    cpu->rip = (uint32_t)cpu->star;
    cpu->rflags &= ~(uint64_t)(RFLAGS_IF | RFLAGS_VM | RFLAGS_RF);
    flat_set(sv, cs, (uint16_t)((cs & ~3u) + 8), 0, false);
    mode_update(sv);
    return STEP_JUMP;
}

enum step help_syscall(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *cpu = &sv->v.cpu;
    uint16_t cs = (uint16_t)(cpu->star >> 32);
    bool is_64bit = desc_is_64bit(sv);
    if (!(cpu->efer & EFER_SCE) || !desc_is_protected(sv) || (!is_64bit && !vendor_is_amd(&sv->v)))
        return step_fault(sv, VEC_UD);
    uint64_t rax = cpu->gpr[GPR_RAX];
    enum step s = watch_insn(sv, WATCH_SYSCALL, WATCH_BY_SYSCALL, 0, &rax);
    if (s != STEP_NEXT)
        return s;
    if (!desc_is_long(sv))
        return syscall_legacy(sv, in);
    uint64_t flags = cpu->rflags & ~(uint64_t)RFLAGS_RF;
    cpu->gpr[GPR_RCX] = transfer_next_rip(sv, in);
    cpu->gpr[GPR_R11] = flags;
    cpu->rip = is_64bit ? cpu->lstar : cpu->cstar;
    cpu->rflags = (flags & ~(cpu->sfmask & 0xffffffff)) | RFLAGS_RES1;
    flat_set(sv, cs, (uint16_t)((cs & ~3u) + 8), 0, true);
    mode_update(sv);
    return STEP_JUMP;
}

enum step help_sysret(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *cpu = &sv->v.cpu;
    uint16_t base = (uint16_t)(cpu->star >> 48);
    bool is_64bit = desc_is_64bit(sv), to_64bit = is_64bit && in->rex_w;
    if (!(cpu->efer & EFER_SCE) || !desc_is_protected(sv) || (!is_64bit && !vendor_is_amd(&sv->v)))
        return step_fault(sv, VEC_UD);
    if (vcpu_cpl(&sv->v))
        return step_fault_code(sv, VEC_GP, 0);
    if (to_64bit && !desc_is_canonical(sv, cpu->gpr[GPR_RCX]))
        return step_fault_code(sv, VEC_GP, 0);
    uint64_t rax = cpu->gpr[GPR_RAX];
    enum step s = watch_insn(sv, WATCH_SYSRET, WATCH_BY_SYSRET, 0, &rax);
    if (s != STEP_NEXT)
        return s;
    cpu->rip = to_64bit ? cpu->gpr[GPR_RCX] : (uint32_t)cpu->gpr[GPR_RCX];
    if (desc_is_long(sv))
        cpu->rflags = (cpu->gpr[GPR_R11] & SYSRET_FLAGS) | RFLAGS_RES1;
    else
        cpu->rflags |= RFLAGS_IF;
    flat_set(sv, (uint16_t)(base + (to_64bit ? 16 : 0)), (uint16_t)(base + 8), 3, to_64bit);
    mode_update(sv);
    return STEP_JUMP;
}

enum step help_sysenter(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *cpu = &sv->v.cpu;
    bool is_long = desc_is_long(sv);
    uint16_t cs = (uint16_t)(cpu->sysenter_cs & 0xfffc);
    (void)in;
    if (is_long && vendor_is_amd(&sv->v))
        return step_fault(sv, VEC_UD);
    if (!desc_is_protected(sv) || !cs)
        return step_fault_code(sv, VEC_GP, 0);
    uint64_t rax = cpu->gpr[GPR_RAX];
    enum step s = watch_insn(sv, WATCH_SYSCALL, WATCH_BY_SYSENTER, 0, &rax);
    if (s != STEP_NEXT)
        return s;
    cpu->rflags &= ~(uint64_t)(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF);
    cpu->gpr[GPR_RSP] = is_long ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
    cpu->rip = is_long ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
    flat_set(sv, cs, (uint16_t)(cs + 8), 0, is_long);
    mode_update(sv);
    return STEP_JUMP;
}

enum step help_sysexit(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *cpu = &sv->v.cpu;
    bool to_64bit = desc_is_64bit(sv) && in->rex_w;
    uint16_t cs = (uint16_t)(cpu->sysenter_cs & 0xfffc);
    uint64_t rip = cpu->gpr[GPR_RDX], rsp = cpu->gpr[GPR_RCX];
    if (desc_is_long(sv) && vendor_is_amd(&sv->v))
        return step_fault(sv, VEC_UD);
    if (!desc_is_protected(sv) || !cs || vcpu_cpl(&sv->v))
        return step_fault_code(sv, VEC_GP, 0);
    if (to_64bit && (!desc_is_canonical(sv, rip) || !desc_is_canonical(sv, rsp)))
        return step_fault_code(sv, VEC_GP, 0);
    uint64_t rax = cpu->gpr[GPR_RAX];
    enum step s = watch_insn(sv, WATCH_SYSRET, WATCH_BY_SYSEXIT, 0, &rax);
    if (s != STEP_NEXT)
        return s;
    cpu->rip = to_64bit ? rip : (uint32_t)rip;
    cpu->gpr[GPR_RSP] = to_64bit ? rsp : (uint32_t)rsp;
    cs = (uint16_t)(cs + (to_64bit ? 32 : 16));
    flat_set(sv, cs, (uint16_t)(cs + 8), 3, to_64bit);
    mode_update(sv);
    return STEP_JUMP;
}
