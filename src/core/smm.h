/* SPDX-License-Identifier: MIT */
/*
 * System management mode: what an SMI and RSM do to a vCPU's state and to the save area in SMRAM. When an SMI is taken is the engine's business.
 */
#ifndef VITRINE_CORE_SMM_H
#define VITRINE_CORE_SMM_H

#include "core/vcpu.h"

/* vCPU thread or holder of its lock: an SMI is pending and may be taken now, as far as the mode goes. */
static inline bool smm_is_due(const struct vcpu *v)
{
    return atomic_load(&v->ev.smi_pending) && !v->cpu.in_smm;
}

/*
 * vCPU thread: takes the pending SMI. Saves the state in SMRAM and leaves the vCPU at the handler's first instruction, in SPACE_SMM; the engine's caches are
 * the caller's. -EFAULT: there is no writable RAM at SMBASE + 0xfe00; nothing changed.
 */
int smm_enter(struct vcpu *v);

/*
 * vCPU thread: RSM. Loads the saved state, which leaves the vCPU in SPACE_NORMAL; engine's caches and PAE's page-directory pointers are the caller's. -EINVAL:
 * the state that was saved has become one that no processor can be in, or is not in RAM any more (shutdown); nothing changed.
 */
int smm_leave(struct vcpu *v);

/* ---- smm_image.c: the save area ------------------------------------------------------------------------------------------------------------ */

#define SMM_IMAGE_OFFSET 0xfe00u /* from SMBASE */
#define SMM_IMAGE_BYTES 512u

/* What the save area holds, in no layout's form. */
struct smm_state {
    uint64_t gpr[GPR_COUNT], rip, rflags;
    uint64_t cr0, cr3, cr4, efer, dr6, dr7, smbase;
    struct segment seg[SEG_COUNT], ldtr, tr;
    struct desc_table gdtr, idtr;
    uint8_t interrupt_shadow;
};

/* is_64: the layout of processors with long mode. Decoding leaves what the 32-bit layout does not hold as it was in *s. */
void smm_image_encode(uint8_t image[SMM_IMAGE_BYTES], const struct smm_state *s, bool is_64);
void smm_image_decode(const uint8_t image[SMM_IMAGE_BYTES], struct smm_state *s, bool is_64);

#endif
