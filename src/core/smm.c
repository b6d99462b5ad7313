/* SPDX-License-Identifier: MIT */
/*
 * Entry to and return from system management mode (SDM vol. 3C, "System Management Mode"), in the details that the manuals leave open as KVM has them: SMIs
 * are taken in interrupt shadows, which are saved; a vCPU that was halted goes on behind its HLT. Registers that the save area does not hold (CR2, CR8, vector
 * state, MSRs) stay as the handler leaves them. Runs on the vCPU's thread.
 */
#include "core/smm.h"

#include <errno.h>

#include "base/host.h"
#include "core/vm.h"

#define RFLAGS_KNOWN                                                                                                                                           \
    (RFLAGS_STATUS | RFLAGS_RES1 | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | \
     RFLAGS_ID)
#define CR0_KNOWN (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)

static bool has_long_mode(const struct vcpu *v)
{
    return vcpu_cpuid_has(v, 0x80000001, 0, 3, 29);
}

static void state_get(const struct vcpu *v, struct smm_state *out)
{
    const struct cpu_state *c = &v->cpu;
    *out = (struct smm_state){
        .rip = c->rip,
        .rflags = c->rflags,
        .cr0 = c->cr0,
        .cr3 = c->cr3,
        .cr4 = c->cr4,
        .efer = c->efer,
        .dr6 = c->dr6,
        .dr7 = c->dr7,
        .smbase = c->smbase,
        .ldtr = c->ldtr,
        .tr = c->tr,
        .gdtr = c->gdtr,
        .idtr = c->idtr,
        .interrupt_shadow = c->interrupt_shadow,
    };
    for (unsigned i = 0; i < GPR_COUNT; i++)
        out->gpr[i] = c->gpr[i];
    for (unsigned i = 0; i < SEG_COUNT; i++)
        out->seg[i] = c->seg[i];
}

/* ---- entry ---- */

/* Like real mode, but with limits of 4 GiB and the code segment's base free of its selector. */
static void set_segments(struct cpu_state *c)
{
    const struct segment data = { .limit = 0xffffffff, .type = 3, .present = 1, .s = 1, .g = 1 };
    for (unsigned i = 0; i < SEG_COUNT; i++)
        c->seg[i] = data;
    c->seg[SEG_CS].base = c->smbase;
    c->seg[SEG_CS].selector = (uint16_t)(c->smbase >> 4);
}

int smm_enter(struct vcpu *v)
{
    struct cpu_state *c = &v->cpu;
    struct smm_state s;
    uint8_t image[SMM_IMAGE_BYTES];
    bool is_64 = has_long_mode(v);
    state_get(v, &s);
    smm_image_encode(image, &s, is_64);
    if (vm_space_write(v->vm, SPACE_SMM, c->smbase + SMM_IMAGE_OFFSET, image, sizeof image))
        return -EFAULT;
    atomic_store(&v->ev.smi_pending, false);
    c->smi_count++;
    c->in_smm = true;
    c->smm_inside_nmi = c->nmi_masked;
    c->nmi_masked = true;
    c->rflags = RFLAGS_RES1;
    c->rip = 0x8000;
    c->interrupt_shadow = 0;
    c->cr0 &= ~(uint64_t)(CR0_PE | CR0_EM | CR0_TS | CR0_PG);
    c->cr4 = 0;
    c->idtr = (struct desc_table){ 0 };
    c->dr7 = DR7_FIXED_1;
    set_segments(c);
    if (is_64)
        c->efer = 0;
    return 0;
}

/* ---- return ---- */

/* SDM vol. 3C, "Exiting From SMM": what makes the processor shut down. Completes the state with what follows from the rest. */
static bool state_check(const struct vcpu *v, struct smm_state *s)
{
    bool is_long = (s->efer & EFER_LME) && (s->cr0 & CR0_PG);
    if (s->efer & ~EFER_KNOWN || s->cr4 & ~vcpu_cr4_allowed(v) || s->dr6 >> 32 || s->dr7 >> 32)
        return false;
    if (s->cr0 >> 32 || ((s->cr0 & CR0_PG) && !(s->cr0 & CR0_PE)) || ((s->cr0 & CR0_NW) && !(s->cr0 & CR0_CD)))
        return false;
    if (s->cr3 >> host_facts()->phys_bits || (is_long && !(s->cr4 & CR4_PAE)) || (!is_long && (s->cr4 & CR4_PCIDE)))
        return false;
    s->efer = (s->efer & ~(uint64_t)EFER_LMA) | (is_long ? EFER_LMA : 0);
    s->cr0 = (s->cr0 & CR0_KNOWN) | CR0_ET;
    s->rflags = (s->rflags & RFLAGS_KNOWN & ~(is_long ? RFLAGS_VM : 0)) | RFLAGS_RES1;
    s->dr6 = (s->dr6 & DR6_WRITABLE) | DR6_FIXED_1;
    s->dr7 = (s->dr7 & DR7_WRITABLE) | DR7_FIXED_1;
    s->interrupt_shadow &= SHADOW_MOV_SS | SHADOW_STI;
    return true;
}

static void state_set(struct vcpu *v, const struct smm_state *s)
{
    struct cpu_state *c = &v->cpu;
    for (unsigned i = 0; i < GPR_COUNT; i++)
        c->gpr[i] = s->gpr[i];
    for (unsigned i = 0; i < SEG_COUNT; i++)
        c->seg[i] = s->seg[i];
    c->rip = s->rip;
    c->rflags = s->rflags;
    c->cr0 = s->cr0;
    c->cr3 = s->cr3;
    c->cr4 = s->cr4;
    c->efer = s->efer;
    c->dr6 = s->dr6;
    c->dr7 = s->dr7;
    c->smbase = s->smbase;
    c->ldtr = s->ldtr;
    c->tr = s->tr;
    c->gdtr = s->gdtr;
    c->idtr = s->idtr;
    c->interrupt_shadow = s->interrupt_shadow;
}

int smm_leave(struct vcpu *v)
{
    struct cpu_state *c = &v->cpu;
    struct smm_state s;
    uint8_t image[SMM_IMAGE_BYTES];
    if (vm_space_read(v->vm, SPACE_SMM, c->smbase + SMM_IMAGE_OFFSET, image, sizeof image))
        return -EINVAL;
    state_get(v, &s);
    smm_image_decode(image, &s, has_long_mode(v));
    if (!state_check(v, &s))
        return -EINVAL;
    state_set(v, &s);
    c->in_smm = false;
    c->nmi_masked = c->smm_inside_nmi;
    c->smm_inside_nmi = false;
    return 0;
}
