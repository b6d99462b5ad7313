/* SPDX-License-Identifier: MIT */
/*
 * System management mode as the engine sees it: taking an SMI between instructions, and RSM. What happens to the state is core's (core/smm.h); here is what
 * goes with a change of the address space: nothing that was cached of the old one may be used in the new one. Translations stay, being known by host page.
 * Runs on the vCPU's thread.
 */
#include "core/smm.h"
#include "engine/soft/code.h"
#include "engine/soft/help_misc.h"

/* What became deliverable, or stopped being so, is found by the run loop. */
static void space_changed(struct soft_vcpu *sv)
{
    mode_update(sv);
    tlb_flush(sv);
    atomic_store(&sv->v.exit_req, 1);
}

enum step smi_take(struct soft_vcpu *sv)
{
    struct vcpu *v = &sv->v;
    const uint64_t old[3] = { v->cpu.cr0, v->cpu.cr3, v->cpu.cr4 };
    if (smm_enter(v)) {
        v->exit.kind = EXIT_INTERNAL_ERROR;
        v->exit.internal.suberror = 1; /* KVM_INTERNAL_ERROR_EMULATION */
        v->exit.internal.n_bytes = 0;
        v->exit.internal.text = "an SMI, but no RAM for the state at SMBASE";
        return STEP_EXIT;
    }
    space_changed(sv);
    watch_tell_crs(sv, old);
    return STEP_NEXT;
}

static bool has_pdptes(const struct cpu_state *c)
{
    return (c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !(c->efer & EFER_LMA);
}

enum step help_rsm(struct soft_vcpu *sv, const struct insn *in)
{
    struct cpu_state *c = &sv->v.cpu;
    (void)in;
    if (!c->in_smm)
        return step_fault(sv, VEC_UD);
    const uint64_t old[3] = { c->cr0, c->cr3, c->cr4 };
    fp_put(sv);
    if (smm_leave(&sv->v) || (has_pdptes(c) && pdpte_load(sv, c->cr3))) {
        sv->v.exit.kind = EXIT_SHUTDOWN;
        return STEP_EXIT;
    }
    space_changed(sv);
    watch_tell_crs(sv, old);
    return STEP_JUMP;
}
