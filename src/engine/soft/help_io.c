/* SPDX-License-Identifier: MIT */
/*
 * IN OUT INS OUTS. A port belongs to an in-process device (vm->pio) or to the client. Called by exec_insn on the vCPU's thread, no lock.
 *
 * For the client IN and INS end in STEP_EXIT and restart when v.replay.io_data holds the answer; OUT and OUTS commit first and leave then. With
 * vm.reports_accesses IN and OUT only leave, and are the client's to execute; INS and OUTS hand over their elements one by one.
 * REP INS and OUTS hand over one page of elements at most per exit, and only those whose memory is plain RAM in one page:
 * an INS destination is known to be writable before the port is read. Elements for in-process devices go one by one.
 */
#include <assert.h>

#include "engine/soft/help_io.h"
#include "engine/soft/help_string.h"
#include "engine/soft/light.h"

#define TSS_TYPE_AVAILABLE 9u
#define TSS_TYPE_BUSY 11u
#define TSS_IO_MAP_OFFSET 0x66u
#define TSS_LIMIT_MIN 0x67u
#define IO_BUDGET 1024u /* elements for in-process devices before events are looked at */

static enum step tss_read16(struct soft_vcpu *sv, uint32_t offset, uint16_t *value)
{
    return linear_read(sv, sv->v.cpu.tr.base + offset, value, 2, ACCESS_READ | ACCESS_IMPLICIT);
}

enum step io_permission(struct soft_vcpu *sv, unsigned port, unsigned bytes)
{
    const struct cpu_state *c = &sv->v.cpu;
    if (!(c->cr0 & CR0_PE))
        return STEP_NEXT;
    if (!(c->rflags & RFLAGS_VM) && vcpu_cpl(&sv->v) <= (c->rflags & RFLAGS_IOPL) >> RFLAGS_IOPL_SHIFT)
        return STEP_NEXT;
    const struct segment *tr = &c->tr;
    if (!tr->present || tr->unusable || (tr->type != TSS_TYPE_AVAILABLE && tr->type != TSS_TYPE_BUSY) || tr->limit < TSS_LIMIT_MIN)
        return step_fault_code(sv, VEC_GP, 0);
    uint16_t map, bits;
    enum step st = tss_read16(sv, TSS_IO_MAP_OFFSET, &map);
    if (st != STEP_NEXT)
        return st;
    uint32_t offset = map + port / 8; /* two bytes are read always, as the CPU does: the map ends in a byte of ones */
    if (offset + 1 > tr->limit)
        return step_fault_code(sv, VEC_GP, 0);
    st = tss_read16(sv, offset, &bits);
    if (st != STEP_NEXT)
        return st;
    if (bits >> (port & 7) & ((1u << bytes) - 1))
        return step_fault_code(sv, VEC_GP, 0);
    return STEP_NEXT;
}

/* I/O is at most 4 bytes wide, whatever REX.W says. */
static unsigned io_bytes(const struct insn *in)
{
    return !(in->opcode & 1) ? 1 : in->op_bytes > 4 ? 4 : in->op_bytes;
}

/* E4-E7 take the port from an immediate, EC-EF from DX. */
static unsigned io_port(const struct soft_vcpu *sv, const struct insn *in)
{
    return in->opcode & 8 ? sv->v.cpu.gpr[GPR_RDX] & 0xffff : in->imm & 0xff;
}

static int device_in(struct soft_vcpu *sv, unsigned port, unsigned bytes, uint32_t *value)
{
    *value = 0;
    vcpu_count_exit(&sv->v, STAT_IO_EXITS);
    fp_put(sv);
    return bus_read(&sv->v.vm->pio, &sv->v, port, bytes, value);
}

static int device_out(struct soft_vcpu *sv, unsigned port, unsigned bytes, const uint32_t *value)
{
    vcpu_count_exit(&sv->v, STAT_IO_EXITS);
    fp_put(sv);
    return bus_write(&sv->v.vm->pio, &sv->v, port, bytes, value);
}

static void exit_fill(struct soft_vcpu *sv, bool is_in, bool is_string, unsigned port, unsigned bytes, uint32_t count)
{
    struct vcpu_exit *x = &sv->v.exit;
    x->kind = EXIT_IO;
    x->io.is_in = is_in;
    x->io.is_string = is_string;
    x->io.bytes = (uint8_t)bytes;
    x->io.port = (uint16_t)port;
    x->io.count = count;
}

static enum step port_watch(struct soft_vcpu *sv, unsigned port, unsigned bytes, uint64_t value, bool is_in)
{
    if (!watch_is_on(sv, WATCH_PORT))
        return STEP_NEXT;
    struct watch_event e = { .kind = WATCH_PORT, .index = port, .bytes = bytes, .value = value, .access = is_in ? WATCH_READ : WATCH_WRITE };
    return watch_insn_ask(sv, &e);
}

enum step help_in(struct soft_vcpu *sv, const struct insn *in)
{
    struct replay *r = &sv->v.replay;
    const struct watch_reply *given;
    unsigned port = io_port(sv, in), bytes = io_bytes(in);
    uint32_t value = 0;
    enum step st = io_permission(sv, port, bytes);
    if (st != STEP_NEXT)
        return st;
    if (r->io_done) {
        light_copy(&value, r->io_data, bytes);
        r->io_done = false;
    } else if (port_watch(sv, port, bytes, 0, true) != STEP_NEXT) {
        return STEP_EXIT;
    } else if ((given = watch_gift(sv, WATCH_PORT, port))) {
        value = (uint32_t)given->value;
    } else if (device_in(sv, port, bytes, &value)) {
        exit_fill(sv, true, false, port, bytes, 1);
        return STEP_EXIT;
    }
    gpr_write(sv, GPR_RAX, bytes, value);
    access_note_io(sv, port, bytes);
    return STEP_NEXT;
}

enum step help_out(struct soft_vcpu *sv, const struct insn *in)
{
    unsigned port = io_port(sv, in), bytes = io_bytes(in);
    uint32_t value = (uint32_t)sv->v.cpu.gpr[GPR_RAX];
    enum step st = io_permission(sv, port, bytes);
    if (st != STEP_NEXT)
        return st;
    st = port_watch(sv, port, bytes, bytes == 4 ? value : value & ((1u << 8 * bytes) - 1), false);
    if (st != STEP_NEXT)
        return st;
    access_note_io(sv, port, bytes);
    if (device_out(sv, port, bytes, &value) == 0)
        return STEP_NEXT;
    exit_fill(sv, false, false, port, bytes, 1);
    light_copy(sv->v.exit.io.data, &value, bytes);
    return sv->v.vm->reports_accesses ? STEP_EXIT : STEP_NEXT_EXIT;
}

/* ---- INS --------------------------------------------------------------------------------------------------------------------------------- */

static enum step ins_store(struct soft_vcpu *sv, const struct string_op *op, const void *data)
{
    enum step st = seg_write(sv, SEG_ES, sv->v.cpu.gpr[GPR_RDI] & op->mask, data, op->bytes);
    if (st != STEP_NEXT)
        return st;
    watch_forget(&sv->v.watch);
    string_advance(sv, op, 1, false, true);
    access_note_io(sv, sv->v.cpu.gpr[GPR_RDX] & 0xffff, op->bytes);
    return STEP_NEXT;
}

/* Stores the client's answer. It was asked for no more than what could be stored then; a fault now loses the rest, as the port was read. */
static enum step ins_finish(struct soft_vcpu *sv, const struct string_op *op)
{
    struct replay *r = &sv->v.replay;
    uint64_t n = (r->io_bytes < PAGE_BYTES ? r->io_bytes : PAGE_BYTES) / op->bytes, count = string_count(sv, op);
    if (n > count)
        n = count;
    for (uint64_t i = 0; i < n; i++) {
        enum step st = ins_store(sv, op, r->io_data + i * op->bytes);
        if (st != STEP_NEXT) { /* if a tool is asked, what is left is stored when the instruction starts again; after a fault all is forgotten */
            uint32_t done = (uint32_t)(i * op->bytes);
            r->io_bytes -= done;
            for (uint32_t k = 0; k < r->io_bytes && done + k < PAGE_BYTES; k++)
                r->io_data[k] = r->io_data[done + k];
            return st;
        }
    }
    r->io_done = false;
    return op->is_rep && string_count(sv, op) ? STEP_REPEAT : STEP_NEXT;
}

/* A tool's data as if they were the client's. */
static void ins_take(struct soft_vcpu *sv, const struct string_op *op, const struct watch_reply *given)
{
    struct replay *r = &sv->v.replay;
    light_copy(r->io_data, given->data_bytes ? (const void *)given->data : &given->value, given->data_bytes ? given->data_bytes : op->bytes);
    r->io_bytes = given->data_bytes ? given->data_bytes : op->bytes;
    r->io_done = true;
}

static enum step ins_probe(struct soft_vcpu *sv, const struct string_op *op)
{
    gva_t gva;
    enum step st = seg_linear(sv, SEG_ES, sv->v.cpu.gpr[GPR_RDI] & op->mask, op->bytes, true, &gva);
    return st == STEP_NEXT ? linear_probe_write(sv, gva, op->bytes, ACCESS_WRITE) : st;
}

/* Elements to ask the client for at once. */
static uint32_t elements_at_once(struct soft_vcpu *sv, const struct string_op *op, bool is_in)
{
    uint64_t n = string_count(sv, op);
    bool has_breakpoints = (sv->v.cpu.cr4 & CR4_DE) && ((sv->v.cpu.dr7 | sv->v.debug.dr7) & DR7_ENABLE_MASK);
    if (n == 1 || op->is_backward || sv->v.vm->reports_accesses || (sv->v.cpu.rflags & RFLAGS_TF) || has_breakpoints)
        return 1;
    if (n > PAGE_BYTES / op->bytes)
        n = PAGE_BYTES / op->bytes;
    return string_host(sv, op, is_in ? SEG_ES : op->source_seg, is_in ? GPR_RDI : GPR_RSI, is_in, &n) ? (uint32_t)n : 1;
}

static bool io_wants_break(const struct soft_vcpu *sv)
{
    return (sv->v.cpu.rflags & RFLAGS_TF) || sv->is_checking || sv->dr6_hits || sv->v.posted.n || atomic_load_explicit(&sv->v.exit_req, memory_order_relaxed);
}

enum step help_ins(struct soft_vcpu *sv, const struct insn *in)
{
    struct string_op op = string_op_of(sv, in);
    unsigned port = sv->v.cpu.gpr[GPR_RDX] & 0xffff;
    op.bytes = io_bytes(in);
    if (string_count(sv, &op) == 0)
        return STEP_NEXT;
    enum step st = io_permission(sv, port, op.bytes);
    if (st != STEP_NEXT)
        return st;
    if (sv->v.replay.io_done)
        return ins_finish(sv, &op);
    st = port_watch(sv, port, op.bytes, 0, true);
    if (st != STEP_NEXT)
        return st;
    const struct watch_reply *given = watch_gift(sv, WATCH_PORT, port);
    if (given) {
        ins_take(sv, &op, given);
        return ins_finish(sv, &op);
    }

    for (unsigned i = 0; i < IO_BUDGET; i++) {
        uint32_t value;
        st = ins_probe(sv, &op);
        if (st != STEP_NEXT)
            return st;
        if (device_in(sv, port, op.bytes, &value)) {
            exit_fill(sv, true, true, port, op.bytes, elements_at_once(sv, &op, true));
            return STEP_EXIT;
        }
        st = ins_store(sv, &op, &value);
        if (st != STEP_NEXT)
            return st;
        if (!op.is_rep || string_count(sv, &op) == 0)
            return STEP_NEXT;
        if (io_wants_break(sv))
            break;
    }
    return STEP_REPEAT;
}

/* ---- OUTS -------------------------------------------------------------------------------------------------------------------------------- */

static enum step outs_load(struct soft_vcpu *sv, const struct string_op *op, uint32_t *value)
{
    *value = 0;
    return seg_read(sv, op->source_seg, sv->v.cpu.gpr[GPR_RSI] & op->mask, value, op->bytes);
}

/* Hands the elements at [rSI] to the client; `first` is the first one, already read (it may come from MMIO). */
static enum step outs_exit(struct soft_vcpu *sv, const struct string_op *op, unsigned port, uint32_t first)
{
    uint64_t n = elements_at_once(sv, op, false);
    exit_fill(sv, false, true, port, op->bytes, (uint32_t)n);
    light_copy(sv->v.exit.io.data, &first, op->bytes);
    if (n > 1) {
        uint64_t rest = n;
        const uint8_t *from = string_host(sv, op, op->source_seg, GPR_RSI, false, &rest);
        assert(from && rest == n); /* nothing but this thread changes the TLB */
        light_copy(sv->v.exit.io.data + op->bytes, from + op->bytes, (n - 1) * op->bytes);
    }
    string_advance(sv, op, n, true, false);
    sv->v.replay.n = sv->v.replay.next = 0;
    return op->is_rep && string_count(sv, op) ? STEP_REPEAT_EXIT : STEP_NEXT_EXIT;
}

enum step help_outs(struct soft_vcpu *sv, const struct insn *in)
{
    struct string_op op = string_op_of(sv, in);
    unsigned port = sv->v.cpu.gpr[GPR_RDX] & 0xffff;
    op.bytes = io_bytes(in);
    if (string_count(sv, &op) == 0)
        return STEP_NEXT;
    enum step st = io_permission(sv, port, op.bytes);
    if (st != STEP_NEXT)
        return st;

    for (unsigned i = 0; i < IO_BUDGET; i++) {
        uint32_t value;
        st = outs_load(sv, &op, &value);
        if (st == STEP_NEXT && i == 0)
            st = port_watch(sv, port, op.bytes, value, false);
        if (st != STEP_NEXT)
            return st;
        access_note_io(sv, port, op.bytes);
        if (device_out(sv, port, op.bytes, &value))
            return outs_exit(sv, &op, port, value);
        string_advance(sv, &op, 1, true, false);
        sv->v.replay.n = sv->v.replay.next = 0;
        watch_forget(&sv->v.watch);
        if (!op.is_rep || string_count(sv, &op) == 0)
            return STEP_NEXT;
        if (io_wants_break(sv))
            break;
    }
    return STEP_REPEAT;
}
