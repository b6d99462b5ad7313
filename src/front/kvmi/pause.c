/* SPDX-License-Identifier: MIT */
/*
 * PAUSE_VCPU and its event. The vCPU stands still from the command on (core/hold.h), so the command's reply is the barrier that tools wait for; the event tells
 * its state when the tool has no more commands under way, and the answer to that lets the vCPU go. Commands about it are answered meanwhile.
 */
#include <string.h>

#include "core/hold.h"
#include "front/kvmi/kvmi_priv.h"

int kvmi_pause_vcpu(struct kvmi_arg *a)
{
    if (((const struct kvmi_pause *)a->in)->wait > 1)
        return -EINVAL;
    if (a->cpu->n_pauses == KVMI_PAUSES_MAX)
        return -EBUSY;
    a->cpu->n_pauses++;
    hold_vcpu(a->vcpu);
    return 0;
}

static void event_describe(struct vcpu *v, void *out)
{
    kvmi_event_fill(v, out);
}

static ssize_t event_finish(struct kvmi_session *s, struct kvmi_event *event, enum kvmi_event_id id, unsigned vcpu, void *out)
{
    struct kvmi_head head = { .id = KVMI_EVENT, .bytes = sizeof *event, .sequence = s->next_sequence++ };
    event->bytes = sizeof *event;
    event->vcpu = (uint16_t)vcpu;
    event->event = (uint8_t)id;
    memcpy(out, &head, sizeof head);
    memcpy((char *)out + sizeof head, event, sizeof *event);
    return sizeof head + sizeof *event;
}

/* The VM is no more: said once, if it was asked for. */
static ssize_t unhook_event(struct kvmi_session *s, void *out)
{
    struct kvmi_event event = { 0 };
    if (!s->wants_unhook)
        return -ESRCH;
    s->wants_unhook = false;
    return event_finish(s, &event, KVMI_EVENT_UNHOOK, 0, out);
}

ssize_t kvmi_next_event(struct kvmi_session *s, void *out)
{
    struct kvmi_event event = { 0 };
    unsigned i = 0;
    struct vm *vm = vm_find_exactly(s->vm_number);
    if (!vm)
        return unhook_event(s, out);
    while (i < s->n_cpus && (!s->cpu[i].n_pauses || s->cpu[i].is_told))
        i++;
    if (i < s->n_cpus) {
        s->cpu[i].is_told = true;
        s->cpu[i].event_sequence = s->next_sequence;
        hold_call(kvmi_vcpu_of(vm, &s->cpu[i]), event_describe, &event);
    }
    vm_put(vm);
    return i < s->n_cpus ? event_finish(s, &event, KVMI_EVENT_PAUSE_VCPU, i, out) : 0;
}

static void let_go(struct vm *vm, struct kvmi_cpu *cpu)
{
    cpu->n_pauses--;
    cpu->is_told = false;
    hold_release_vcpu(kvmi_vcpu_of(vm, cpu));
}

bool kvmi_take_event_reply(struct kvmi_session *s, struct vm *vm, const struct kvmi_head *head, const void *payload)
{
    struct {
        struct kvmi_vcpu vcpu;
        struct kvmi_event_reply reply;
    } in;
    if (head->bytes != sizeof in)
        return false;
    memcpy(&in, payload, sizeof in);
    if (in.vcpu.zero1 || in.vcpu.zero2 || in.reply.zero1 || in.reply.zero2 || in.vcpu.vcpu >= s->n_cpus)
        return false;
    struct kvmi_cpu *cpu = &s->cpu[in.vcpu.vcpu];
    bool is_asked = cpu->is_told && cpu->event_sequence == head->sequence && in.reply.event == KVMI_EVENT_PAUSE_VCPU;
    if (!is_asked || (in.reply.action != KVMI_CONTINUE && in.reply.action != KVMI_CRASH))
        return false;
    if (in.reply.action == KVMI_CRASH) /* its client sees a shutdown */
        vcpu_request(kvmi_vcpu_of(vm, cpu), VREQ_TRIPLE_FAULT);
    let_go(vm, cpu);
    return true;
}

void kvmi_pauses_end(struct kvmi_session *s, struct vm *vm)
{
    for (unsigned i = 0; i < s->n_cpus; i++)
        while (s->cpu[i].n_pauses)
            let_go(vm, &s->cpu[i]);
}
