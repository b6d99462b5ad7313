/* SPDX-License-Identifier: MIT */
/*
 * Delivery of events through the IVT or the IDT in every mode, and the instructions that raise them (SDM vol. 3A, "Interrupt and Exception Handling"; vol. 2,
 * "INT n/INTO/INT3/INT1"). Not here: which event goes first and whether it may (run.c), the task switch behind a task gate (help_task.c).
 * A fault during delivery replaces the event or becomes a double fault in a loop here. Runs on the vCPU's thread; no lock.
 */
#include "engine/soft/help_control.h"
#include "engine/soft/transfer.h"

/* One event on its way. */
struct event {
    enum event_kind kind;
    uint8_t vector;
    bool has_code;
    uint32_t code;
    uint64_t rip;   /* pushed */
    uint64_t flags; /* pushed */
    uint32_t ext;   /* EXT bit of error codes raised on the way */
};

/* DR6 bits that a #DB payload may carry: B0-B3, BD, BS, BT. */
#define DR6_PAYLOAD (15u | DR6_BD | DR6_BS | DR6_BT)

static enum step int_gp_gate(struct soft_vcpu *sv, const struct event *ev, unsigned vector)
{
    return step_fault_code(sv, vector, ev->vector * 8u + 2 + ev->ext);
}

/* ---- real mode ---- */

static enum step deliver_real(struct soft_vcpu *sv, const struct event *ev)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    uint16_t entry[2];
    uint64_t items[3] = { ev->flags, cpu->seg[SEG_CS].selector, ev->rip };
    if (ev->vector * 4u + 3 > cpu->idtr.limit)
        return int_gp_gate(sv, ev, VEC_GP);
    enum step step = linear_read(sv, (uint32_t)(cpu->idtr.base + ev->vector * 4u), entry, 4, ACCESS_READ | ACCESS_IMPLICIT);
    if (step == STEP_NEXT)
        step = transfer_check_rip(sv, &cpu->seg[SEG_CS], entry[0], ev->ext);
    if (step != STEP_NEXT)
        return step;
    transfer_current_stack(sv, &st);
    step = transfer_push(sv, &st, items, 3, 2);
    if (step != STEP_NEXT)
        return step;
    cpu->gpr[GPR_RSP] = st.sp;
    cpu->rflags &= ~(uint64_t)(RFLAGS_IF | RFLAGS_TF | RFLAGS_AC | RFLAGS_RF);
    desc_set_8086(sv, &cpu->seg[SEG_CS], entry[1]);
    cpu->rip = entry[0];
    return STEP_JUMP;
}

/* ---- protected and long mode ---- */

struct int_gate {
    uint16_t selector;
    uint8_t type, ist, bytes; /* bytes: of each item pushed */
    uint64_t offset;
    unsigned cpl; /* of the handler */
    bool is_inner;
    struct segment cs;
};

/* Reads the gate and checks its type, and its DPL for software interrupts. */
static enum step int_gate_read(struct soft_vcpu *sv, const struct event *ev, struct int_gate *g)
{
    const struct cpu_state *cpu = &sv->v.cpu;
    bool is_long = desc_is_long(sv);
    unsigned bytes = is_long ? 16 : 8;
    uint64_t raw[2] = { 0, 0 };
    if (ev->vector * bytes + bytes - 1 > cpu->idtr.limit)
        return int_gp_gate(sv, ev, VEC_GP);
    enum step step = linear_read(sv, desc_linear(sv, cpu->idtr.base + ev->vector * bytes), raw, bytes, ACCESS_READ | ACCESS_IMPLICIT);
    if (step != STEP_NEXT)
        return step;
    struct descriptor d = { .low = raw[0] };
    uint32_t types =
        is_long ? 1u << DESC_INT | 1u << DESC_TRAP : 1u << DESC_TASK_GATE | 1u << DESC_INT16 | 1u << DESC_TRAP16 | 1u << DESC_INT | 1u << DESC_TRAP;
    if (desc_is_segment(&d) || !(types >> desc_type(&d) & 1))
        return int_gp_gate(sv, ev, VEC_GP);
    if (ev->kind == EVENT_SOFT_INT && desc_dpl(&d) < vcpu_cpl(&sv->v))
        return int_gp_gate(sv, ev, VEC_GP);
    if (!desc_is_present(&d))
        return int_gp_gate(sv, ev, VEC_NP);
    g->selector = (uint16_t)(d.low >> 16);
    g->type = (uint8_t)desc_type(&d);
    g->ist = is_long ? d.low >> 32 & 7 : 0;
    g->bytes = is_long ? 8 : g->type & 8 ? 4 : 2;
    g->offset = (d.low & 0xffff) | (g->bytes == 2 ? 0 : d.low >> 48 << 16) | (is_long ? raw[1] << 32 : 0);
    return STEP_NEXT;
}

/* The handler's code segment and privilege level. */
static enum step int_gate_code(struct soft_vcpu *sv, const struct event *ev, struct int_gate *g)
{
    struct descriptor d;
    unsigned cpl = vcpu_cpl(&sv->v);
    uint32_t error = desc_error(g->selector, ev->ext);
    if (desc_is_null(g->selector))
        return step_fault_code(sv, VEC_GP, ev->ext);
    enum step step = desc_read(sv, g->selector, VEC_GP, ev->ext, &d);
    if (step != STEP_NEXT)
        return step;
    if (!desc_is_code(&d) || desc_dpl(&d) > cpl || (desc_is_long(sv) && !desc_is_long_code(&d)))
        return step_fault_code(sv, VEC_GP, error);
    if (!desc_is_present(&d))
        return step_fault_code(sv, VEC_NP, error);
    g->cpl = desc_is_conforming(&d) ? cpl : desc_dpl(&d);
    g->is_inner = g->cpl < cpl;
    /* From virtual-8086 mode only to ring 0. */
    if (desc_is_vm86(sv) && g->cpl != 0)
        return step_fault_code(sv, VEC_GP, error);
    desc_to_segment(&d, g->selector, &g->cs);
    g->cs.type |= SEG_TYPE_ACCESSED;
    step = transfer_check_rip(sv, &g->cs, g->offset, ev->ext);
    return step == STEP_NEXT ? desc_set_accessed(sv, &d) : step;
}

/* The handler's stack before anything is pushed. */
static enum step int_stack(struct soft_vcpu *sv, const struct event *ev, const struct int_gate *g, struct transfer_stack *st)
{
    enum step step = STEP_NEXT;
    if (g->is_inner || g->ist)
        step = transfer_tss_stack(sv, g->cpl, g->ist, ev->ext, st);
    else
        transfer_current_stack(sv, st);
    if (step != STEP_NEXT)
        return step;
    if (!g->is_inner) {
        st->ss = sv->v.cpu.seg[SEG_SS];
        st->error = ev->ext;
    }
    if (desc_is_long(sv)) {
        st->sp_bytes = 8;
        st->sp &= ~15ull;
    }
    return STEP_NEXT;
}

static enum step int_push(struct soft_vcpu *sv, const struct event *ev, const struct int_gate *g, struct transfer_stack *st)
{
    const struct cpu_state *cpu = &sv->v.cpu;
    uint64_t items[10];
    unsigned n = 0;
    if (desc_is_vm86(sv)) {
        items[n++] = cpu->seg[SEG_GS].selector;
        items[n++] = cpu->seg[SEG_FS].selector;
        items[n++] = cpu->seg[SEG_DS].selector;
        items[n++] = cpu->seg[SEG_ES].selector;
    }
    if (g->is_inner || desc_is_long(sv)) {
        items[n++] = cpu->seg[SEG_SS].selector;
        items[n++] = cpu->gpr[GPR_RSP];
    }
    items[n++] = ev->flags;
    items[n++] = cpu->seg[SEG_CS].selector;
    items[n++] = ev->rip;
    if (ev->has_code)
        items[n++] = ev->code;
    return transfer_push(sv, st, items, n, g->bytes);
}

static enum step deliver_task(struct soft_vcpu *sv, struct event *ev, const struct int_gate *g)
{
    struct task_switch ts = {
        .reason = TASK_EVENT,
        .selector = g->selector,
        .return_rip = ev->rip,
        .flags = ev->flags,
        .has_code = ev->has_code,
        .code = ev->code,
        .ext = ev->ext,
    };
    enum step step = task_switch_run(sv, &ts);
    if (step != STEP_JUMP || !ts.is_trap)
        return step;
    /* The trap of the new task's T flag is an event of its own: as a benign fault after the delivery, it is what the loop delivers next. */
    sv->fault = (struct fault){ .vector = VEC_DB, .addr = DR6_BT };
    ev->kind = EVENT_EXTERNAL;
    return STEP_FAULT;
}

static enum step deliver_protected(struct soft_vcpu *sv, struct event *ev)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    struct int_gate g;
    enum step step = int_gate_read(sv, ev, &g);
    if (step == STEP_NEXT && g.type == DESC_TASK_GATE)
        return deliver_task(sv, ev, &g);
    if (step == STEP_NEXT)
        step = int_gate_code(sv, ev, &g);
    if (step == STEP_NEXT)
        step = int_stack(sv, ev, &g, &st);
    if (step == STEP_NEXT)
        step = int_push(sv, ev, &g, &st);
    if (step != STEP_NEXT)
        return step;
    if (desc_is_vm86(sv)) {
        desc_set_null(&cpu->seg[SEG_GS], 0);
        desc_set_null(&cpu->seg[SEG_FS], 0);
        desc_set_null(&cpu->seg[SEG_DS], 0);
        desc_set_null(&cpu->seg[SEG_ES], 0);
    }
    transfer_set_stack(sv, &st, g.cpl);
    transfer_set_cs(sv, &g.cs, g.cpl);
    cpu->rip = g.offset;
    cpu->rflags &= ~(uint64_t)(RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | (g.type & 1 ? 0 : RFLAGS_IF));
    return STEP_JUMP;
}

/* ---- classes, side effects, the loop ---- */

/* Classes of the double-fault rule. */
enum fault_class { CLASS_BENIGN, CLASS_CONTRIBUTORY, CLASS_PAGE };

static enum fault_class fault_class(unsigned vector)
{
    if (vector == VEC_PF)
        return CLASS_PAGE;
    return vector == VEC_DE || (vector >= VEC_TS && vector <= VEC_GP) ? CLASS_CONTRIBUTORY : CLASS_BENIGN;
}

static bool vector_has_code(unsigned vector)
{
    return vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC;
}

/* RF as pushed: set for faults so that the instruction is not caught by its own breakpoint again; clear once an instruction has completed (traps, INT n). */
static uint64_t event_flags(const struct cpu_state *cpu, enum event_kind kind, const struct fault *f)
{
    uint64_t rf = RFLAGS_RF;
    if (kind == EVENT_SOFT_INT || kind == EVENT_ICEBP)
        return cpu->rflags & ~rf;
    if (kind != EVENT_EXCEPTION || f->vector == VEC_DF || f->vector == VEC_MC)
        return cpu->rflags;
    if (f->vector == VEC_BP || f->vector == VEC_OF || (f->vector == VEC_DB && !(f->addr & DR6_BD)))
        return cpu->rflags & ~rf;
    return cpu->rflags | rf;
}

static void event_init(const struct soft_vcpu *sv, struct event *ev, enum event_kind kind, const struct fault *f, uint64_t next_rip)
{
    bool is_soft = kind == EVENT_SOFT_INT || kind == EVENT_ICEBP;
    *ev = (struct event){
        .kind = kind,
        .vector = f->vector,
        .has_code = kind == EVENT_EXCEPTION && (f->has_code || vector_has_code(f->vector)),
        .code = f->has_code ? f->code : 0,
        .rip = is_soft ? next_rip : sv->v.cpu.rip,
        .flags = event_flags(&sv->v.cpu, kind, f),
        .ext = kind != EVENT_SOFT_INT,
    };
}

/* What an exception leaves in CR2, DR6 and DR7 before its handler is even looked for. */
static void event_note(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f)
{
    struct cpu_state *cpu = &sv->v.cpu;
    if (kind == EVENT_EXCEPTION && f->vector == VEC_PF)
        cpu->cr2 = f->addr;
    if (kind == EVENT_EXCEPTION && f->vector == VEC_DB && f->addr)
        cpu->dr6 = (cpu->dr6 & ~15ull) | (f->addr & DR6_PAYLOAD);
    if (kind == EVENT_ICEBP || (kind == EVENT_EXCEPTION && f->vector == VEC_DB))
        cpu->dr7 &= ~(uint64_t)DR7_GD;
}

/* The fault that replaces `ev` when sv->fault came up during its delivery; false on a triple fault. */
static bool event_escalate(struct soft_vcpu *sv, const struct event *ev, struct fault *next)
{
    enum fault_class first = ev->kind == EVENT_EXCEPTION ? fault_class(ev->vector) : CLASS_BENIGN;
    enum fault_class second = fault_class(sv->fault.vector);
    /* CR2 tells of the last page fault even if it becomes a double fault: kernels find stack overflows by it. */
    if (second == CLASS_PAGE)
        sv->v.cpu.cr2 = sv->fault.addr;
    if (ev->kind == EVENT_EXCEPTION && ev->vector == VEC_DF)
        return false;
    if ((first == CLASS_CONTRIBUTORY && second == CLASS_CONTRIBUTORY) || (first == CLASS_PAGE && second != CLASS_BENIGN))
        *next = (struct fault){ .vector = VEC_DF, .has_code = true };
    else
        *next = sv->fault;
    return true;
}

enum step event_deliver(struct soft_vcpu *sv, enum event_kind kind, const struct fault *f, uint64_t next_rip)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct fault current = *f;
    struct event ev;
    enum step step;
    bool was_masked = cpu->nmi_masked;
    if (watch_is_on(sv, WATCH_EXCEPTION | WATCH_INTERRUPT | WATCH_DEBUG | WATCH_INJECTED)) {
        step = watch_delivery_ask(sv, kind, f);
        if (step != STEP_JUMP)
            return step;
    }
    event_init(sv, &ev, kind, &current, next_rip);
    if (kind == EVENT_NMI)
        cpu->nmi_masked = true;
    for (;;) {
        event_note(sv, ev.kind, &current);
        step = desc_is_protected(sv) ? deliver_protected(sv, &ev) : deliver_real(sv, &ev);
        if (step != STEP_FAULT || fault_leaves(&sv->fault))
            break;
        if (!event_escalate(sv, &ev, &current)) {
            sv->v.exit.kind = EXIT_SHUTDOWN;
            return STEP_EXIT;
        }
        event_init(sv, &ev, EVENT_EXCEPTION, &current, 0);
        watch_tell_escalated(sv, kind, &current);
    }
    if (step == STEP_JUMP) {
        watch_forget(&sv->v.watch);
        watch_delivery_over(sv, kind);
        cpu->interrupt_shadow = 0;
        mode_update(sv);
    } else {
        cpu->nmi_masked = was_masked;
    }
    return step;
}

/* ---- instructions ---- */

static enum step int_raise(struct soft_vcpu *sv, const struct insn *in, enum event_kind kind, unsigned vector)
{
    struct fault f = { .vector = (uint8_t)vector };
    return event_deliver(sv, kind, &f, transfer_next_rip(sv, in));
}

/* The interrupt redirection bit of the TSS (virtual-8086 mode extensions): *is_redirected if INT n stays in virtual-8086 mode. */
static enum step vme_bit(struct soft_vcpu *sv, unsigned vector, bool *is_redirected)
{
    const struct segment *tr = &sv->v.cpu.tr;
    uint16_t map;
    uint8_t bits;
    *is_redirected = false;
    if (tr->unusable || !(tr->type & 8) || tr->limit < 0x67)
        return step_fault_code(sv, VEC_GP, 0);
    enum step step = linear_read(sv, (uint32_t)(tr->base + 0x66), &map, 2, ACCESS_READ | ACCESS_IMPLICIT);
    if (step != STEP_NEXT)
        return step;
    unsigned at = map - 32u + vector / 8;
    if (map < 32 || at > tr->limit)
        return step_fault_code(sv, VEC_GP, 0);
    step = linear_read(sv, (uint32_t)(tr->base + at), &bits, 1, ACCESS_READ | ACCESS_IMPLICIT);
    *is_redirected = !(bits >> (vector & 7) & 1);
    return step;
}

/* INT n through the 8086 table at linear address 0. With IOPL below 3 the program sees VIF as its IF. */
static enum step vme_deliver(struct soft_vcpu *sv, const struct insn *in, unsigned vector)
{
    struct cpu_state *cpu = &sv->v.cpu;
    struct transfer_stack st;
    uint16_t entry[2];
    bool is_virtual_if = (cpu->rflags & RFLAGS_IOPL) != RFLAGS_IOPL;
    uint64_t flags = cpu->rflags & ~(uint64_t)RFLAGS_RF;
    if (is_virtual_if)
        flags = (flags & ~(uint64_t)RFLAGS_IF) | RFLAGS_IOPL | (flags & RFLAGS_VIF ? RFLAGS_IF : 0);
    uint64_t items[3] = { flags, cpu->seg[SEG_CS].selector, transfer_next_rip(sv, in) };
    enum step step = linear_read(sv, vector * 4u, entry, 4, ACCESS_READ);
    if (step != STEP_NEXT)
        return step;
    transfer_current_stack(sv, &st);
    step = transfer_push(sv, &st, items, 3, 2);
    if (step != STEP_NEXT)
        return step;
    cpu->gpr[GPR_RSP] = st.sp;
    cpu->rflags &= ~(uint64_t)(RFLAGS_TF | RFLAGS_RF | (is_virtual_if ? RFLAGS_VIF : RFLAGS_IF));
    desc_set_vm86(&cpu->seg[SEG_CS], entry[1]);
    cpu->rip = entry[0];
    mode_update(sv);
    return STEP_JUMP;
}

enum step help_int(struct soft_vcpu *sv, const struct insn *in)
{
    const struct cpu_state *cpu = &sv->v.cpu;
    unsigned vector = in->imm & 0xff;
    uint64_t rax = cpu->gpr[GPR_RAX];
    if (vector == 0x80 && watch_insn(sv, WATCH_SYSCALL, WATCH_BY_INT80, 0, &rax) != STEP_NEXT)
        return STEP_EXIT;
    if (desc_is_vm86(sv)) {
        bool is_redirected = false;
        enum step step = cpu->cr4 & CR4_VME ? vme_bit(sv, vector, &is_redirected) : STEP_NEXT;
        if (step != STEP_NEXT)
            return step;
        if (is_redirected)
            return vme_deliver(sv, in, vector);
        if ((cpu->rflags & RFLAGS_IOPL) != RFLAGS_IOPL)
            return step_fault_code(sv, VEC_GP, 0);
    }
    return int_raise(sv, in, EVENT_SOFT_INT, vector);
}

enum step help_int1(struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t dr6 = 0;
    if (watch_insn(sv, WATCH_DEBUG, WATCH_DEBUG_INT1, 0, &dr6) != STEP_NEXT)
        return STEP_EXIT;
    return int_raise(sv, in, EVENT_ICEBP, VEC_DB);
}

/* A client that debugs with software breakpoints sees INT3 before the guest does. */
enum step help_int3(struct soft_vcpu *sv, const struct insn *in)
{
    struct vcpu *v = &sv->v;
    if (v->debug.enabled && v->debug.use_sw_bp) {
        v->exit.kind = EXIT_DEBUG;
        v->exit.debug.vector = VEC_BP;
        v->exit.debug.rip = desc_linear(sv, (desc_is_64bit(sv) ? 0 : v->cpu.seg[SEG_CS].base) + v->cpu.rip);
        v->exit.debug.dr6 = v->exit.debug.dr7 = 0;
        return STEP_EXIT;
    }
    uint64_t value = 0;
    enum step s = watch_insn(sv, WATCH_INT3, 0, 0, &value);
    return s == STEP_NEXT ? int_raise(sv, in, EVENT_SOFT_INT, VEC_BP) : s;
}

enum step help_into(struct soft_vcpu *sv, const struct insn *in)
{
    return sv->v.cpu.rflags & RFLAGS_OF ? int_raise(sv, in, EVENT_SOFT_INT, VEC_OF) : STEP_NEXT;
}

enum step help_ud(struct soft_vcpu *sv, const struct insn *in)
{
    (void)in;
    return step_fault(sv, VEC_UD);
}
