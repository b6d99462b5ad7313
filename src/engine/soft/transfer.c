/* SPDX-License-Identifier: MIT */
/*
 * Checked segment loads and stack frames for control transfers (SDM vol. 3A, "Protection" and "Interrupt and Exception Handling"; vol. 2, the operation
 * sections of CALL, IRET, RET). Not here: the order in which an instruction does them. Called by the control helpers on the vCPU's thread; no lock.
 */
#include "engine/soft/transfer.h"

static uint64_t width_mask(unsigned bytes)
{
    return bytes == 8 ? ~0ull : (1ull << (8 * bytes)) - 1;
}

/* ---- stacks ---- */

void transfer_current_stack(const struct soft_vcpu *sv, struct transfer_stack *out)
{
    out->ss = sv->v.cpu.seg[SEG_SS];
    out->sp = sv->v.cpu.gpr[GPR_RSP];
    out->sp_bytes = desc_is_64bit(sv) ? 8 : out->ss.db ? 4 : 2;
    out->access = 0;
    out->error = 0;
}

static enum step tss_stack_long(struct soft_vcpu *sv, unsigned cpl, unsigned ist, uint32_t ext, struct transfer_stack *out)
{
    const struct segment *tr = &sv->v.cpu.tr;
    unsigned offset = ist ? 28 + 8 * ist : 4 + 8 * cpl;
    if (tr->unusable || offset + 7 > tr->limit)
        return step_fault_code(sv, VEC_TS, desc_error(tr->selector, ext));
    enum step step = linear_read(sv, tr->base + offset, &out->sp, 8, ACCESS_READ | ACCESS_IMPLICIT);
    if (step != STEP_NEXT)
        return step;
    desc_set_null(&out->ss, (uint16_t)cpl);
    out->sp_bytes = 8;
    out->error = ext;
    if (!desc_is_canonical(sv, out->sp))
        return step_fault_code(sv, VEC_SS, ext);
    return STEP_NEXT;
}

enum step transfer_tss_stack(struct soft_vcpu *sv, unsigned cpl, unsigned ist, uint32_t ext, struct transfer_stack *out)
{
    const struct segment *tr = &sv->v.cpu.tr;
    uint8_t raw[6];
    /* An unusable SS keeps its limit: start from the current one. */
    out->ss = sv->v.cpu.seg[SEG_SS];
    out->access = vcpu_cpl(&sv->v) == 3 && cpl < 3 ? ACCESS_IMPLICIT : 0;
    if (desc_is_long(sv))
        return tss_stack_long(sv, cpl, ist, ext, out);
    bool is_32 = tr->type & 8;
    unsigned offset = is_32 ? 4 + 8 * cpl : 2 + 4 * cpl, bytes = is_32 ? 6 : 4;
    if (tr->unusable || offset + bytes - 1 > tr->limit)
        return step_fault_code(sv, VEC_TS, desc_error(tr->selector, ext));
    enum step step = linear_read(sv, (uint32_t)(tr->base + offset), raw, bytes, ACCESS_READ | ACCESS_IMPLICIT);
    if (step != STEP_NEXT)
        return step;
    out->sp = raw[0] | (unsigned)raw[1] << 8;
    if (is_32)
        out->sp |= (uint64_t)raw[2] << 16 | (uint64_t)raw[3] << 24;
    uint16_t selector = (uint16_t)(raw[bytes - 2] | raw[bytes - 1] << 8);
    step = transfer_load_ss(sv, selector, cpl, VEC_TS, ext, &out->ss);
    out->sp_bytes = out->ss.db ? 4 : 2;
    out->error = desc_error(selector, ext);
    return step;
}

/* Whether bytes at `offset` lie within a stack segment outside 64-bit mode. */
static bool stack_has(const struct segment *ss, uint64_t offset, unsigned bytes)
{
    uint64_t last = offset + bytes - 1;
    if (ss->unusable)
        return false;
    if ((ss->type & (SEG_TYPE_CODE | SEG_TYPE_DOWN)) == SEG_TYPE_DOWN)
        return offset > ss->limit && last <= (ss->db ? 0xffffffffu : 0xffffu);
    return last <= ss->limit;
}

static void item_store(uint8_t *to, uint64_t value, unsigned bytes)
{
    if (bytes == 8)
        __builtin_memcpy(to, &value, 8);
    else if (bytes == 4)
        __builtin_memcpy(to, &value, 4);
    else
        __builtin_memcpy(to, &value, 2);
}

static uint64_t item_load(const uint8_t *from, unsigned bytes)
{
    uint64_t value = 0;
    if (bytes == 8)
        __builtin_memcpy(&value, from, 8);
    else if (bytes == 4)
        __builtin_memcpy(&value, from, 4);
    else
        __builtin_memcpy(&value, from, 2);
    return value;
}

/* One access to the frame at `offset`, which does not wrap. */
static enum step frame_access(struct soft_vcpu *sv, const struct transfer_stack *st, uint64_t offset, uint8_t *buf, unsigned bytes, bool is_write)
{
    gva_t at = st->sp_bytes == 8 ? offset : desc_linear(sv, (uint32_t)(st->ss.base + offset));
    return is_write ? linear_write(sv, at, buf, bytes, ACCESS_WRITE | st->access) : linear_read(sv, at, buf, bytes, ACCESS_READ | st->access);
}

/*
 * The frame of n items at `offset`, lowest address first. A frame that wraps around the end of the stack's offsets goes item by item, after all were checked;
 * the probe of each keeps a page fault from leaving half a frame.
 */
static enum step frame_run(struct soft_vcpu *sv, const struct transfer_stack *st, uint64_t offset, uint8_t *buf, unsigned n, unsigned bytes, bool is_write)
{
    uint64_t mask = width_mask(st->sp_bytes);
    unsigned total = n * bytes;
    enum step step = STEP_NEXT;
    if (st->sp_bytes == 8) {
        if (!desc_is_canonical(sv, offset) || !desc_is_canonical(sv, offset + total - 1))
            return step_fault_code(sv, VEC_SS, st->error);
        return frame_access(sv, st, offset, buf, total, is_write);
    }
    for (unsigned i = 0; i < n; i++)
        if (!stack_has(&st->ss, (offset + i * bytes) & mask, bytes))
            return step_fault_code(sv, VEC_SS, st->error);
    if (offset + total - 1 <= mask)
        return frame_access(sv, st, offset, buf, total, is_write);
    for (unsigned i = 0; is_write && i < n && step == STEP_NEXT; i++)
        step = linear_probe_write(sv, desc_linear(sv, (uint32_t)(st->ss.base + ((offset + i * bytes) & mask))), bytes, ACCESS_WRITE | st->access);
    for (unsigned i = 0; i < n && step == STEP_NEXT; i++)
        step = frame_access(sv, st, (offset + i * bytes) & mask, buf + i * bytes, bytes, is_write);
    return step;
}

enum step transfer_push(struct soft_vcpu *sv, struct transfer_stack *st, const uint64_t *items, unsigned n, unsigned bytes)
{
    uint8_t buf[TRANSFER_MAX_ITEMS * 8];
    uint64_t mask = width_mask(st->sp_bytes);
    uint64_t low = (st->sp - n * bytes) & mask;
    for (unsigned i = 0; i < n; i++)
        item_store(buf + (n - 1 - i) * bytes, items[i], bytes);
    enum step step = frame_run(sv, st, low, buf, n, bytes, true);
    if (step == STEP_NEXT)
        st->sp = (st->sp & ~mask) | low;
    return step;
}

enum step transfer_pop(struct soft_vcpu *sv, struct transfer_stack *st, uint64_t *items, unsigned n, unsigned bytes)
{
    uint8_t buf[TRANSFER_MAX_ITEMS * 8];
    enum step step = frame_run(sv, st, st->sp & width_mask(st->sp_bytes), buf, n, bytes, false);
    if (step != STEP_NEXT)
        return step;
    for (unsigned i = 0; i < n; i++)
        items[i] = item_load(buf + i * bytes, bytes);
    transfer_drop(st, n * bytes);
    return STEP_NEXT;
}

void transfer_drop(struct transfer_stack *st, unsigned bytes)
{
    uint64_t mask = width_mask(st->sp_bytes);
    st->sp = (st->sp & ~mask) | ((st->sp + bytes) & mask);
}

/* ---- segments ---- */

enum step transfer_load_ss(struct soft_vcpu *sv, uint16_t selector, unsigned cpl, unsigned vector, uint32_t ext, struct segment *out)
{
    struct descriptor d;
    uint32_t error = desc_error(selector, ext);
    if (desc_is_null(selector))
        return step_fault_code(sv, vector, error);
    enum step step = desc_read(sv, selector, vector, ext, &d);
    if (step != STEP_NEXT)
        return step;
    if ((selector & 3u) != cpl || !desc_is_writable_data(&d) || desc_dpl(&d) != cpl)
        return step_fault_code(sv, vector, error);
    if (!desc_is_present(&d))
        return step_fault_code(sv, VEC_SS, error);
    step = desc_set_accessed(sv, &d);
    if (step == STEP_NEXT)
        desc_to_segment(&d, selector, out);
    return step;
}

enum step transfer_load_data(struct soft_vcpu *sv, const struct segment *old, uint16_t selector, unsigned cpl, unsigned vector, uint32_t ext,
                             struct segment *out)
{
    struct descriptor d;
    uint32_t error = desc_error(selector, ext);
    if (desc_is_null(selector)) {
        *out = *old;
        desc_set_null(out, selector);
        return STEP_NEXT;
    }
    enum step step = desc_read(sv, selector, vector, ext, &d);
    if (step != STEP_NEXT)
        return step;
    if (!desc_is_segment(&d) || (desc_is_code(&d) && !(desc_type(&d) & SEG_TYPE_READ)))
        return step_fault_code(sv, vector, error);
    if (!desc_is_conforming(&d) && ((selector & 3u) > desc_dpl(&d) || cpl > desc_dpl(&d)))
        return step_fault_code(sv, vector, error);
    if (!desc_is_present(&d))
        return step_fault_code(sv, VEC_NP, error);
    step = desc_set_accessed(sv, &d);
    if (step == STEP_NEXT)
        desc_to_segment(&d, selector, out);
    return step;
}

enum step transfer_load_return_cs(struct soft_vcpu *sv, uint16_t selector, struct segment *out)
{
    struct descriptor d;
    unsigned cpl = vcpu_cpl(&sv->v), rpl = selector & 3u;
    if (desc_is_null(selector))
        return step_fault_code(sv, VEC_GP, 0);
    enum step step = desc_read(sv, selector, VEC_GP, 0, &d);
    if (step != STEP_NEXT)
        return step;
    if (rpl < cpl || !desc_is_code(&d) || (desc_is_long(sv) && desc_is_bad_code(&d)))
        return step_fault_code(sv, VEC_GP, desc_error(selector, 0));
    if (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl)
        return step_fault_code(sv, VEC_GP, desc_error(selector, 0));
    if (!desc_is_present(&d))
        return step_fault_code(sv, VEC_NP, desc_error(selector, 0));
    step = desc_set_accessed(sv, &d);
    if (step == STEP_NEXT)
        desc_to_segment(&d, selector, out);
    return step;
}

enum step transfer_load_return_ss(struct soft_vcpu *sv, uint16_t selector, unsigned cpl, const struct segment *cs, struct segment *out)
{
    if (desc_is_null(selector) && transfer_is_long_cs(sv, cs) && cpl != 3 && (selector & 3u) == cpl) {
        *out = sv->v.cpu.seg[SEG_SS];
        desc_set_null(out, selector);
        out->dpl = (uint8_t)cpl;
        return STEP_NEXT;
    }
    return transfer_load_ss(sv, selector, cpl, VEC_GP, 0, out);
}

enum step transfer_check_rip(struct soft_vcpu *sv, const struct segment *cs, uint64_t rip, uint32_t ext)
{
    bool is_ok = transfer_is_long_cs(sv, cs) ? desc_is_canonical(sv, rip) : rip <= cs->limit;
    return is_ok ? STEP_NEXT : step_fault_code(sv, VEC_GP, ext);
}

void transfer_set_cs(struct soft_vcpu *sv, const struct segment *cs, unsigned cpl)
{
    struct segment *to = &sv->v.cpu.seg[SEG_CS];
    *to = *cs;
    to->selector = (uint16_t)((cs->selector & ~3u) | cpl);
}

void transfer_set_stack(struct soft_vcpu *sv, const struct transfer_stack *st, unsigned cpl)
{
    struct cpu_state *cpu = &sv->v.cpu;
    cpu->seg[SEG_SS] = st->ss;
    cpu->seg[SEG_SS].dpl = (uint8_t)cpl;
    cpu->gpr[GPR_RSP] = st->sp;
}

/* A 16-bit stack leaves the upper half of ESP alone: guests know it (the "espfix" of their kernels) and work around it. */
void transfer_set_outer_sp(struct soft_vcpu *sv, uint64_t sp)
{
    struct cpu_state *cpu = &sv->v.cpu;
    uint64_t *rsp = &cpu->gpr[GPR_RSP];
    if (desc_is_64bit(sv))
        *rsp = sp;
    else if (cpu->seg[SEG_SS].db)
        *rsp = (uint32_t)sp;
    else
        *rsp = (*rsp & ~0xffffull) | (sp & 0xffff);
}

void transfer_set_outer_data(struct soft_vcpu *sv, unsigned cpl)
{
    static const uint8_t data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
    for (unsigned i = 0; i < 4; i++) {
        struct segment *s = &sv->v.cpu.seg[data[i]];
        bool is_conforming = (s->type & (SEG_TYPE_CODE | SEG_TYPE_CONFORMING)) == (SEG_TYPE_CODE | SEG_TYPE_CONFORMING);
        if (!s->unusable && !is_conforming && s->dpl < cpl)
            desc_set_null(s, 0);
    }
}

/* ---- the instruction ---- */

unsigned transfer_op_bytes(const struct insn *in)
{
    if (in->mode_bits == 64 && in->rex_w)
        return 8;
    if (in->mode_bits == 16)
        return in->has_66 ? 4 : 2;
    return in->has_66 ? 2 : 4;
}

uint64_t transfer_next_rip(const struct soft_vcpu *sv, const struct insn *in)
{
    uint64_t rip = sv->v.cpu.rip + in->len;
    return in->mode_bits == 64 ? rip : (uint32_t)rip;
}
