/* SPDX-License-Identifier: MIT */
/*
 * The register page that a VP shares with its client: made whenever the VP stops, read again before registers are looked at or the VP runs, as far as the
 * client says that it changed it. The client may write at any time; each field is read once. vcpu.lock is held.
 */
#include <string.h>

#include "core/xsave.h"
#include "front/mshv/mshv_priv.h"

#define PAGE_VERSION 1u
#define PAGE_XMMS 6u

void mshv_page_fill(struct mshv_vp *vp)
{
    struct mshv_register_page *page = vp->page;
    const struct vcpu *v = vp->v;
    const struct cpu_state *cpu = &v->cpu;
    uint8_t xsave[XSAVE_AREA_BYTES];
    vcpu_xsave_get(v, xsave);
    memcpy(page->gpr, cpu->gpr, sizeof page->gpr);
    memcpy(page->xmm, xsave + XS_XMM, sizeof page->xmm);
    page->rip = cpu->rip;
    page->rflags = cpu->rflags;
    for (unsigned i = 0; i < SEG_COUNT; i++)
        mshv_segment_from(&page->segment[i], &cpu->seg[i]);
    page->cr0 = cpu->cr0;
    page->cr3 = cpu->cr3;
    page->cr4 = cpu->cr4;
    page->cr8 = vcpu_cr8_get(vp->v);
    page->efer = cpu->efer;
    page->dr7 = cpu->dr7;
    page->pending_interruption = mshv_pending_interruption(v);
    page->interrupt_state = mshv_interrupt_state(v);
    page->emulation_hints = 0;
    page->xfem = cpu->xcr0;
    page->version = PAGE_VERSION;
    page->dirty = 0;
    page->is_valid = 1;
}

static void take_xmm(struct vcpu *v, const struct mshv_register_page *page)
{
    uint8_t xsave[XSAVE_AREA_BYTES];
    vcpu_xsave_get(v, xsave);
    memcpy(xsave + XS_XMM, page->xmm, sizeof page->xmm);
    xsave[XS_BV] |= XCR0_SSE;
    vcpu_xsave_set(v, xsave);
}

_Static_assert(sizeof(((struct mshv_register_page *)0)->xmm) == PAGE_XMMS * 16, "the page's vector registers");

void mshv_page_take(struct mshv_vp *vp)
{
    struct mshv_register_page *page = vp->page;
    struct vcpu *v = vp->v;
    uint32_t dirty = __atomic_exchange_n(&page->dirty, 0, __ATOMIC_ACQ_REL);
    if (!page->is_valid || !dirty)
        return;
    if (dirty & MSHV_PAGE_GENERAL)
        memcpy(v->cpu.gpr, page->gpr, sizeof page->gpr);
    if (dirty & MSHV_PAGE_IP)
        mshv_rip_set(vp, page->rip);
    if (dirty & MSHV_PAGE_XMM)
        take_xmm(v, page);
    if (dirty & MSHV_PAGE_FLAGS)
        v->cpu.rflags = page->rflags | RFLAGS_RES1;
    for (unsigned i = 0; (dirty & MSHV_PAGE_SEGMENT) && i < SEG_COUNT; i++) {
        struct mshv_segment segment = page->segment[i];
        mshv_segment_to(&v->cpu.seg[i], &segment);
    }
    if (dirty & (MSHV_PAGE_XMM | MSHV_PAGE_FLAGS | MSHV_PAGE_SEGMENT)) {
        vcpu_request(v, VREQ_EVENT);
        v->vm->engine->state_changed(v);
    }
}
