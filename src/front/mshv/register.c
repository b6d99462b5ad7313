/* SPDX-License-Identifier: MIT */
/*
 * The registers of a VP by name: one table of ranges, each with how to read and write what it names. Values are 128 bits wide. Whether a vCPU can be in such a
 * state as the registers make together is asked when it runs, as they come in any order. vcpu.lock is held.
 */
#include <string.h>

#include "core/xsave.h"
#include "front/mshv/mshv_priv.h"

struct range {
    struct mshv_register_range names;
    /* n counts from the first name of the range. Get returns a status too: not every MSR is there. */
    int (*get)(struct mshv_vp *vp, unsigned n, struct mshv_value *out);
    int (*set)(struct mshv_vp *vp, unsigned n, const struct mshv_value *in); /* NULL: read-only */
    bool is_mode;                                                            /* the engine has to be told of a change */
    uint32_t msr, msr_stride;                                                /* for msr_get and msr_set */
};

/* ---- segments, events: the page's too ---- */

void mshv_segment_from(struct mshv_segment *out, const struct segment *in)
{
    *out = (struct mshv_segment){ .base = in->base, .limit = in->limit, .selector = in->selector, .attributes = (uint16_t)(segment_attributes(in) >> 8) };
}

void mshv_segment_to(struct segment *out, const struct mshv_segment *in)
{
    *out = segment_make(in->selector, (uint32_t)in->attributes << 8, in->limit, in->base);
}

#define PENDING 1u
#define PENDING_TYPE_SHIFT 1
#define PENDING_HAS_CODE (1u << 4)
#define PENDING_VECTOR_SHIFT 16
enum { PENDING_EXTERNAL, PENDING_NMI = 2, PENDING_EXCEPTION };

uint64_t mshv_pending_interruption(const struct vcpu *v)
{
    const struct vcpu_events *ev = &v->ev;
    if (ev->exception.pending)
        return PENDING | PENDING_EXCEPTION << PENDING_TYPE_SHIFT | (ev->exception.has_code ? PENDING_HAS_CODE : 0) |
               (uint32_t)ev->exception.vector << PENDING_VECTOR_SHIFT | (uint64_t)ev->exception.code << 32;
    if (ev->interrupt.injected)
        return PENDING | PENDING_EXTERNAL << PENDING_TYPE_SHIFT | (uint32_t)ev->interrupt.vector << PENDING_VECTOR_SHIFT;
    return 0;
}

#define STATE_SHADOW 1u
#define STATE_NMI_MASKED 2u

uint64_t mshv_interrupt_state(const struct vcpu *v)
{
    return (v->cpu.interrupt_shadow ? STATE_SHADOW : 0) | (v->cpu.nmi_masked ? STATE_NMI_MASKED : 0);
}

void mshv_rip_set(struct mshv_vp *vp, uint64_t rip)
{
    if (rip != vp->v->cpu.rip)
        vcpu_leave_instruction(vp->v);
    vp->v->cpu.rip = rip;
}

/* ---- kinds of registers ---- */

#define GET(name) static int name(struct mshv_vp *vp, unsigned n, struct mshv_value *out)
#define SET(name) static int name(struct mshv_vp *vp, unsigned n, const struct mshv_value *in)
#define OK MSHV_STATUS_SUCCESS
#define BAD MSHV_STATUS_INVALID_REGISTER_VALUE

GET(gpr_get)
{
    out->low = vp->v->cpu.gpr[n];
    return OK;
}

SET(gpr_set)
{
    vp->v->cpu.gpr[n] = in->low;
    return OK;
}

GET(rip_get)
{
    out->low = n ? vp->v->cpu.rflags : vp->v->cpu.rip;
    return OK;
}

SET(rip_set)
{
    (void)n;
    mshv_rip_set(vp, in->low);
    return OK;
}

SET(rflags_set)
{
    (void)n;
    if (in->low >> 32)
        return BAD;
    vp->v->cpu.rflags = in->low | RFLAGS_RES1;
    return OK;
}

GET(rflags_get)
{
    return rip_get(vp, n + 1, out);
}

/* A register of 16 bytes in the XSAVE area. */
static void fpu_get(struct mshv_vp *vp, unsigned at, struct mshv_value *out)
{
    uint8_t area[XSAVE_AREA_BYTES];
    vcpu_xsave_get(vp->v, area);
    memcpy(out, area + at, sizeof *out);
}

static int fpu_set(struct mshv_vp *vp, unsigned at, unsigned component, const struct mshv_value *in)
{
    uint8_t area[XSAVE_AREA_BYTES];
    vcpu_xsave_get(vp->v, area);
    memcpy(area + at, in, sizeof *in);
    area[XS_BV] |= (uint8_t)component;
    return vcpu_xsave_set(vp->v, area) ? BAD : OK;
}

GET(xmm_get)
{
    fpu_get(vp, XS_XMM + 16 * n, out);
    return OK;
}

SET(xmm_set)
{
    return fpu_set(vp, XS_XMM + 16 * n, XCR0_SSE, in);
}

GET(mmx_get)
{
    fpu_get(vp, XS_ST + 16 * n, out);
    out->high &= 0xffff;
    return OK;
}

SET(mmx_set)
{
    const struct mshv_value value = { in->low, in->high & 0xffff };
    return fpu_set(vp, XS_ST + 16 * n, XCR0_X87, &value);
}

/* Control words and pointers stand there as in the area's first 32 bytes. */
GET(fpu_control_get)
{
    fpu_get(vp, 16 * n, out);
    return OK;
}

SET(fpu_control_set)
{
    struct mshv_value value = *in;
    if (n) /* the mask is the processor's to tell */
        value.high = (uint32_t)in->high | (uint64_t)XS_MXCSR_MASK << 32;
    return fpu_set(vp, 16 * n, n ? XCR0_SSE | XCR0_X87 : XCR0_X87, &value);
}

enum { CR0 = 0, CR2, CR3, CR4, CR8, XFEM };

GET(cr_get)
{
    const struct cpu_state *cpu = &vp->v->cpu;
    const uint64_t values[] = { cpu->cr0, cpu->cr2, cpu->cr3, cpu->cr4, vcpu_cr8_get(vp->v), cpu->xcr0 };
    out->low = values[n];
    return OK;
}

SET(cr_set)
{
    struct cpu_state *cpu = &vp->v->cpu;
    uint64_t *const plain[] = { [CR2] = &cpu->cr2, [CR3] = &cpu->cr3, [CR4] = &cpu->cr4 };
    if ((n == CR0 && in->low >> 32) || (n == CR4 && in->low >> 32) || (n == CR8 && in->low > 15) || (n == XFEM && !vcpu_can_have_xcr0(in->low)))
        return BAD;
    if (n == CR0)
        cpu->cr0 = in->low | CR0_ET;
    else if (n == CR8)
        vcpu_cr8_set(vp->v, in->low);
    else if (n == XFEM)
        cpu->xcr0 = in->low;
    else
        *plain[n] = in->low;
    return OK;
}

/* Without nested virtualization the same as those. */
static const uint8_t intermediate_cr[] = { CR0, CR2, CR3, CR4, CR8 };

GET(intermediate_get)
{
    return cr_get(vp, intermediate_cr[n], out);
}

SET(intermediate_set)
{
    return cr_set(vp, intermediate_cr[n], in);
}

#define N_DR 4u

GET(dr_get)
{
    const struct cpu_state *cpu = &vp->v->cpu;
    out->low = n < N_DR ? cpu->dr[n] : n == N_DR ? cpu->dr6 : cpu->dr7;
    return OK;
}

SET(dr_set)
{
    struct cpu_state *cpu = &vp->v->cpu;
    if (n >= N_DR && in->low >> 32)
        return BAD;
    if (n < N_DR)
        cpu->dr[n] = in->low;
    else if (n == N_DR)
        cpu->dr6 = (in->low & DR6_WRITABLE) | DR6_FIXED_1;
    else
        cpu->dr7 = (in->low & DR7_WRITABLE) | DR7_FIXED_1;
    return OK;
}

static struct segment *segment_of(struct cpu_state *cpu, unsigned n)
{
    return n < SEG_COUNT ? &cpu->seg[n] : n == SEG_COUNT ? &cpu->ldtr : &cpu->tr;
}

GET(segment_get)
{
    struct mshv_segment s;
    mshv_segment_from(&s, segment_of(&vp->v->cpu, n));
    memcpy(out, &s, sizeof *out);
    return OK;
}

SET(segment_set)
{
    struct mshv_segment s;
    memcpy(&s, in, sizeof s);
    mshv_segment_to(segment_of(&vp->v->cpu, n), &s);
    return OK;
}

GET(table_get)
{
    const struct desc_table *t = n ? &vp->v->cpu.gdtr : &vp->v->cpu.idtr;
    const struct mshv_table value = { .limit = t->limit, .base = t->base };
    memcpy(out, &value, sizeof *out);
    return OK;
}

SET(table_set)
{
    struct mshv_table value;
    memcpy(&value, in, sizeof value);
    *(n ? &vp->v->cpu.gdtr : &vp->v->cpu.idtr) = (struct desc_table){ .base = value.base, .limit = value.limit };
    return OK;
}

GET(efer_get)
{
    (void)n;
    out->low = vp->v->cpu.efer;
    return OK;
}

SET(efer_set)
{
    (void)n;
    if (in->low & ~EFER_KNOWN)
        return BAD;
    vp->v->cpu.efer = in->low;
    return OK;
}

GET(id_get)
{
    (void)n;
    out->low = vp->v->id;
    return OK;
}

/* A VP's index is its APIC id. */
SET(id_set)
{
    (void)n;
    return in->low == vp->v->id ? OK : BAD;
}

/* ---- what the VP does, and what is pending ---- */

GET(suspend_get)
{
    out->low = n ? vp->is_intercept_suspended : vp->is_explicitly_suspended;
    return OK;
}

SET(suspend_set)
{
    if (in->low > 1)
        return BAD;
    *(n ? &vp->is_intercept_suspended : &vp->is_explicitly_suspended) = in->low;
    return OK;
}

#define ACTIVITY_STARTUP 1u
#define ACTIVITY_HALT 2u

GET(activity_get)
{
    uint32_t state = atomic_load(&vp->v->mp_state);
    (void)n;
    out->low = state == MP_INIT_RECEIVED || state == MP_UNINITIALIZED ? ACTIVITY_STARTUP : state == MP_HALTED ? ACTIVITY_HALT : 0;
    return OK;
}

SET(activity_set)
{
    (void)n;
    if (in->low & ~(uint64_t)(ACTIVITY_STARTUP | ACTIVITY_HALT))
        return BAD;
    atomic_store(&vp->v->mp_state, in->low & ACTIVITY_STARTUP ? MP_INIT_RECEIVED : in->low & ACTIVITY_HALT ? MP_HALTED : MP_RUNNABLE);
    vcpu_request(vp->v, VREQ_EVENT);
    return OK;
}

GET(pending_get)
{
    out->low = n ? mshv_interrupt_state(vp->v) : mshv_pending_interruption(vp->v);
    return OK;
}

static int pending_set_interruption(struct vcpu *v, uint64_t value)
{
    struct vcpu_events *ev = &v->ev;
    unsigned type = value >> PENDING_TYPE_SHIFT & 7, vector = value >> PENDING_VECTOR_SHIFT & 0xffff;
    if ((value & PENDING) && (vector > 0xff || (type != PENDING_EXTERNAL && type != PENDING_NMI && type != PENDING_EXCEPTION)))
        return BAD;
    ev->exception.pending = ev->interrupt.injected = false;
    if (!(value & PENDING))
        return OK;
    if (type == PENDING_NMI) {
        atomic_store(&ev->nmi_pending, 1);
    } else if (type == PENDING_EXTERNAL) {
        ev->interrupt.injected = true;
        ev->interrupt.soft = false;
        ev->interrupt.vector = (uint8_t)vector;
    } else {
        vcpu_queue_exception(v, (uint8_t)vector);
        ev->exception.has_code = value & PENDING_HAS_CODE;
        ev->exception.code = (uint32_t)(value >> 32);
    }
    vcpu_request(v, VREQ_EVENT);
    return OK;
}

SET(pending_set)
{
    if (!n)
        return pending_set_interruption(vp->v, in->low);
    if (in->low & ~(uint64_t)(STATE_SHADOW | STATE_NMI_MASKED))
        return BAD;
    vp->v->cpu.interrupt_shadow = in->low & STATE_SHADOW ? SHADOW_STI : 0;
    vp->v->cpu.nmi_masked = in->low & STATE_NMI_MASKED;
    return OK;
}

/* ---- the table ---- */

/* Those that guests have as MSRs. */
static int msr_get(struct mshv_vp *vp, const struct range *r, unsigned n, struct mshv_value *out)
{
    return vcpu_msr_read(vp->v, r->msr + n * r->msr_stride, &out->low, true) ? MSHV_STATUS_INVALID_PARAMETER : OK;
}

static int msr_set(struct mshv_vp *vp, const struct range *r, unsigned n, const struct mshv_value *in)
{
    int error = vcpu_msr_write(vp->v, r->msr + n * r->msr_stride, in->low, true);
    return !error ? OK : error == -ENOENT ? MSHV_STATUS_INVALID_PARAMETER : BAD;
}

#define STATE(first, last, name, get, set)          \
    {                                               \
        { first, last, name }, get, set, true, 0, 0 \
    }
#define PLAIN(first, last, name, get, set)           \
    {                                                \
        { first, last, name }, get, set, false, 0, 0 \
    }
#define MSR(first, last, name, index, stride)                  \
    {                                                          \
        { first, last, name }, NULL, NULL, true, index, stride \
    }

/* clang-format off */
static const struct range ranges[] = {
    PLAIN(0x00000, 0x00001, "EXPLICIT_SUSPEND, INTERCEPT_SUSPEND", suspend_get, suspend_set),
    PLAIN(0x00004, 0x00004, "INTERNAL_ACTIVITY_STATE", activity_get, activity_set),
    STATE(0x10002, 0x10003, "PENDING_INTERRUPTION, INTERRUPT_STATE", pending_get, pending_set),
    PLAIN(0x20000, 0x2000f, "RAX-R15", gpr_get, gpr_set),
    PLAIN(0x20010, 0x20010, "RIP", rip_get, rip_set),
    STATE(0x20011, 0x20011, "RFLAGS", rflags_get, rflags_set),
    PLAIN(0x30000, 0x3000f, "XMM0-XMM15", xmm_get, xmm_set),
    PLAIN(0x30010, 0x30017, "FP_MMX0-FP_MMX7", mmx_get, mmx_set),
    PLAIN(0x30018, 0x30019, "FP_CONTROL_STATUS, XMM_CONTROL_STATUS", fpu_control_get, fpu_control_set),
    STATE(0x40000, 0x40005, "CR0, CR2, CR3, CR4, CR8, XFEM", cr_get, cr_set),
    STATE(0x41000, 0x41004, "INTERMEDIATE_CR0-CR8", intermediate_get, intermediate_set),
    STATE(0x50000, 0x50005, "DR0-DR3, DR6, DR7", dr_get, dr_set),
    STATE(0x60000, 0x60007, "ES, CS, SS, DS, FS, GS, LDTR, TR", segment_get, segment_set),
    STATE(0x70000, 0x70001, "IDTR, GDTR", table_get, table_set),
    MSR(0x80000, 0x80000, "TSC", MSR_TSC, 0),
    STATE(0x80001, 0x80001, "EFER", efer_get, efer_set),
    MSR(0x80002, 0x80002, "KERNEL_GS_BASE", MSR_KERNEL_GS_BASE, 0),
    MSR(0x80003, 0x80003, "APIC_BASE", MSR_APIC_BASE, 0),
    MSR(0x80004, 0x80004, "PAT", MSR_PAT, 0),
    MSR(0x80005, 0x80005, "SYSENTER_CS", MSR_SYSENTER_CS, 0),
    MSR(0x80006, 0x80006, "SYSENTER_EIP", MSR_SYSENTER_EIP, 0),
    MSR(0x80007, 0x80007, "SYSENTER_ESP", MSR_SYSENTER_ESP, 0),
    MSR(0x80008, 0x8000b, "STAR, LSTAR, CSTAR, SFMASK", MSR_STAR, 1),
    PLAIN(0x8000c, 0x8000c, "INITIAL_APIC_ID", id_get, id_set),
    MSR(0x8000d, 0x8000d, "MTRR_CAP", MSR_MTRR_CAP, 0),
    MSR(0x8000e, 0x8000e, "MTRR_DEF_TYPE", MSR_MTRR_DEF_TYPE, 0),
    MSR(0x80010, 0x8001f, "MTRR_PHYS_BASE0-F", MSR_MTRR_PHYSBASE0, 2),
    MSR(0x80040, 0x8004f, "MTRR_PHYS_MASK0-F", MSR_MTRR_PHYSBASE0 + 1, 2),
    MSR(0x80070, 0x80070, "MTRR_FIX64K", MSR_MTRR_FIX64K, 0),
    MSR(0x80071, 0x80072, "MTRR_FIX16K", MSR_MTRR_FIX16K_80000, 1),
    MSR(0x80073, 0x8007a, "MTRR_FIX4K", MSR_MTRR_FIX4K_C0000, 1),
    MSR(0x8007b, 0x8007b, "TSC_AUX", MSR_TSC_AUX, 0),
    MSR(0x8007d, 0x8007d, "DEBUG_CTL", MSR_DEBUGCTL, 0),
    MSR(0x80084, 0x80085, "SPEC_CTRL, PRED_CMD", MSR_SPEC_CTRL, 1),
    MSR(0x80096, 0x80096, "TSC_ADJUST", MSR_TSC_ADJUST, 0),
    MSR(0x800a0, 0x800a0, "MISC_ENABLE", MSR_MISC_ENABLE, 0),
    PLAIN(0x84802, 0x84802, "APIC_ID", id_get, id_set),
    PLAIN(0x90003, 0x90003, "VP_INDEX", id_get, NULL),
};
/* clang-format on */
#define N_RANGES (sizeof(ranges) / sizeof(ranges[0]))

const struct mshv_register_range *mshv_register_names(unsigned *n)
{
    static struct mshv_register_range names[N_RANGES];
    for (unsigned i = 0; i < N_RANGES; i++)
        names[i] = ranges[i].names;
    *n = N_RANGES;
    return names;
}

static const struct range *range_find(uint32_t name)
{
    for (unsigned i = 0; i < N_RANGES; i++)
        if (name >= ranges[i].names.first && name <= ranges[i].names.last)
            return &ranges[i];
    return NULL;
}

static bool has_vtl(const struct mshv_call_state *s)
{
    return ((const struct mshv_registers_in *)(const void *)s->in)->vtl;
}

int mshv_register_handle_get(struct mshv_call_state *s, unsigned rep)
{
    struct mshv_value value = { 0 };
    uint32_t name;
    memcpy(&name, s->in + sizeof(struct mshv_registers_in) + rep * sizeof name, sizeof name);
    const struct range *r = range_find(name);
    if (!r || has_vtl(s))
        return MSHV_STATUS_INVALID_PARAMETER;
    int status = r->get ? r->get(s->vp, name - r->names.first, &value) : msr_get(s->vp, r, name - r->names.first, &value);
    memcpy(s->out + rep * sizeof value, &value, sizeof value);
    return status;
}

int mshv_register_handle_set(struct mshv_call_state *s, unsigned rep)
{
    struct mshv_assoc a;
    memcpy(&a, s->in + sizeof(struct mshv_registers_in) + rep * sizeof a, sizeof a);
    const struct range *r = range_find(a.name);
    if (!r || has_vtl(s) || (r->get && !r->set))
        return MSHV_STATUS_INVALID_PARAMETER;
    s->is_mode_changed |= r->is_mode;
    return r->set ? r->set(s->vp, a.name - r->names.first, &a.value) : msr_set(s->vp, r, a.name - r->names.first, &a.value);
}
