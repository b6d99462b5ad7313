/* SPDX-License-Identifier: MIT */
/*
 * RDMSR, WRMSR, RDTSC(P), RDPID, RDPMC, CPUID and KVM's hypercalls: instructions that ask core about the CPU's identity, time and model-specific state.
 * The values themselves live in core. Called by exec.c through the helper table on the vCPU's own thread; no lock. Every call into core follows fp_put().
 */
#include <errno.h>

#include "core/msr_guest.h"
#include "engine/soft/help_misc.h"
#include "engine/soft/light.h"

static enum step msr_not_done(struct soft_vcpu *sv, enum msr_outcome outcome)
{
    return outcome == MSR_EXIT ? STEP_EXIT : step_fault_code(sv, VEC_GP, 0);
}

enum step help_rdmsr(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    if (vcpu_cpl(&sv->v))
        return step_fault_code(sv, VEC_GP, 0);
    fp_put(sv);
    uint64_t value = 0;
    enum step s = watch_insn(sv, WATCH_MSR_READ, (uint32_t)sv->v.cpu.gpr[GPR_RCX], 0, &value);
    if (s != STEP_NEXT)
        return s;
    const struct watch_reply *given = watch_gift(sv, WATCH_MSR_READ, (uint32_t)sv->v.cpu.gpr[GPR_RCX]);
    enum msr_outcome outcome = given ? MSR_DONE : msr_guest_read(&sv->v, (uint32_t)sv->v.cpu.gpr[GPR_RCX], &value);
    if (given)
        value = given->value;
    if (outcome != MSR_DONE)
        return msr_not_done(sv, outcome);
    misc_edx_eax_set(sv, value);
    return STEP_NEXT;
}

static enum step wrmsr_watch(struct soft_vcpu *sv, uint32_t index, uint64_t *value)
{
    uint64_t old = 0;
    if (!watch_is_on(sv, WATCH_MSR_WRITE))
        return STEP_NEXT;
    fp_put(sv);
    if (vcpu_msr_read(&sv->v, index, &old, true))
        old = 0;
    return watch_insn(sv, WATCH_MSR_WRITE, index, old, value);
}

/* EFER decides modes and NX; APIC_BASE moves a page of registers over what may be RAM. */
enum step help_wrmsr(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    if (vcpu_cpl(&sv->v))
        return step_fault_code(sv, VEC_GP, 0);
    uint32_t index = (uint32_t)sv->v.cpu.gpr[GPR_RCX];
    uint64_t old_efer = sv->v.cpu.efer, value = misc_edx_eax(sv);
    enum step s = wrmsr_watch(sv, index, &value);
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    enum msr_outcome outcome = msr_guest_write(&sv->v, index, value);
    if (outcome != MSR_DONE)
        return msr_not_done(sv, outcome);
    if (index == MSR_EFER || index == MSR_FS_BASE || index == MSR_GS_BASE)
        mode_update(sv);
    if (old_efer != sv->v.cpu.efer || index == MSR_APIC_BASE)
        tlb_flush(sv);
    return STEP_NEXT;
}

static bool msr_tsc_is_denied(const struct soft_vcpu *sv)
{
    return (sv->v.cpu.cr4 & CR4_TSD) && vcpu_cpl(&sv->v);
}

enum step help_rdtsc(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    if (msr_tsc_is_denied(sv))
        return step_fault_code(sv, VEC_GP, 0);
    fp_put(sv);
    misc_edx_eax_set(sv, vcpu_tsc(&sv->v));
    return STEP_NEXT;
}

enum step help_rdtscp(struct soft_vcpu *sv, const struct insn *in)
{
    __asm__ volatile("lfence" : : : "memory"); /* it waits for all earlier loads */
    enum step s = help_rdtsc(sv, in);
    if (s == STEP_NEXT)
        sv->v.cpu.gpr[GPR_RCX] = (uint32_t)sv->v.cpu.tsc_aux;
    return s;
}

enum step help_rdpid(struct soft_vcpu *sv, const struct insn *in)
{
    gpr_write(sv, in->opnd[0].reg, in->mode_bits == 64 ? 8 : 4, (uint32_t)sv->v.cpu.tsc_aux);
    return STEP_NEXT;
}

/* There are no performance counters: whoever may read one names one that does not exist. */
enum step help_rdpmc(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return step_fault_code(sv, VEC_GP, 0);
}

enum step help_cpuid(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    uint64_t *gpr = sv->v.cpu.gpr;
    uint32_t out[4];
    uint64_t subleaf = (uint32_t)gpr[GPR_RCX];
    enum step s = watch_insn(sv, WATCH_CPUID, (uint32_t)gpr[GPR_RAX], 0, &subleaf);
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    const struct watch_reply *given = watch_gift(sv, WATCH_CPUID, (uint32_t)gpr[GPR_RAX]);
    if (given)
        light_copy(out, given->data, sizeof out);
    else
        vcpu_cpuid(&sv->v, (uint32_t)gpr[GPR_RAX], (uint32_t)gpr[GPR_RCX], out);
    gpr[GPR_RAX] = out[0];
    gpr[GPR_RBX] = out[1];
    gpr[GPR_RCX] = out[2];
    gpr[GPR_RDX] = out[3];
    return STEP_NEXT;
}

#define HYPERCALL_ENOSYS (-1000)
#define HYPERCALL_EPERM (-1)

/* VMCALL and VMMCALL: the calls are chip's, the registers are Hyper-V's or KVM's (Linux, Documentation/virt/kvm/x86/hypercalls.rst). */
enum step help_vmcall(struct soft_vcpu *sv, const struct insn *in)
{
    struct vcpu *v = &sv->v;
    const uint64_t *gpr = v->cpu.gpr;
    unsigned bytes = in->mode_bits == 64 ? 8 : 4;
    const uint64_t args[4] = { misc_truncate(gpr[GPR_RBX], bytes), misc_truncate(gpr[GPR_RCX], bytes), misc_truncate(gpr[GPR_RDX], bytes),
                               misc_truncate(gpr[GPR_RSI], bytes) };
    uint64_t value = 0;
    enum step s = watch_insn(sv, WATCH_HYPERCALL, (uint32_t)gpr[GPR_RAX], 0, &value);
    if (s != STEP_NEXT)
        return s;
    const struct watch_reply *given = watch_gift(sv, WATCH_HYPERCALL, (uint32_t)gpr[GPR_RAX]);
    if (given) {
        gpr_write(sv, GPR_RAX, bytes, misc_truncate(given->value, bytes));
        return STEP_NEXT;
    }
    vcpu_count_exit(v, STAT_HYPERCALLS);
    fp_put(sv);
    int outcome = v->vm->chip ? v->vm->chip->hv_call(v, bytes == 8) : -ENOSYS;
    if (outcome == -EPERM)
        return step_fault(sv, VEC_UD);
    if (!outcome)
        return STEP_NEXT;
    int64_t ret = vcpu_cpl(v) ? HYPERCALL_EPERM : HYPERCALL_ENOSYS;
    if (!vcpu_cpl(v) && v->vm->chip) {
        ret = v->vm->chip->hypercall(v, misc_truncate(gpr[GPR_RAX], bytes), args, bytes == 8);
    }
    gpr_write(sv, GPR_RAX, bytes, misc_truncate((uint64_t)ret, bytes));
    return STEP_NEXT;
}
