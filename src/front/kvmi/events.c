/* SPDX-License-Identifier: MIT */
/*
 * Events to the tool and its answers. An event is a question (introspect/listen.h), by which the vCPU is held before the instruction, or a pause: the vCPU
 * stands still from PAUSE_VCPU on (core/hold.h), so the command's reply is the barrier that tools wait for. A vCPU has one event at the tool at a time;
 * commands about it are answered meanwhile. A pause is told last, when the vCPU has no question and the tool no more commands under way.
 */
#include <string.h>

#include "core/hold.h"
#include "front/kvmi/kvmi_priv.h"
#include "introspect/view.h"
#include "introspect/walk.h"

#define RECORDS_AT_ONCE 16
#define CR3_NOFLUSH (1ull << 63)

int kvmi_pause(struct kvmi_arg *a)
{
    if (a->cpu->n_pauses == KVMI_PAUSES_MAX)
        return -EBUSY;
    if (!kvmi_allows_event(a->session, KVMI_EVENT_PAUSE_VCPU))
        return -EPERM;
    a->cpu->n_pauses++;
    hold_vcpu(a->vcpu);
    return 0;
}

/* ---- what happened ---- */

static enum kvmi_event_id event_of(const struct watch_event *e)
{
    switch (e->kind) {
    case WATCH_CR:
        return KVMI_EVENT_CR;
    case WATCH_MSR_WRITE:
        return KVMI_EVENT_MSR;
    case WATCH_XSETBV:
        return KVMI_EVENT_XSETBV;
    case WATCH_INT3:
        return KVMI_EVENT_BREAKPOINT;
    case WATCH_HYPERCALL:
        return KVMI_EVENT_HYPERCALL;
    case WATCH_TABLE:
        return KVMI_EVENT_DESCRIPTOR;
    case WATCH_CPUID:
        return KVMI_EVENT_CPUID;
    case WATCH_STEP:
        return KVMI_EVENT_SINGLESTEP;
    case WATCH_ACCESS:
        return KVMI_EVENT_PF;
    case WATCH_VCPU:
        return KVMI_EVENT_CREATE_VCPU;
    default:
        return KVMI_EVENT_TRAP;
    }
}

/* On the vCPU that stands still. */
struct description {
    struct kvmi_session *session;
    struct kvmi_told *told;
    struct look_paging paging;
};

static void describe(struct vcpu *v, void *arg)
{
    struct description *d = arg;
    kvmi_state_fill(v, &d->told->state);
    look_paging_of(v, &d->paging);
    d->told->gva = v->cpu.seg[SEG_CS].base * (d->told->state.mode != 8) + v->cpu.rip;
    d->told->is_failed = d->told->event == KVMI_EVENT_SINGLESTEP && d->session->wants[v->id].is_step_interrupted;
    d->session->wants[v->id].is_step_interrupted = false;
}

static void locate(struct vm *vm, const struct look_paging *paging, struct kvmi_told *t)
{
    struct look_walk w;
    if (t->event != KVMI_EVENT_BREAKPOINT)
        return;
    look_walk(vm, paging, t->gva, &w);
    t->gpa = w.result == WALK_OK ? w.gpa : ~0ull;
}

static uint16_t view_of_cpu(struct kvmi_session *s, const struct kvmi_cpu *cpu)
{
    int view = s->listener ? look_view_of(s->listener, cpu->id) : 0;
    return view > 0 ? (uint16_t)view : 0;
}

static void tell_question(struct kvmi_session *s, struct vm *vm, struct kvmi_cpu *cpu, struct kvmi_told *t)
{
    const struct watch_event *e = &cpu->asked.event;
    struct description d = { .session = s, .told = t };
    t->event = event_of(e);
    t->index = e->index;
    t->access = e->access;
    t->insn_bytes = (uint8_t)e->bytes;
    t->old_value = e->old_value;
    t->value = e->kind == WATCH_CR && e->index == 3 ? e->value & ~CR3_NOFLUSH : e->value;
    hold_call(kvmi_vcpu_of(vm, cpu), describe, &d);
    t->state.view = view_of_cpu(s, cpu);
    locate(vm, &d.paging, t);
    if (t->event == KVMI_EVENT_PF) {
        t->gva = e->gva;
        t->gpa = e->gpa;
        t->access = kvmi_failed_access(s, t->state.view, e);
    }
    cpu->old_value = t->old_value;
    cpu->value = t->value;
}

static void tell_pause(struct kvmi_session *s, struct vm *vm, struct kvmi_cpu *cpu, struct kvmi_told *t)
{
    struct description d = { .session = s, .told = t };
    t->event = KVMI_EVENT_PAUSE_VCPU;
    hold_call(kvmi_vcpu_of(vm, cpu), describe, &d);
    t->state.view = view_of_cpu(s, cpu);
}

static ssize_t send_event(struct kvmi_session *s, const struct kvmi_told *t, void *out)
{
    struct kvmi_head head = { .sequence = s->next_sequence++ };
    head.bytes = (uint16_t)s->dialect->encode_event(t, &head.id, (char *)out + sizeof head);
    memcpy(out, &head, sizeof head);
    return (ssize_t)sizeof head + head.bytes;
}

/* ---- which is next ---- */

static void take_question(struct kvmi_session *s, struct vm *vm, const struct watch_record *r)
{
    if (!kvmi_cpu_of(s, r->vcpu))
        kvmi_notice_cpus(s, vm); /* a new one may be the first to ask */
    struct kvmi_cpu *cpu = kvmi_cpu_of(s, r->vcpu);
    cpu->asked = *r;
    cpu->has_question = true;
}

static void take_questions(struct kvmi_session *s, struct vm *vm)
{
    struct watch_record record[RECORDS_AT_ONCE];
    uint64_t dropped;
    unsigned n;
    if (!s->listener)
        return;
    do {
        n = look_listener_next(s->listener, record, RECORDS_AT_ONCE, &dropped);
        for (unsigned i = 0; i < n; i++)
            if (record[i].question)
                take_question(s, vm, &record[i]);
    } while (n == RECORDS_AT_ONCE);
}

static struct kvmi_cpu *next_cpu(struct kvmi_session *s)
{
    for (unsigned i = 0; i < s->n_cpus; i++)
        if (s->cpu[i].has_question && !s->cpu[i].is_told)
            return &s->cpu[i];
    for (unsigned i = 0; i < s->n_cpus; i++)
        if (s->cpu[i].n_pauses && !s->cpu[i].is_told)
            return &s->cpu[i];
    return NULL;
}

ssize_t kvmi_unhook(struct kvmi_session *s, void *out)
{
    const struct kvmi_told t = { .event = KVMI_EVENT_UNHOOK };
    if (!s->wants_unhook)
        return -ESRCH;
    s->wants_unhook = false;
    return send_event(s, &t, out);
}

/* An answer that cannot be given must not leave the vCPU waiting. */
static void answer_question(struct kvmi_session *s, struct kvmi_cpu *cpu, const struct watch_reply *reply)
{
    cpu->has_question = false;
    if (look_reply(s->listener, cpu->id, cpu->asked.question, reply))
        look_answer(s->listener, cpu->id, cpu->asked.question, WATCH_CONTINUE, 0);
}

/* The tool said of an earlier piece of this repeated instruction that it wants to hear no more: the count goes down, and nothing else runs. */
static bool is_rest_of_repetition(const struct kvmi_cpu *cpu)
{
    const struct watch_record *r = &cpu->asked;
    return cpu->is_rep_complete && r->rip == cpu->rep_rip && r->gpr[GPR_RCX] < cpu->rep_count && r->gpr[GPR_RCX];
}

/* Pages are watched whether the event is wanted or not. */
static bool is_nothing_new(const struct kvmi_session *s, struct kvmi_cpu *cpu, const struct kvmi_told *t)
{
    if (t->event != KVMI_EVENT_PF)
        return false;
    if (!is_rest_of_repetition(cpu))
        cpu->is_rep_complete = false;
    cpu->rep_count = cpu->asked.gpr[GPR_RCX];
    return !t->access || !(atomic_load(&s->wants[cpu->id].events) >> KVMI_EVENT_PF & 1) || cpu->is_rep_complete;
}

ssize_t kvmi_next_event(struct kvmi_session *s, void *out)
{
    struct vm *vm = vm_find_exactly(s->vm_number);
    struct kvmi_cpu *cpu;
    ssize_t n = 0;
    if (!vm)
        return kvmi_unhook(s, out);
    kvmi_notice_cpus(s, vm);
    take_questions(s, vm);
    while (!n && (cpu = next_cpu(s))) {
        struct kvmi_told t = { .vcpu = (unsigned)(cpu - s->cpu) };
        if (cpu->has_question)
            tell_question(s, vm, cpu, &t);
        else
            tell_pause(s, vm, cpu, &t);
        if (is_nothing_new(s, cpu, &t)) {
            answer_question(s, cpu, &(struct watch_reply){ .answer = WATCH_CONTINUE });
            continue;
        }
        cpu->is_told = true;
        cpu->told_event = t.event;
        cpu->sequence = s->next_sequence;
        n = send_event(s, &t, out);
    }
    vm_put(vm);
    return n;
}

/* ---- the tool's answer ---- */

/* The value that was there means no change at all; a register may have been written since for reasons of its own. */
static enum watch_answer answer_to_value(const struct kvmi_cpu *cpu, const struct kvmi_verdict *verdict)
{
    if (!verdict->has_value || verdict->value == cpu->value)
        return WATCH_CONTINUE;
    return verdict->value == cpu->old_value ? WATCH_DENY : WATCH_CHANGE;
}

/* Whether the tool gives what is read there: of the instruction's own bytes those from its first on. */
static bool has_data_for(const struct watch_event *e, const struct kvmi_verdict *verdict)
{
    uint64_t at = e->gva - verdict->data_address, before = verdict->data_address - e->gva;
    if (e->access == WATCH_WRITE || !verdict->data_bytes)
        return false;
    return at < verdict->data_bytes || (before < e->bytes && !(e->access & WATCH_EXECUTE));
}

/* RETRY with a step is what CONTINUE does: the instruction is executed past the permission, once. */
static void access_reply(struct kvmi_cpu *cpu, const struct kvmi_verdict *verdict, struct watch_reply *out)
{
    const struct watch_event *e = &cpu->asked.event;
    cpu->rep_rip = cpu->asked.rip;
    cpu->is_rep_complete = verdict->is_rep_complete && verdict->action == KVMI_CONTINUE;
    if (verdict->action == KVMI_RETRY && !verdict->is_step)
        out->answer = WATCH_RETRY;
    if (verdict->action != KVMI_CONTINUE || !has_data_for(e, verdict))
        return;
    uint32_t skip = e->access & WATCH_EXECUTE ? (uint32_t)(e->gva - verdict->data_address) : 0;
    out->answer = WATCH_EMULATE;
    out->data_at = verdict->data_address + skip;
    out->data_bytes = verdict->data_bytes - skip;
    memcpy(out->data, verdict->data + skip, out->data_bytes);
}

static void reply_fill(struct kvmi_cpu *cpu, const struct kvmi_verdict *verdict, struct watch_reply *out)
{
    *out = (struct watch_reply){ .answer = verdict->action == KVMI_RETRY ? WATCH_RETRY : WATCH_CONTINUE, .value = verdict->value };
    if (verdict->action == KVMI_CRASH) { /* its client sees a shutdown */
        out->answer = WATCH_CRASH;
    } else if (verdict->is_denied) {
        out->answer = WATCH_DENY;
    } else if (cpu->told_event == KVMI_EVENT_PF) {
        out->answer = WATCH_CONTINUE;
        access_reply(cpu, verdict, out);
    } else if (cpu->told_event == KVMI_EVENT_CR || cpu->told_event == KVMI_EVENT_MSR) {
        out->answer = answer_to_value(cpu, verdict);
    } else if (cpu->told_event == KVMI_EVENT_HYPERCALL) { /* it is the tool's, so it succeeds */
        out->answer = WATCH_EMULATE;
        out->value = 0;
    }
}

static void end_pause(struct vm *vm, struct kvmi_cpu *cpu, const struct kvmi_verdict *verdict)
{
    struct vcpu *v = kvmi_vcpu_of(vm, cpu);
    if (verdict->action == KVMI_CRASH)
        vcpu_request(v, VREQ_TRIPLE_FAULT);
    cpu->n_pauses--;
    hold_release_vcpu(v);
}

static void let_go(struct kvmi_session *s, struct vm *vm, struct kvmi_cpu *cpu, const struct kvmi_verdict *verdict)
{
    struct watch_reply reply;
    cpu->is_told = false;
    if (verdict->has_regs)
        kvmi_put_registers(kvmi_vcpu_of(vm, cpu), &verdict->regs);
    if (cpu->told_event == KVMI_EVENT_PAUSE_VCPU) { /* a question may have come since: somebody else can step a held vCPU */
        end_pause(vm, cpu, verdict);
        return;
    }
    reply_fill(cpu, verdict, &reply);
    answer_question(s, cpu, &reply);
}

/* CONTINUE and CRASH answer all events. */
static bool is_known_action(enum kvmi_event_id event, enum kvmi_action action)
{
    const uint32_t with_retry = 1u << KVMI_EVENT_BREAKPOINT | 1u << KVMI_EVENT_PF | 1u << KVMI_EVENT_DESCRIPTOR;
    return action == KVMI_CONTINUE || action == KVMI_CRASH || (action == KVMI_RETRY && (with_retry >> event & 1));
}

bool kvmi_take_event_reply(struct kvmi_session *s, struct vm *vm, const struct kvmi_head *head, const void *payload)
{
    struct kvmi_verdict verdict = { 0 };
    unsigned i = 0;
    while (i < s->n_cpus && !(s->cpu[i].is_told && s->cpu[i].sequence == head->sequence))
        i++;
    if (i == s->n_cpus || !s->dialect->decode_reply(s->cpu[i].told_event, i, payload, head->bytes, &verdict) ||
        !is_known_action(s->cpu[i].told_event, verdict.action))
        return false;
    if (verdict.is_data_of_event)
        verdict.data_address = s->cpu[i].asked.event.gva;
    let_go(s, vm, &s->cpu[i], &verdict);
    return true;
}

void kvmi_pauses_end(struct kvmi_session *s, struct vm *vm)
{
    if (s->holds_vm)
        hold_release_vm(vm);
    s->holds_vm = false;
    for (unsigned i = 0; i < s->n_cpus; i++)
        for (; s->cpu[i].n_pauses; s->cpu[i].n_pauses--)
            hold_release_vcpu(kvmi_vcpu_of(vm, &s->cpu[i]));
}

int kvmi_session_fd(const struct kvmi_session *s)
{
    return s->listener ? look_listener_fd(s->listener) : -1;
}
