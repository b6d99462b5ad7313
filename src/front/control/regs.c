/* SPDX-License-Identifier: MIT */
/* Registers and translations of a vCPU, on the vCPU's own thread if it runs (core/hold.h). See control.h. */
#include <errno.h>
#include <string.h>

#include "core/hold.h"
#include "core/xsave.h"
#include "front/control/control_priv.h"
#include "introspect/walk.h"

static const unsigned segment_order[VITRINE_SEGMENTS] = {
    [VITRINE_ES] = SEG_ES, [VITRINE_CS] = SEG_CS, [VITRINE_SS] = SEG_SS, [VITRINE_DS] = SEG_DS, [VITRINE_FS] = SEG_FS, [VITRINE_GS] = SEG_GS,
};
_Static_assert(sizeof((struct vitrine_regs){ 0 }.gpr) == sizeof((struct cpu_state){ 0 }.gpr), "the same registers in the same order");

static struct vitrine_segment segment_to(const struct segment *s)
{
    return (struct vitrine_segment){ .base = s->base, .limit = s->limit, .selector = s->selector, .attributes = (uint16_t)(segment_attributes(s) >> 8) };
}

static struct segment segment_from(const struct vitrine_segment *s)
{
    return segment_make(s->selector, (uint32_t)s->attributes << 8, s->limit, s->base);
}

static void tables_get(const struct cpu_state *c, struct vitrine_regs *out)
{
    for (unsigned i = 0; i < VITRINE_LDTR; i++)
        out->segment[i] = segment_to(&c->seg[segment_order[i]]);
    out->segment[VITRINE_LDTR] = segment_to(&c->ldtr);
    out->segment[VITRINE_TR] = segment_to(&c->tr);
    out->gdtr_base = c->gdtr.base;
    out->gdtr_limit = c->gdtr.limit;
    out->idtr_base = c->idtr.base;
    out->idtr_limit = c->idtr.limit;
}

static void msrs_get(struct vcpu *v, struct vitrine_regs *out)
{
    const struct cpu_state *c = &v->cpu;
    out->star = c->star;
    out->lstar = c->lstar;
    out->cstar = c->cstar;
    out->sfmask = c->sfmask;
    out->kernel_gs_base = c->kernel_gs_base;
    out->sysenter_cs = c->sysenter_cs;
    out->sysenter_esp = c->sysenter_esp;
    out->sysenter_eip = c->sysenter_eip;
    out->pat = c->pat;
    out->tsc_aux = c->tsc_aux;
    out->apic_base = c->apic_base;
    out->tsc = vcpu_tsc(v);
}

static void regs_get(struct vcpu *v, void *arg)
{
    struct vitrine_regs *out = arg;
    const struct cpu_state *c = &v->cpu;
    memset(out, 0, sizeof *out);
    memcpy(out->gpr, c->gpr, sizeof out->gpr);
    out->rip = c->rip;
    out->rflags = c->rflags;
    tables_get(c, out);
    out->cr0 = c->cr0;
    out->cr2 = c->cr2;
    out->cr3 = c->cr3;
    out->cr4 = c->cr4;
    out->cr8 = vcpu_cr8_get(v);
    out->xcr0 = c->xcr0;
    out->efer = c->efer;
    memcpy(out->dr, c->dr, sizeof out->dr);
    out->dr6 = c->dr6;
    out->dr7 = c->dr7;
    msrs_get(v, out);
}

int control_get_regs(struct control_arg *a)
{
    hold_call(a->vcpu, regs_get, a->out);
    a->out_bytes = sizeof(struct vitrine_regs);
    return 0;
}

/* ---- set ---- */

struct regs_change {
    const struct vitrine_regs *regs;
    int result;
};

static void control_registers_set(struct vcpu *v, const struct vitrine_regs *in)
{
    struct cpu_state *c = &v->cpu;
    c->cr0 = in->cr0 | CR0_ET;
    c->cr2 = in->cr2;
    c->cr3 = in->cr3;
    c->cr4 = in->cr4;
    c->efer = in->efer & EFER_KNOWN;
    c->xcr0 = in->xcr0;
    vcpu_cr8_set(v, in->cr8 & 15);
    memcpy(c->dr, in->dr, sizeof c->dr);
    c->dr6 = (in->dr6 & 0xffffffff) | DR6_FIXED_1;
    c->dr7 = (in->dr7 & 0xffffffff) | DR7_FIXED_1;
}

static void tables_set(struct cpu_state *c, const struct vitrine_regs *in)
{
    for (unsigned i = 0; i < VITRINE_LDTR; i++)
        c->seg[segment_order[i]] = segment_from(&in->segment[i]);
    c->ldtr = segment_from(&in->segment[VITRINE_LDTR]);
    c->tr = segment_from(&in->segment[VITRINE_TR]);
    c->gdtr = (struct desc_table){ .base = in->gdtr_base, .limit = (uint16_t)in->gdtr_limit };
    c->idtr = (struct desc_table){ .base = in->idtr_base, .limit = (uint16_t)in->idtr_limit };
}

/* By the same checks as WRMSR of the client. */
static int msrs_set(struct vcpu *v, const struct vitrine_regs *in)
{
    const struct {
        uint32_t index;
        uint64_t value;
    } msr[] = {
        { MSR_STAR, in->star },
        { MSR_LSTAR, in->lstar },
        { MSR_CSTAR, in->cstar },
        { MSR_SFMASK, in->sfmask },
        { MSR_PAT, in->pat },
        { MSR_KERNEL_GS_BASE, in->kernel_gs_base },
        { MSR_TSC_AUX, in->tsc_aux },
        { MSR_SYSENTER_CS, in->sysenter_cs },
        { MSR_SYSENTER_ESP, in->sysenter_esp },
        { MSR_SYSENTER_EIP, in->sysenter_eip },
    };
    for (unsigned i = 0; i < sizeof msr / sizeof *msr; i++) {
        uint64_t now;
        if (vcpu_msr_read(v, msr[i].index, &now, true) || now == msr[i].value)
            continue;
        if (vcpu_msr_write(v, msr[i].index, msr[i].value, true))
            return -EINVAL;
    }
    return 0;
}

static void regs_set(struct vcpu *v, void *arg)
{
    struct regs_change *change = arg;
    const struct vitrine_regs *in = change->regs;
    bool is_cs_long = in->segment[VITRINE_CS].attributes >> 13 & 1;
    change->result = vcpu_can_be(v, in->cr0, in->cr3, in->cr4, in->efer, is_cs_long) && vcpu_can_have_xcr0(in->xcr0) ? msrs_set(v, in) : -EINVAL;
    if (change->result)
        return;
    bool is_injected = v->watch.has_injected_exception && v->ev.exception.pending; /* by a tool, which may move the CPU too */
    if (in->rip != v->cpu.rip)
        vcpu_leave_instruction(v);
    v->ev.exception.pending |= is_injected;
    v->watch.has_injected_exception |= is_injected;
    memcpy(v->cpu.gpr, in->gpr, sizeof v->cpu.gpr);
    v->cpu.rip = in->rip;
    v->cpu.rflags = in->rflags | RFLAGS_RES1;
    tables_set(&v->cpu, in);
    control_registers_set(v, in);
    vcpu_load_pdptes(v);
    v->vm->engine->state_changed(v);
    vcpu_request(v, VREQ_EVENT);
}

int control_set_regs(struct control_arg *a)
{
    struct regs_change change = { .regs = (const void *)((const struct control_vcpu *)a->in + 1) };
    hold_call(a->vcpu, regs_set, &change);
    return change.result;
}

/* ---- translate ---- */

static void paging_get(struct vcpu *v, void *arg)
{
    look_paging_of(v, arg);
}

_Static_assert((int)WALK_NO_MEMORY == (int)VITRINE_WALK_NO_MEMORY && (int)WALK_RESERVED == (int)VITRINE_WALK_RESERVED, "the same reasons");

int control_translate(struct control_arg *a)
{
    const struct control_vcpu *in = a->in;
    struct vitrine_translation *out = a->out;
    struct look_paging paging;
    struct look_walk w;
    hold_call(a->vcpu, paging_get, &paging);
    look_walk(a->vm, &paging, in->gva, &w);
    *out = (struct vitrine_translation){ .gva = in->gva,
                                         .gpa = w.gpa,
                                         .result = w.result,
                                         .level = w.level,
                                         .entry = w.entry,
                                         .page_bytes = w.page_bytes,
                                         .is_writeable = w.is_writeable,
                                         .is_user = w.is_user,
                                         .is_executable = w.is_executable };
    a->out_bytes = sizeof *out;
    return 0;
}
