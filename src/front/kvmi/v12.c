/* SPDX-License-Identifier: MIT */
/*
 * The dialect last proposed for the kernel (v9 to v12), which its self-tests speak: its table of commands, its events. Layouts are src/abi/kvmi_v12.h's; what
 * is done is not here.
 */
#include "abi/kvmi_v12.h"

#include <string.h>

#include "front/kvmi/kvmi_priv.h"

/* ---- requests ---- */

static int get_version(struct kvmi_arg *a)
{
    *(struct kvmi12_version *)a->out = (struct kvmi12_version){ .version = KVMI_VERSION, .message_max = KVMI_MESSAGE_MAX, .has_singlestep = 1 };
    a->out_bytes = sizeof(struct kvmi12_version);
    return 0;
}

static int control_vm_events(struct kvmi_arg *a)
{
    const struct kvmi_control_events *in = a->in;
    return in->enable > 1 || in->event != KVMI12_EVENT_UNHOOK ? -EINVAL : kvmi_control_vm_event(a, KVMI_EVENT_UNHOOK, in->enable);
}

static int pause_vcpu(struct kvmi_arg *a)
{
    const struct kvmi12_pause *in = a->in;
    return in->wait > 1 || !kvmi_take_vcpu(a, in->vcpu) ? -EINVAL : kvmi_pause(a);
}

static int set_page_access(struct kvmi_arg *a)
{
    const struct kvmi12_set_page_access *in = a->in;
    if (!in->n_pages || a->in_bytes < sizeof *in + in->n_pages * sizeof(struct kvmi_page_access))
        return -EINVAL;
    int r = kvmi_set_access(a, 0, (const struct kvmi_page_access *)(in + 1), in->n_pages);
    return r == -EOPNOTSUPP ? -EINVAL : r;
}

/* Always on: what a tool leaves behind is nobody's to answer. */
static int control_cleanup(struct kvmi_arg *a)
{
    uint8_t enable = ((const struct kvmi_byte *)a->in)->value;
    return enable > 1 ? -EINVAL : enable ? 0 : -EOPNOTSUPP;
}

/* PAUSE, TRAP and SINGLESTEP follow from commands and have no switch. */
static int control_events(struct kvmi_arg *a)
{
    const struct kvmi_control_events *in = a->in;
    enum kvmi_event_id event = kvmi_event_at(a->session->dialect, in->event);
    if (in->enable > 1 || event == KVMI_EVENTS || event == KVMI_EVENT_UNHOOK || (a->session->dialect->events_always >> event & 1))
        return -EINVAL;
    return kvmi_control_event(a, event, in->enable);
}

static int get_registers(struct kvmi_arg *a)
{
    int r = kvmi_get_registers(a);
    return r == -E2BIG ? -EINVAL : r;
}

static int control_cr(struct kvmi_arg *a)
{
    const struct kvmi12_control_cr *in = a->in;
    return in->enable > 1 ? -EINVAL : kvmi_control_register(a, in->cr, in->enable);
}

static int control_msr(struct kvmi_arg *a)
{
    const struct kvmi_control_register *in = a->in;
    return in->enable > 1 ? -EINVAL : kvmi_control_msr(a, in->index, in->enable);
}

static int inject_exception(struct kvmi_arg *a)
{
    if (!kvmi_allows_event(a->session, KVMI_EVENT_TRAP))
        return -EPERM;
    return kvmi_is_stepped(a) ? -EBUSY : kvmi_inject_exception(a);
}

static int control_singlestep(struct kvmi_arg *a)
{
    uint8_t enable = ((const struct kvmi_byte *)a->in)->value;
    if (enable > 1)
        return -EINVAL;
    return kvmi_allows_event(a->session, KVMI_EVENT_SINGLESTEP) ? kvmi_control_step(a, enable) : -EPERM;
}

/* ---- the table ---- */

/* clang-format off */
static const struct kvmi_command commands[KVMI12_IDS] = {
    /* Not a command, but tools may ask for it: see kvmi_take_event_reply. */
    [KVMI12_VCPU_EVENT]              = { "VCPU_EVENT",              CPU, ERROR, sizeof(struct kvmi_event_reply),      0xfc,   NULL },
    [KVMI12_GET_VERSION]             = { "GET_VERSION",             ALL, DATA,  0,                                    0,      get_version },
    [KVMI12_VM_CHECK_COMMAND]        = { "VM_CHECK_COMMAND",        ALL, ERROR, sizeof(struct kvmi_check),            0xfc,   kvmi_check_command },
    [KVMI12_VM_CHECK_EVENT]          = { "VM_CHECK_EVENT",          ALL, ERROR, sizeof(struct kvmi_check),            0xfc,   kvmi_check_event },
    [KVMI12_VM_GET_INFO]             = { "VM_GET_INFO",             ALL, DATA,  0,                                    0,      kvmi_get_guest_info },
    [KVMI12_VM_CONTROL_EVENTS]       = { "VM_CONTROL_EVENTS",       ALL, ERROR, sizeof(struct kvmi_control_events),   0xf8,   control_vm_events },
    [KVMI12_VM_READ_PHYSICAL]        = { "VM_READ_PHYSICAL",        ALL, DATA,  sizeof(struct kvmi_physical),         0xfc00, kvmi_read_physical },
    [KVMI12_VM_WRITE_PHYSICAL]       = { "VM_WRITE_PHYSICAL",       ALL, ERROR, sizeof(struct kvmi_physical),         0xfc00, kvmi_write_physical },
    [KVMI12_VM_PAUSE_VCPU]           = { "VM_PAUSE_VCPU",           ALL, ERROR, sizeof(struct kvmi12_pause),          0xf8,   pause_vcpu },
    [KVMI12_VM_CONTROL_CLEANUP]      = { "VM_CONTROL_CLEANUP",      ALL, ERROR, sizeof(struct kvmi_byte),             0xfe,   control_cleanup },
    [KVMI12_VM_SET_PAGE_ACCESS]      = { "VM_SET_PAGE_ACCESS",      ALL, ERROR, sizeof(struct kvmi12_set_page_access), 0xfc, set_page_access },
    [KVMI12_VCPU_GET_INFO]           = { "VCPU_GET_INFO",           CPU, DATA,  0,                                    0,      kvmi_get_vcpu_info },
    [KVMI12_VCPU_CONTROL_EVENTS]     = { "VCPU_CONTROL_EVENTS",     CPU, ERROR, sizeof(struct kvmi_control_events),   0xf8,   control_events },
    [KVMI12_VCPU_GET_REGISTERS]      = { "VCPU_GET_REGISTERS",      CPU, DATA,  sizeof(struct kvmi_get_registers),    0xfc,   get_registers },
    [KVMI12_VCPU_SET_REGISTERS]      = { "VCPU_SET_REGISTERS",      CPU, ERROR, sizeof(struct kvm_regs),              0,      kvmi_set_registers },
    [KVMI12_VCPU_GET_CPUID]          = { "VCPU_GET_CPUID",          CPU, DATA,  sizeof(struct kvmi_get_cpuid),        0,      kvmi_get_cpuid },
    [KVMI12_VCPU_CONTROL_CR]         = { "VCPU_CONTROL_CR",         CPU, ERROR, sizeof(struct kvmi12_control_cr),     0xfc,   control_cr },
    [KVMI12_VCPU_INJECT_EXCEPTION]   = { "VCPU_INJECT_EXCEPTION",   CPU, ERROR, sizeof(struct kvmi_exception),        0x0e,   inject_exception },
    [KVMI12_VCPU_GET_XCR]            = { "VCPU_GET_XCR",            CPU, DATA,  sizeof(struct kvmi_byte),             0xfe,   kvmi_get_xcr },
    [KVMI12_VCPU_GET_XSAVE]          = { "VCPU_GET_XSAVE",          CPU, DATA,  0,                                    0,      kvmi_get_xsave },
    [KVMI12_VCPU_SET_XSAVE]          = { "VCPU_SET_XSAVE",          CPU, ERROR, XSAVE_AREA_BYTES,                     0,      kvmi_set_xsave },
    [KVMI12_VCPU_GET_MTRR_TYPE]      = { "VCPU_GET_MTRR_TYPE",      CPU, DATA,  sizeof(struct kvmi_number),           0,      kvmi_get_mtrr_type },
    [KVMI12_VCPU_CONTROL_MSR]        = { "VCPU_CONTROL_MSR",        CPU, ERROR, sizeof(struct kvmi_control_register), 0x0e,   control_msr },
    [KVMI12_VCPU_CONTROL_SINGLESTEP] = { "VCPU_CONTROL_SINGLESTEP", CPU, ERROR, sizeof(struct kvmi_byte),             0xfe,   control_singlestep },
    [KVMI12_VCPU_TRANSLATE_GVA]      = { "VCPU_TRANSLATE_GVA",      CPU, DATA,  sizeof(struct kvmi_number),           0,      kvmi_translate },
};
/* clang-format on */

static const struct kvmi_event_kind events[KVMI12_EVENTS] = {
    [KVMI12_EVENT_UNHOOK] = { "UNHOOK", KVMI_EVENT_UNHOOK },
    [KVMI12_EVENT_PAUSE] = { "PAUSE", KVMI_EVENT_PAUSE_VCPU },
    [KVMI12_EVENT_HYPERCALL] = { "HYPERCALL", KVMI_EVENT_HYPERCALL },
    [KVMI12_EVENT_BREAKPOINT] = { "BREAKPOINT", KVMI_EVENT_BREAKPOINT },
    [KVMI12_EVENT_CR] = { "CR", KVMI_EVENT_CR },
    [KVMI12_EVENT_TRAP] = { "TRAP", KVMI_EVENT_TRAP },
    [KVMI12_EVENT_XSETBV] = { "XSETBV", KVMI_EVENT_XSETBV },
    [KVMI12_EVENT_DESCRIPTOR] = { "DESCRIPTOR", KVMI_EVENT_DESCRIPTOR },
    [KVMI12_EVENT_MSR] = { "MSR", KVMI_EVENT_MSR },
    [KVMI12_EVENT_PF] = { "PF", KVMI_EVENT_PF },
    [KVMI12_EVENT_SINGLESTEP] = { "SINGLESTEP", KVMI_EVENT_SINGLESTEP },
};

/* ---- events ---- */

static uint16_t number_of(enum kvmi_event_id event)
{
    uint16_t i = 0;
    while (!events[i].name || events[i].event != event)
        i++;
    return i;
}

static uint32_t encode_specific(const struct kvmi_told *t, void *out)
{
    switch (t->event) {
    case KVMI_EVENT_CR:
    case KVMI_EVENT_XSETBV:
        return KVMI_PUT(out, kvmi12_event_register, .index = (uint8_t)t->index, .old_value = t->old_value, .new_value = t->value);
    case KVMI_EVENT_MSR:
        return KVMI_PUT(out, kvmi_event_msr, .msr = t->index, .old_value = t->old_value, .new_value = t->value);
    case KVMI_EVENT_BREAKPOINT:
        return KVMI_PUT(out, kvmi_event_breakpoint, .gpa = t->gpa, .insn_bytes = t->insn_bytes);
    case KVMI_EVENT_PF:
        return KVMI_PUT(out, kvmi_event_pf, .gva = t->gva, .gpa = t->gpa, .access = (uint8_t)t->access);
    case KVMI_EVENT_TRAP:
        return KVMI_PUT(out, kvmi_event_trap, .vector = (uint8_t)t->index, .error_code = (uint32_t)t->old_value, .cr2 = t->value);
    case KVMI_EVENT_DESCRIPTOR:
        return KVMI_PUT(out, kvmi_event_descriptor, .descriptor = kvmi_descriptor_of(t->index), .is_write = t->access == WATCH_WRITE);
    case KVMI_EVENT_SINGLESTEP:
        return KVMI_PUT(out, kvmi_byte, .value = t->is_failed);
    default:
        return 0;
    }
}

static uint32_t encode_event(const struct kvmi_told *t, uint16_t *id, void *out)
{
    const struct kvmi12_event_head head = { .event = number_of(t->event) };
    struct kvmi_event common;
    memcpy(out, &head, sizeof head);
    *id = t->event == KVMI_EVENT_UNHOOK ? KVMI12_VM_EVENT : KVMI12_VCPU_EVENT;
    if (t->event == KVMI_EVENT_UNHOOK)
        return sizeof head;
    kvmi_encode_state(t, &common);
    memcpy((char *)out + sizeof head, &common, sizeof common);
    return (uint32_t)(sizeof head + sizeof common) + encode_specific(t, (char *)out + sizeof head + sizeof common);
}

static bool decode_reply(enum kvmi_event_id event, unsigned vcpu, const uint8_t *payload, uint32_t bytes, struct kvmi_verdict *out)
{
    bool has_value = event == KVMI_EVENT_CR || event == KVMI_EVENT_MSR;
    if (!kvmi_decode_answer(number_of(event), vcpu, payload, bytes, has_value ? sizeof out->value : 0, out))
        return false;
    if (has_value)
        kvmi_decode_value(payload, bytes, out);
    return true;
}

const struct kvmi_dialect kvmi_dialect_v12 = { .letter = 'c',
                                               .name = "v12",
                                               .n_commands = KVMI12_IDS,
                                               .n_events = KVMI12_EVENTS,
                                               .command = commands,
                                               .event = events,
                                               .events_always = 1u << KVMI_EVENT_PAUSE_VCPU | 1u << KVMI_EVENT_TRAP | 1u << KVMI_EVENT_SINGLESTEP,
                                               .id_event_reply = KVMI12_VCPU_EVENT,
                                               .id_ours = KVMI12_VM_EVENT,
                                               .encode_reply = kvmi_encode_reply,
                                               .encode_event = encode_event,
                                               .decode_reply = decode_reply };
