/* SPDX-License-Identifier: MIT */
/*
 * Hardware task switch by JMP, CALL, IRET or an event, 16- and 32-bit TSS (SDM vol. 3A, "Task Switching" and the table of checks there). Not here: the
 * privilege checks of the selector or gate that led to it (help_far.c, help_int.c). Nothing is committed before the old and the new TSS and both descriptors
 * are known to be writable; a fault after that belongs to the new task and is raised with its registers loaded. Runs on the vCPU's thread; no lock.
 */
#include "engine/soft/light.h"
#include "engine/soft/transfer.h"

#define TSS32_BYTES 0x68
#define TSS16_BYTES 0x2c
/* The part of a TSS that a switch away writes: instruction pointer to the last selector. */
#define TSS32_SAVE_FROM 0x20
#define TSS32_SAVE_BYTES 0x40
#define TSS16_SAVE_FROM 0x0e
#define TSS16_SAVE_BYTES 0x1c

#define TASK_FLAGS 0x3f7fd5u  /* every defined RFLAGS bit but the fixed one */
#define TASK_DR7_LOCAL 0x155u /* L0-L3 and LE: cleared by every switch */

#define IMPLICIT_READ (ACCESS_READ | ACCESS_IMPLICIT)
#define IMPLICIT_WRITE (ACCESS_WRITE | ACCESS_IMPLICIT)

/* A TSS in either format. gpr and seg are in encoding order, as the TSS has them. */
struct task_image {
    bool is_32, is_trap;
    uint16_t ldt, seg[SEG_COUNT];
    uint32_t cr3, eip, eflags, gpr[8];
};

static uint32_t get16(const uint8_t *at)
{
    return at[0] | (uint32_t)at[1] << 8;
}

static uint32_t get32(const uint8_t *at)
{
    return get16(at) | get16(at + 2) << 16;
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)value;
    at[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value);
    put16(at + 2, value >> 16);
}

static void image_parse(const uint8_t *raw, bool is_32, struct task_image *img)
{
    light_fill(img, 0, sizeof *img);
    img->is_32 = is_32;
    if (is_32) {
        img->cr3 = get32(raw + 0x1c);
        img->eip = get32(raw + 0x20);
        img->eflags = get32(raw + 0x24);
        for (unsigned i = 0; i < 8; i++)
            img->gpr[i] = get32(raw + 0x28 + 4 * i);
        for (unsigned i = 0; i < SEG_COUNT; i++)
            img->seg[i] = (uint16_t)get16(raw + 0x48 + 4 * i);
        img->ldt = (uint16_t)get16(raw + 0x60);
        img->is_trap = raw[0x64] & 1;
        return;
    }
    img->eip = get16(raw + 0x0e);
    img->eflags = get16(raw + 0x10);
    for (unsigned i = 0; i < 8; i++)
        img->gpr[i] = get16(raw + 0x12 + 2 * i);
    for (unsigned i = 0; i < 4; i++) /* no FS and GS: they become null */
        img->seg[i] = (uint16_t)get16(raw + 0x22 + 2 * i);
    img->ldt = (uint16_t)get16(raw + 0x2a);
}

/* The saved part of the old TSS into buf; returns its size. */
static unsigned image_save(const struct cpu_state *cpu, const struct task_switch *ts, uint8_t *buf)
{
    uint32_t eflags = (uint32_t)ts->flags & ~(ts->reason == TASK_IRET ? RFLAGS_NT : 0u);
    light_fill(buf, 0, TSS32_SAVE_BYTES);
    if (cpu->tr.type & 8) {
        put32(buf, (uint32_t)ts->return_rip);
        put32(buf + 4, eflags);
        for (unsigned i = 0; i < 8; i++)
            put32(buf + 8 + 4 * i, (uint32_t)cpu->gpr[i]);
        for (unsigned i = 0; i < SEG_COUNT; i++)
            put16(buf + 0x28 + 4 * i, cpu->seg[i].selector);
        return TSS32_SAVE_BYTES;
    }
    put16(buf, (uint32_t)ts->return_rip);
    put16(buf + 2, eflags);
    for (unsigned i = 0; i < 8; i++)
        put16(buf + 4 + 2 * i, (uint32_t)cpu->gpr[i]);
    for (unsigned i = 0; i < 4; i++)
        put16(buf + 0x14 + 2 * i, cpu->seg[i].selector);
    return TSS16_SAVE_BYTES;
}

/* ---- before the switch ---- */

/* The new TSS descriptor: #GP (IRET: #TS) unless an available (IRET: busy) TSS in the GDT; #NP; #TS if it is too short. */
static enum step task_find(struct soft_vcpu *sv, const struct task_switch *ts, struct descriptor *d, struct segment *tr)
{
    unsigned vector = ts->reason == TASK_IRET ? VEC_TS : VEC_GP;
    unsigned busy = ts->reason == TASK_IRET ? DESC_TYPE_BUSY : 0;
    uint32_t error = desc_error(ts->selector, ts->ext);
    if ((ts->selector & 4) || desc_is_null(ts->selector))
        return step_fault_code(sv, vector, error);
    enum step step = desc_read(sv, ts->selector, vector, ts->ext, d);
    if (step != STEP_NEXT)
        return step;
    if (desc_is_segment(d) || (desc_type(d) & ~8u) != (DESC_TSS16 | busy))
        return step_fault_code(sv, vector, error);
    if (!desc_is_present(d))
        return step_fault_code(sv, VEC_NP, error);
    desc_to_segment(d, ts->selector, tr);
    if (tr->limit < (tr->type & 8 ? TSS32_BYTES : TSS16_BYTES) - 1)
        return step_fault_code(sv, VEC_TS, error);
    return STEP_NEXT;
}

/* Where the switch will write, checked beforehand. */
struct task_writes {
    gva_t save, old_desc, new_desc, link;
    unsigned save_bytes;
    bool is_old_freed, is_new_taken, is_linked;
};

static enum step task_probe(struct soft_vcpu *sv, const struct task_switch *ts, gva_t new_tss, gva_t new_desc, struct task_writes *w)
{
    const struct cpu_state *cpu = &sv->v.cpu;
    bool is_32 = cpu->tr.type & 8;
    unsigned from = is_32 ? TSS32_SAVE_FROM : TSS16_SAVE_FROM;
    *w = (struct task_writes){
        .save = (uint32_t)(cpu->tr.base + from),
        .save_bytes = is_32 ? TSS32_SAVE_BYTES : TSS16_SAVE_BYTES,
        .old_desc = (uint32_t)(cpu->gdtr.base + (cpu->tr.selector & ~7u)),
        .new_desc = new_desc,
        .link = new_tss,
        .is_old_freed = ts->reason == TASK_JMP || ts->reason == TASK_IRET,
        .is_new_taken = ts->reason != TASK_IRET,
        .is_linked = ts->reason == TASK_CALL || ts->reason == TASK_EVENT,
    };
    if (cpu->tr.unusable || cpu->tr.limit < from + w->save_bytes - 1)
        return step_fault_code(sv, VEC_TS, desc_error(cpu->tr.selector, ts->ext));
    enum step step = linear_probe_write(sv, w->save, w->save_bytes, IMPLICIT_WRITE);
    if (step == STEP_NEXT && w->is_old_freed)
        step = linear_probe_write(sv, w->old_desc, 8, IMPLICIT_WRITE);
    if (step == STEP_NEXT && w->is_new_taken)
        step = linear_probe_write(sv, w->new_desc, 8, IMPLICIT_WRITE);
    if (step == STEP_NEXT && w->is_linked)
        step = linear_probe_write(sv, w->link, 2, IMPLICIT_WRITE);
    return step;
}

static enum step task_leave(struct soft_vcpu *sv, const struct task_switch *ts, const struct task_writes *w)
{
    const struct cpu_state *cpu = &sv->v.cpu;
    uint8_t buf[TSS32_SAVE_BYTES];
    unsigned bytes = image_save(cpu, ts, buf);
    uint16_t link = cpu->tr.selector;
    enum step step = linear_write(sv, w->save, buf, bytes, IMPLICIT_WRITE);
    if (step == STEP_NEXT && w->is_old_freed)
        step = desc_set_busy(sv, w->old_desc, false);
    if (step == STEP_NEXT && w->is_linked)
        step = linear_write(sv, w->link, &link, 2, IMPLICIT_WRITE);
    if (step == STEP_NEXT && w->is_new_taken)
        step = desc_set_busy(sv, w->new_desc, true);
    return step;
}

/* ---- into the new task ---- */

static enum step task_load_cr3(struct soft_vcpu *sv, const struct task_image *img, uint32_t ext)
{
    struct cpu_state *cpu = &sv->v.cpu;
    if (!img->is_32 || !(cpu->cr0 & CR0_PG))
        return STEP_NEXT;
    int err = cpu->cr4 & CR4_PAE ? pdpte_load(sv, img->cr3) : 0;
    if (!err)
        cpu->cr3 = img->cr3;
    tlb_flush(sv);
    return err ? step_fault_code(sv, VEC_GP, ext) : STEP_NEXT;
}

/* Registers of the new task. Its segments have their selectors but nothing behind them until they pass their checks. */
static void task_enter(struct soft_vcpu *sv, const struct task_switch *ts, const struct task_image *img, const struct segment *tr)
{
    struct cpu_state *cpu = &sv->v.cpu;
    bool is_linked = ts->reason == TASK_CALL || ts->reason == TASK_EVENT;
    cpu->tr = *tr;
    cpu->tr.type |= DESC_TYPE_BUSY;
    cpu->cr0 |= CR0_TS;
    cpu->dr7 &= ~(uint64_t)TASK_DR7_LOCAL;
    cpu->rip = img->eip;
    cpu->rflags = (img->eflags & TASK_FLAGS) | RFLAGS_RES1 | (is_linked ? RFLAGS_NT : 0);
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = img->gpr[i];
    for (unsigned i = 0; i < SEG_COUNT; i++) {
        if (cpu->rflags & RFLAGS_VM)
            desc_set_vm86(&cpu->seg[i], img->seg[i]);
        else
            desc_set_null(&cpu->seg[i], img->seg[i]);
    }
    desc_set_null(&cpu->ldtr, img->ldt);
    if (!(cpu->rflags & RFLAGS_VM))
        cpu->seg[SEG_SS].dpl = cpu->seg[SEG_CS].dpl = img->seg[SEG_CS] & 3;
    cpu->interrupt_shadow = 0;
    mode_update(sv);
}

static enum step task_load_ldt(struct soft_vcpu *sv, uint16_t selector, uint32_t ext)
{
    struct descriptor d;
    uint32_t error = desc_error(selector, ext);
    if (desc_is_null(selector))
        return STEP_NEXT;
    if (selector & 4)
        return step_fault_code(sv, VEC_TS, error);
    enum step step = desc_read(sv, selector, VEC_TS, ext, &d);
    if (step != STEP_NEXT)
        return step;
    if (desc_is_segment(&d) || desc_type(&d) != DESC_LDT || !desc_is_present(&d))
        return step_fault_code(sv, VEC_TS, error);
    desc_to_segment(&d, selector, &sv->v.cpu.ldtr);
    return STEP_NEXT;
}

static enum step task_load_cs(struct soft_vcpu *sv, uint16_t selector, uint32_t ext)
{
    struct descriptor d;
    uint32_t error = desc_error(selector, ext);
    unsigned rpl = selector & 3u;
    if (desc_is_null(selector))
        return step_fault_code(sv, VEC_TS, error);
    enum step step = desc_read(sv, selector, VEC_TS, ext, &d);
    if (step != STEP_NEXT)
        return step;
    if (!desc_is_code(&d) || (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
        return step_fault_code(sv, VEC_TS, error);
    if (!desc_is_present(&d))
        return step_fault_code(sv, VEC_NP, error);
    step = desc_set_accessed(sv, &d);
    if (step == STEP_NEXT)
        desc_to_segment(&d, selector, &sv->v.cpu.seg[SEG_CS]);
    return step;
}

static enum step task_load_segments(struct soft_vcpu *sv, const struct task_image *img, uint32_t ext)
{
    static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
    struct cpu_state *cpu = &sv->v.cpu;
    struct segment s;
    unsigned cpl = img->seg[SEG_CS] & 3u;
    enum step step = task_load_ldt(sv, img->ldt, ext);
    if (step != STEP_NEXT || (cpu->rflags & RFLAGS_VM))
        return step;
    step = task_load_cs(sv, img->seg[SEG_CS], ext);
    if (step == STEP_NEXT)
        step = transfer_load_ss(sv, img->seg[SEG_SS], cpl, VEC_TS, ext, &s);
    if (step == STEP_NEXT)
        cpu->seg[SEG_SS] = s;
    for (unsigned i = 0; i < 4 && step == STEP_NEXT; i++) {
        struct segment *to = &cpu->seg[data[i]];
        step = transfer_load_data(sv, to, img->seg[data[i]], cpl, VEC_TS, ext, &s);
        if (step == STEP_NEXT)
            *to = s;
    }
    return step;
}

/* The error code of the exception that switched tasks. */
static enum step task_push_code(struct soft_vcpu *sv, const struct task_switch *ts, bool is_32)
{
    struct transfer_stack st;
    uint64_t code = ts->code;
    if (!ts->has_code)
        return STEP_NEXT;
    transfer_current_stack(sv, &st);
    st.error = ts->ext;
    enum step step = transfer_push(sv, &st, &code, 1, is_32 ? 4 : 2);
    if (step == STEP_NEXT)
        sv->v.cpu.gpr[GPR_RSP] = st.sp;
    return step;
}

enum step task_switch_run(struct soft_vcpu *sv, struct task_switch *ts)
{
    uint8_t raw[TSS32_BYTES];
    struct task_image img;
    struct task_writes writes;
    struct descriptor d;
    struct segment tr;
    enum step step = task_find(sv, ts, &d, &tr);
    if (step != STEP_NEXT)
        return step;
    bool is_32 = tr.type & 8;
    step = linear_read(sv, tr.base, raw, is_32 ? TSS32_BYTES : TSS16_BYTES, IMPLICIT_READ);
    if (step == STEP_NEXT)
        step = task_probe(sv, ts, tr.base, d.address, &writes);
    if (step != STEP_NEXT)
        return step;
    const uint64_t old[3] = { sv->v.cpu.cr0, sv->v.cpu.cr3, sv->v.cpu.cr4 };
    image_parse(raw, is_32, &img);
    step = task_leave(sv, ts, &writes);
    if (step != STEP_NEXT)
        return step;
    task_enter(sv, ts, &img, &tr);
    step = task_load_cr3(sv, &img, ts->ext);
    watch_tell_crs(sv, old);
    if (step == STEP_NEXT)
        step = task_load_segments(sv, &img, ts->ext);
    mode_update(sv);
    if (step == STEP_NEXT)
        step = task_push_code(sv, ts, is_32);
    if (step == STEP_NEXT)
        step = transfer_check_rip(sv, &sv->v.cpu.seg[SEG_CS], img.eip, ts->ext);
    ts->is_trap = img.is_trap;
    return step == STEP_NEXT ? STEP_JUMP : step;
}

enum step task_switch_insn(struct soft_vcpu *sv, enum task_reason reason, uint16_t selector, uint64_t return_rip)
{
    struct task_switch ts = { .reason = reason, .selector = selector, .return_rip = return_rip, .flags = sv->v.cpu.rflags & ~(uint64_t)RFLAGS_RF };
    enum step step = task_switch_run(sv, &ts);
    if (step != STEP_JUMP || !ts.is_trap)
        return step;
    struct fault trap = { .vector = VEC_DB, .addr = DR6_BT };
    return event_deliver(sv, EVENT_EXCEPTION, &trap, 0);
}
