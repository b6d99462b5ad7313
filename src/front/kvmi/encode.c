/* SPDX-License-Identifier: MIT */
/* What dialects have in common where they put an event and its answer into bytes. Layouts are src/abi/kvmi.h's. See kvmi_priv.h. */
#include <string.h>

#include "front/kvmi/kvmi_priv.h"

void kvmi_encode_state(const struct kvmi_told *t, struct kvmi_event *out)
{
    const struct kvmi_state *s = &t->state;
    *out = (struct kvmi_event){ .bytes = sizeof *out,
                                .vcpu = (uint16_t)t->vcpu,
                                .mode = s->mode,
                                .regs = s->regs,
                                .sregs = s->sregs,
                                .sysenter_cs = s->sysenter_cs,
                                .sysenter_esp = s->sysenter_esp,
                                .sysenter_eip = s->sysenter_eip,
                                .efer = s->efer,
                                .star = s->star,
                                .lstar = s->lstar,
                                .cstar = s->cstar,
                                .pat = s->pat,
                                .kernel_gs_base = s->kernel_gs_base };
}

uint32_t kvmi_encode_reply(unsigned id, int error, uint32_t bytes, uint8_t *payload)
{
    const struct kvmi_error head = { .error = error };
    (void)id;
    memcpy(payload, &head, sizeof head);
    return (uint32_t)sizeof head + (error ? 0 : bytes);
}

uint8_t kvmi_descriptor_of(uint32_t table)
{
    static const uint8_t number[] = { [WATCH_IDTR] = 1, [WATCH_GDTR] = 2, [WATCH_LDTR] = 3, [WATCH_TR] = 4 };
    return number[table];
}

bool kvmi_decode_answer(unsigned event, unsigned vcpu, const uint8_t *payload, uint32_t bytes, uint32_t more_bytes, struct kvmi_verdict *out)
{
    struct {
        struct kvmi_vcpu vcpu;
        struct kvmi_event_reply reply;
    } in;
    if (bytes < sizeof in || bytes > sizeof in + more_bytes)
        return false;
    memcpy(&in, payload, sizeof in);
    if (in.vcpu.zero1 || in.vcpu.zero2 || in.reply.zero1 || in.reply.zero2 || in.vcpu.vcpu != vcpu || in.reply.event != event)
        return false;
    out->action = in.reply.action;
    return true;
}

void kvmi_decode_value(const uint8_t *payload, uint32_t bytes, struct kvmi_verdict *out)
{
    const uint32_t at = sizeof(struct kvmi_vcpu) + sizeof(struct kvmi_event_reply);
    out->has_value = bytes == at + sizeof out->value;
    if (out->has_value)
        memcpy(&out->value, payload + at, sizeof out->value);
}

bool kvmi_decode_access(const uint8_t *payload, uint32_t bytes, struct kvmi_verdict *out)
{
    const uint32_t at = sizeof(struct kvmi_vcpu) + sizeof(struct kvmi_event_reply);
    struct kvmi_event_pf_reply in = { 0 };
    memcpy(&in, payload + at, bytes - at);
    if (in.singlestep > 1 || in.rep_complete > 1 || in.zero || in.context_bytes > KVMI_CONTEXT_MAX)
        return false;
    out->is_step = in.singlestep;
    out->is_rep_complete = in.rep_complete;
    out->data_address = in.context_at;
    out->data_bytes = in.context_bytes;
    memcpy(out->data, in.context, in.context_bytes);
    return true;
}
