/* SPDX-License-Identifier: MIT */
/*
 * Hypercalls that are one question or one message: translation of addresses, interrupts. An interrupt comes from any thread, while its target runs: no lock is
 * held.
 */
#include <string.h>

#include "core/irq.h"
#include "front/mshv/mshv_priv.h"

#define PRIVILEGE_EXEMPT 8u
#define CPL_USER 3u

/* Rights as the program has them that runs; an address behind which there is no memory translates as any other does, for that is what clients execute accesses
 * by. */
static enum mshv_translate_result rights_check(const struct vcpu *v, const struct translation *t, uint64_t flags)
{
    bool is_user = vcpu_cpl(v) == CPL_USER;
    if (!(v->cpu.cr0 & CR0_PG) || (flags & PRIVILEGE_EXEMPT))
        return MSHV_TRANSLATE_SUCCESS;
    if (is_user && !t->is_usermode)
        return MSHV_TRANSLATE_PRIVILEGE;
    if ((flags & MSHV_TRANSLATE_WRITE) && !t->is_writeable && (is_user || (v->cpu.cr0 & CR0_WP)))
        return MSHV_TRANSLATE_PRIVILEGE;
    return MSHV_TRANSLATE_SUCCESS;
}

int mshv_translate(struct mshv_call_state *s, unsigned rep)
{
    struct mshv_translate_in in;
    struct mshv_translate_out out = { .result = MSHV_TRANSLATE_NOT_PRESENT };
    struct translation found = { 0 };
    struct vcpu *v = s->vp->v;
    (void)rep;
    memcpy(&in, s->in, sizeof in);
    v->vm->engine->translate(v, in.gva_page << PAGE_SHIFT, &found);
    if (found.is_valid) {
        out.result = rights_check(v, &found, in.flags);
        out.gpa_page = found.gpa >> PAGE_SHIFT;
        out.cache = MSHV_CACHE_WRITE_BACK;
    }
    memcpy(s->out, &out, sizeof out);
    return MSHV_STATUS_SUCCESS;
}

/* An interrupt is an MSI: its types have the numbers of delivery modes (SDM vol. 3A, "Message Data Register Format"). */
#define MSI_ADDRESS 0xfee00000ull
#define MSI_LOGICAL (1u << 2)
#define MSI_MODE_SHIFT 8
#define MSI_ASSERT (1u << 14)
#define MSI_LEVEL (1u << 15)

static bool is_msi_type(uint32_t type)
{
    return type == MSHV_INTERRUPT_FIXED || type == MSHV_INTERRUPT_LOWEST || type == MSHV_INTERRUPT_SMI || type == MSHV_INTERRUPT_NMI ||
           type == MSHV_INTERRUPT_INIT || type == MSHV_INTERRUPT_SIPI;
}

int mshv_interrupt_assert(struct mshv_call_state *s, unsigned rep)
{
    struct mshv_interrupt_in in;
    (void)rep;
    memcpy(&in, s->in, sizeof in);
    if (!vm_has_lapics(s->p->vm))
        return MSHV_STATUS_INVALID_PARTITION_STATE;
    if (!is_msi_type(in.type) || in.vector > 0xff || in.vtl || in.destination >> 32)
        return MSHV_STATUS_INVALID_PARAMETER;
    uint64_t address = MSI_ADDRESS | (in.destination & 0xff) << 12 | (in.destination & 0xffffff00) << 32 | (in.bits & MSHV_INTERRUPT_LOGICAL ? MSI_LOGICAL : 0);
    uint32_t data = in.vector | in.type << MSI_MODE_SHIFT | MSI_ASSERT | (in.bits & MSHV_INTERRUPT_LEVEL ? MSI_LEVEL : 0);
    irq_send_msi(s->p->vm, address, data); /* that nobody takes it is no error: so it is on a bus */
    return MSHV_STATUS_SUCCESS;
}
