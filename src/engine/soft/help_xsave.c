/* SPDX-License-Identifier: MIT */
/*
 * XSAVE, XSAVEOPT, XSAVEC, XSAVES, XRSTOR, XRSTORS (SDM vol. 1, "Managing State Using the XSAVE Feature Set") between guest memory and cpu.xsave.
 * No supervisor component is offered (IA32_XSS is zero), so the S forms differ by privilege and format only. Called by exec.c through the helper table on
 * the vCPU's own thread; no lock.
 */
#include "engine/soft/help_fpu.h"

#define XSAVE_COMPACTED (1ull << 63)

/* Checks that all forms share, in the manual's order. */
static enum step xsave_begin(struct soft_vcpu *sv, bool is_supervisor)
{
    if (!(sv->v.cpu.cr4 & CR4_OSXSAVE))
        return step_fault(sv, VEC_UD);
    if (sv->v.cpu.cr0 & CR0_TS)
        return step_fault(sv, VEC_NM);
    if (is_supervisor && vcpu_cpl(&sv->v))
        return step_fault_code(sv, VEC_GP, 0);
    return STEP_NEXT;
}

/* Outside 64-bit mode the upper eight (and of AVX-512 all further) registers are neither saved nor restored. */
static unsigned xsave_component_bytes(const struct insn *in, unsigned component)
{
    unsigned bytes = fpu_component(component)->bytes;
    if (in->mode_bits == 64)
        return bytes;
    switch (component) {
    case FPU_COMP_SSE:
    case FPU_COMP_AVX:
    case FPU_COMP_ZMM_HI256:
        return bytes / 2;
    case FPU_COMP_HI16_ZMM:
        return 0;
    default:
        return bytes;
    }
}

/* Offset of each component in an area: as on the host, or the extended ones packed in order of XCOMP_BV. */
static unsigned xsave_layout(uint64_t components, bool is_compacted, uint16_t offset[FPU_COMPONENTS])
{
    unsigned end = FPU_EXTENDED;
    offset[FPU_COMP_X87] = 0;
    offset[FPU_COMP_SSE] = FPU_XMM;
    for (unsigned i = 2; i < FPU_COMPONENTS; i++) {
        const struct fpu_component *c = fpu_component(i);
        if (!(components >> i & 1))
            continue;
        if (is_compacted && c->is_aligned)
            end = (end + 63) & ~63u;
        offset[i] = (uint16_t)(is_compacted ? end : c->offset);
        end = offset[i] + c->bytes;
    }
    return end;
}

/* In the compacted forms SSE counts as in use if MXCSR differs from its initial value; the standard forms save MXCSR apart from XSTATE_BV. */
static uint64_t xsave_in_use(const struct soft_vcpu *sv, const struct insn *in, bool is_compacted)
{
    uint64_t in_use = fpu_get(sv, FPU_XSTATE_BV, 8);
    if (in->mode_bits != 64)
        in_use &= ~(uint64_t)XCR0_HI16_ZMM; /* out of reach */
    if (is_compacted && fpu_get(sv, FPU_MXCSR, 4) != FPU_MXCSR_INIT)
        in_use |= XCR0_SSE;
    return in_use;
}

static enum step xsave_put_x87(struct soft_vcpu *sv, const struct fpu_area *a)
{
    uint8_t head[FPU_MXCSR];
    light_copy(head, sv->v.cpu.xsave, sizeof(head));
    if (!a->in->rex_w) {
        light_fill(&head[FPU_FIP + 4], 0, 4);
        light_fill(&head[FPU_FDP + 4], 0, 4);
    }
    enum step s = fpu_area_write(sv, a, 0, head, sizeof(head));
    return s == STEP_NEXT ? fpu_area_write(sv, a, FPU_ST, &sv->v.cpu.xsave[FPU_ST], FPU_XMM - FPU_ST) : s;
}

/* Writes the components of `which`, which are all probed, and MXCSR if asked. */
static enum step xsave_put_components(struct soft_vcpu *sv, const struct fpu_area *a, uint64_t which, bool has_mxcsr, const uint16_t *offset)
{
    enum step s = STEP_NEXT;
    if (which & XCR0_X87)
        s = xsave_put_x87(sv, a);
    if (s == STEP_NEXT && has_mxcsr) {
        uint32_t mxcsr[2] = { (uint32_t)fpu_get(sv, FPU_MXCSR, 4), fpu_mxcsr_mask(sv) };
        s = fpu_area_write(sv, a, FPU_MXCSR, mxcsr, sizeof(mxcsr));
    }
    if (s == STEP_NEXT && (which & XCR0_SSE))
        s = fpu_area_write(sv, a, FPU_XMM, &sv->v.cpu.xsave[FPU_XMM], xsave_component_bytes(a->in, FPU_COMP_SSE));
    for (unsigned i = 2; i < FPU_COMPONENTS && s == STEP_NEXT; i++)
        if (which >> i & 1)
            s = fpu_area_write(sv, a, offset[i], &sv->v.cpu.xsave[fpu_component(i)->offset], xsave_component_bytes(a->in, i));
    return s;
}

/*
 * Everything is asked for before the first write, so that a fault leaves no trace: the header, and of the rest what is requested, no more (measured). Whole
 * components, also where the mode or XSTATE_BV lets some of their bytes be.
 */
static enum step xsave_probe(struct soft_vcpu *sv, struct fpu_area *a, uint64_t rfbm, const uint16_t *offset)
{
    enum step s = fpu_area_check(sv, a, FPU_XSTATE_BV, 16);
    if (s == STEP_NEXT && (rfbm & XCR0_X87))
        s = fpu_area_check(sv, a, 0, FPU_XMM);
    if (s == STEP_NEXT && (rfbm & (XCR0_SSE | XCR0_AVX)))
        s = fpu_area_check(sv, a, FPU_MXCSR, 8);
    for (unsigned i = 1; i < FPU_COMPONENTS && s == STEP_NEXT; i++)
        if (rfbm >> i & 1)
            s = fpu_area_check(sv, a, offset[i], fpu_component(i)->bytes);
    return s;
}

/* The image, and the header last. Tools are asked about all of it before any is written. */
static enum step xsave_put(struct soft_vcpu *sv, struct fpu_area *a, uint64_t which, bool has_mxcsr, const uint16_t *offset, const uint64_t *header,
                           unsigned header_bytes)
{
    a->is_question = watch_has_pages(sv);
    for (;;) {
        enum step s = xsave_put_components(sv, a, which, has_mxcsr, offset);
        if (s == STEP_NEXT)
            s = fpu_area_write(sv, a, FPU_XSTATE_BV, header, header_bytes);
        if (s != STEP_NEXT || !a->is_question)
            return s;
        a->is_question = false;
    }
}

/* The meaning of bytes of components in the initial state must be written out before they are copied. XSTATE_BV stays as it was. */
static void xsave_materialise(struct soft_vcpu *sv, uint64_t which)
{
    uint64_t in_use = fpu_get(sv, FPU_XSTATE_BV, 8);
    for (unsigned i = 0; i < FPU_COMPONENTS; i++)
        if (which >> i & 1)
            fpu_materialise(sv, i);
    fpu_set(sv, FPU_XSTATE_BV, 8, in_use);
}

static uint64_t xsave_mask(const struct soft_vcpu *sv)
{
    return misc_edx_eax(sv) & sv->v.cpu.xcr0;
}

/* XSAVE and XSAVEOPT: standard format; XSTATE_BV outside the request is kept. */
static enum step xsave_standard(struct soft_vcpu *sv, const struct insn *in, bool omits_initial)
{
    uint16_t offset[FPU_COMPONENTS];
    uint64_t rfbm = xsave_mask(sv), old_bv;
    struct fpu_area a;
    xsave_layout(rfbm, false, offset);
    enum step s = xsave_begin(sv, false);
    if (s == STEP_NEXT)
        s = fpu_area_begin(sv, in, 64, &a);
    if (s == STEP_NEXT)
        s = xsave_probe(sv, &a, rfbm, offset);
    if (s == STEP_NEXT)
        s = fpu_area_read(sv, &a, FPU_XSTATE_BV, &old_bv, 8);
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    uint64_t in_use = xsave_in_use(sv, in, false), which = omits_initial ? rfbm & in_use : rfbm;
    uint64_t new_bv = (old_bv & ~rfbm) | (in_use & rfbm);
    xsave_materialise(sv, which);
    return xsave_put(sv, &a, which, rfbm & (XCR0_SSE | XCR0_AVX), offset, &new_bv, sizeof new_bv);
}

enum step help_xsave(struct soft_vcpu *sv, const struct insn *in)
{
    return xsave_standard(sv, in, false);
}

enum step help_xsaveopt(struct soft_vcpu *sv, const struct insn *in)
{
    return xsave_standard(sv, in, true);
}

static enum step xsave_compacted(struct soft_vcpu *sv, const struct insn *in, bool is_supervisor)
{
    uint16_t offset[FPU_COMPONENTS];
    uint64_t rfbm = xsave_mask(sv);
    struct fpu_area a;
    xsave_layout(rfbm, true, offset);
    enum step s = xsave_begin(sv, is_supervisor);
    if (s == STEP_NEXT)
        s = fpu_area_begin(sv, in, 64, &a);
    if (s == STEP_NEXT)
        s = xsave_probe(sv, &a, rfbm, offset);
    if (s != STEP_NEXT)
        return s;
    fp_put(sv);
    uint64_t which = rfbm & xsave_in_use(sv, in, true), header[2] = { which, rfbm | XSAVE_COMPACTED };
    xsave_materialise(sv, which);
    return xsave_put(sv, &a, which, which & XCR0_SSE, offset, header, sizeof(header));
}

enum step help_xsavec(struct soft_vcpu *sv, const struct insn *in)
{
    return xsave_compacted(sv, in, false);
}

enum step help_xsaves(struct soft_vcpu *sv, const struct insn *in)
{
    return xsave_compacted(sv, in, true);
}

/* The header's rules without those for XSTATE_BV, SDM vol. 1, "Standard Form of XRSTOR" and "Compacted Form of XRSTOR". */
static bool xrstor_header_is_valid(const struct soft_vcpu *sv, const uint64_t header[8], bool is_supervisor)
{
    uint64_t comp = header[1], rest = header[2] | (comp & XSAVE_COMPACTED ? header[3] | header[4] | header[5] | header[6] | header[7] : 0);
    if (comp & XSAVE_COMPACTED)
        return !rest && !(comp & ~(sv->v.cpu.xcr0 | XSAVE_COMPACTED)) && (misc_cpuid(&sv->v, 0xd, 1, 0) & 2);
    return !rest && !comp && !is_supervisor;
}

/* What XRSTOR does to MXCSR: 0 nothing, 1 load, 2 initialise. The standard form loads it whenever SSE or AVX is asked for. */
enum mxcsr_action { MXCSR_KEEP, MXCSR_LOAD, MXCSR_INITIALISE };

static enum mxcsr_action xrstor_mxcsr_action(uint64_t rfbm, uint64_t bv, bool is_compacted)
{
    if (!is_compacted)
        return rfbm & (XCR0_SSE | XCR0_AVX) ? MXCSR_LOAD : MXCSR_KEEP;
    if (!(rfbm & XCR0_SSE))
        return MXCSR_KEEP;
    return bv & XCR0_SSE ? MXCSR_LOAD : MXCSR_INITIALISE;
}

static void xrstor_x87(struct soft_vcpu *sv, const struct insn *in, uint8_t *area)
{
    if (!in->rex_w) {
        light_fill(&area[FPU_FIP + 4], 0, 4);
        light_fill(&area[FPU_FDP + 4], 0, 4);
    }
    light_copy(sv->v.cpu.xsave, area, FPU_MXCSR);
    light_copy(&sv->v.cpu.xsave[FPU_ST], &area[FPU_ST], FPU_XMM - FPU_ST);
    fpu_settle_control(sv);
}

/* One requested component: from the area, or initial. Registers that the mode cannot name keep their values either way. */
static void xrstor_component(struct soft_vcpu *sv, const struct insn *in, unsigned i, uint8_t *area, unsigned offset, bool is_loaded)
{
    unsigned bytes = xsave_component_bytes(in, i), full = fpu_component(i)->bytes;
    if (!is_loaded && bytes == full) {
        fpu_make_initial(sv, i);
        return;
    }
    if (bytes == 0 || (!is_loaded && !fpu_in_use(sv, i)))
        return;
    fpu_materialise(sv, i);
    if (i == FPU_COMP_X87)
        xrstor_x87(sv, in, area);
    else if (is_loaded)
        light_copy(&sv->v.cpu.xsave[fpu_component(i)->offset], area + offset, bytes);
    else
        light_fill(&sv->v.cpu.xsave[fpu_component(i)->offset], 0, bytes);
}

/* Reads what will be loaded into `area`, and no more: a part that is not asked for need not be there. */
static enum step xrstor_fetch(struct soft_vcpu *sv, const struct fpu_area *a, uint64_t which, bool has_mxcsr, const uint16_t *offset, uint8_t *area)
{
    enum step s = STEP_NEXT;
    if (which & XCR0_X87)
        s = fpu_area_read(sv, a, 0, area, FPU_XMM);
    if (s == STEP_NEXT && has_mxcsr)
        s = fpu_area_read(sv, a, FPU_MXCSR, area + FPU_MXCSR, 4);
    for (unsigned i = 1; i < FPU_COMPONENTS && s == STEP_NEXT; i++)
        if (which >> i & 1)
            s = fpu_area_read(sv, a, offset[i], area + offset[i], fpu_component(i)->bytes);
    return s;
}

/* Looked at before the header is judged, but for its format, and even if nothing is loaded from there (measured): the area's end and, by what is requested, its
 * beginning. */
static enum step xrstor_touch(struct soft_vcpu *sv, struct fpu_area *a, uint64_t rfbm, unsigned total)
{
    uint8_t byte;
    a->is_check = true;
    enum step s = fpu_area_read(sv, a, total - 1, &byte, 1);
    if (s == STEP_NEXT && (rfbm & XCR0_X87))
        s = fpu_area_read(sv, a, 0, &byte, 1);
    if (s == STEP_NEXT && (rfbm & (XCR0_SSE | XCR0_AVX)))
        s = fpu_area_read(sv, a, FPU_MXCSR, &byte, 1);
    a->is_check = false;
    return s;
}

static enum step xrstor(struct soft_vcpu *sv, const struct insn *in, bool is_supervisor)
{
    uint8_t area[XSAVE_AREA_BYTES];
    uint16_t offset[FPU_COMPONENTS];
    uint64_t header[8], rfbm = xsave_mask(sv);
    uint32_t mxcsr;
    struct fpu_area a;
    enum step s = xsave_begin(sv, is_supervisor);
    if (s == STEP_NEXT)
        s = fpu_area_begin(sv, in, 64, &a);
    if (s == STEP_NEXT)
        s = fpu_area_read(sv, &a, FPU_XCOMP_BV, &header[1], sizeof(header) - 8);
    if (s != STEP_NEXT)
        return s;
    bool is_compacted = header[1] & XSAVE_COMPACTED, is_valid = xrstor_header_is_valid(sv, header, is_supervisor);
    if (is_compacted && !is_valid)
        return step_fault_code(sv, VEC_GP, 0);
    s = xrstor_touch(sv, &a, rfbm, xsave_layout(is_compacted ? header[1] : rfbm, is_compacted, offset));
    if (s == STEP_NEXT && !is_valid)
        s = step_fault_code(sv, VEC_GP, 0);
    if (s == STEP_NEXT)
        s = fpu_area_read(sv, &a, FPU_XSTATE_BV, &header[0], 8);
    if (s == STEP_NEXT && (header[0] & ~(is_compacted ? header[1] : sv->v.cpu.xcr0)))
        s = step_fault_code(sv, VEC_GP, 0);
    if (s != STEP_NEXT)
        return s;
    enum mxcsr_action action = xrstor_mxcsr_action(rfbm, header[0], is_compacted);
    s = xrstor_fetch(sv, &a, rfbm & header[0], action == MXCSR_LOAD, offset, area);
    if (s != STEP_NEXT)
        return s;
    light_copy(&mxcsr, &area[FPU_MXCSR], 4);
    fp_put(sv);
    if (action == MXCSR_LOAD && (mxcsr & ~fpu_mxcsr_mask(sv)))
        return step_fault_code(sv, VEC_GP, 0);
    for (unsigned i = 0; i < FPU_COMPONENTS; i++)
        if (rfbm >> i & 1)
            xrstor_component(sv, in, i, area, offset[i], header[0] >> i & 1);
    if (action != MXCSR_KEEP)
        fpu_set(sv, FPU_MXCSR, 4, action == MXCSR_LOAD ? mxcsr : FPU_MXCSR_INIT);
    return STEP_NEXT;
}

enum step help_xrstor(struct soft_vcpu *sv, const struct insn *in)
{
    return xrstor(sv, in, false);
}

enum step help_xrstors(struct soft_vcpu *sv, const struct insn *in)
{
    return xrstor(sv, in, true);
}
