/* SPDX-License-Identifier: MIT */
/*
 * The dialect of libkvmi since 2020, and of all tools that use it: its table of commands, its events. Layouts are src/abi/kvmi.h's; what is done is not here.
 */
#include <string.h>

#include "front/kvmi/kvmi_priv.h"

/* ---- requests ---- */

static int get_version(struct kvmi_arg *a)
{
    *(struct kvmi_version *)a->out = (struct kvmi_version){ .version = KVMI_VERSION, .has_spp = 1, .has_eptp_switching = 1 };
    a->out_bytes = sizeof(struct kvmi_version);
    return 0;
}

static int pause_vcpu(struct kvmi_arg *a)
{
    return ((const struct kvmi_pause *)a->in)->wait > 1 ? -EINVAL : kvmi_pause(a);
}

static int control_vm_events(struct kvmi_arg *a)
{
    const struct kvmi_control_events *in = a->in;
    return in->enable > 1 ? -EINVAL : kvmi_control_vm_event(a, in->event, in->enable);
}

static int control_events(struct kvmi_arg *a)
{
    const struct kvmi_control_events *in = a->in;
    return in->enable > 1 ? -EINVAL : kvmi_control_event(a, in->event, in->enable);
}

static int control_cr(struct kvmi_arg *a)
{
    const struct kvmi_control_register *in = a->in;
    return in->enable > 1 ? -EINVAL : kvmi_control_register(a, in->index, in->enable);
}

static int control_msr(struct kvmi_arg *a)
{
    const struct kvmi_control_register *in = a->in;
    return in->enable > 1 ? -EINVAL : kvmi_control_msr(a, in->index, in->enable);
}

static int control_singlestep(struct kvmi_arg *a)
{
    uint8_t enable = ((const struct kvmi_byte *)a->in)->value;
    return enable > 1 ? -EINVAL : kvmi_control_step(a, enable);
}

static int control_cmd_response(struct kvmi_arg *a)
{
    const struct kvmi_cmd_response *in = a->in;
    if (in->enable > 1 || in->now > 1)
        return -EINVAL;
    a->session->is_silent_next = !in->enable;
    if (in->now)
        a->session->is_silent = !in->enable;
    return 0;
}

/* Of old it was about #VE, with a request: GET_EPT_PAGE_CONV. */
static int get_next_available_gfn(struct kvmi_arg *a)
{
    return a->in_bytes >= KVMI_PAGE_CONV_BYTES ? -EOPNOTSUPP : kvmi_get_next_available_gfn(a);
}

/* ---- the table ---- */

/* clang-format off */
static const struct kvmi_command commands[KVMI_IDS] = {
    /* Not a command, but tools may ask for it: see kvmi_take_event_reply. */
    [KVMI_EVENT_REPLY]             = { "EVENT_REPLY",             CPU, ERROR, sizeof(struct kvmi_event_reply),      0xfc, NULL },
    [KVMI_GET_VERSION]             = { "GET_VERSION",             ALL, DATA,  0,                                    0,    get_version },
    [KVMI_CHECK_COMMAND]           = { "CHECK_COMMAND",           ALL, ERROR, sizeof(struct kvmi_check),            0xfc, kvmi_check_command },
    [KVMI_CHECK_EVENT]             = { "CHECK_EVENT",             ALL, ERROR, sizeof(struct kvmi_check),            0xfc, kvmi_check_event },
    [KVMI_GET_GUEST_INFO]          = { "GET_GUEST_INFO",          ALL, DATA,  0,                                    0,    kvmi_get_guest_info },
    [KVMI_GET_VCPU_INFO]           = { "GET_VCPU_INFO",           CPU, DATA,  0,                                    0,    kvmi_get_vcpu_info },
    [KVMI_PAUSE_VCPU]              = { "PAUSE_VCPU",              CPU, ERROR, sizeof(struct kvmi_pause),            0xfe, pause_vcpu },
    [KVMI_CONTROL_VM_EVENTS]       = { "CONTROL_VM_EVENTS",       ALL, ERROR, sizeof(struct kvmi_control_events),   0xf8, control_vm_events },
    [KVMI_CONTROL_EVENTS]          = { "CONTROL_EVENTS",          CPU, ERROR, sizeof(struct kvmi_control_events),   0xf8, control_events },
    [KVMI_CONTROL_CR]              = { "CONTROL_CR",              CPU, ERROR, sizeof(struct kvmi_control_register), 0x0e, control_cr },
    [KVMI_CONTROL_MSR]             = { "CONTROL_MSR",             CPU, ERROR, sizeof(struct kvmi_control_register), 0x0e, control_msr },
    [KVMI_CONTROL_VE]              = { "CONTROL_VE",              CPU, ERROR, 0,                                    0,    kvmi_refuse },
    [KVMI_GET_REGISTERS]           = { "GET_REGISTERS",           CPU, DATA,  sizeof(struct kvmi_get_registers),    0xfc, kvmi_get_registers },
    [KVMI_SET_REGISTERS]           = { "SET_REGISTERS",           CPU, ERROR, sizeof(struct kvm_regs),              0,    kvmi_set_registers },
    [KVMI_GET_CPUID]               = { "GET_CPUID",               CPU, DATA,  sizeof(struct kvmi_get_cpuid),        0,    kvmi_get_cpuid },
    [KVMI_GET_XSAVE]               = { "GET_XSAVE",               CPU, DATA,  0,                                    0,    kvmi_get_xsave },
    [KVMI_READ_PHYSICAL]           = { "READ_PHYSICAL",           ALL, DATA,  sizeof(struct kvmi_physical),         0,    kvmi_read_physical },
    [KVMI_WRITE_PHYSICAL]          = { "WRITE_PHYSICAL",          ALL, ERROR, sizeof(struct kvmi_physical),         0,    kvmi_write_physical },
    [KVMI_INJECT_EXCEPTION]        = { "INJECT_EXCEPTION",        CPU, ERROR, sizeof(struct kvmi_exception),        0x0e, kvmi_inject_exception },
    [KVMI_GET_PAGE_ACCESS]         = { "GET_PAGE_ACCESS",         ALL, DATA,  sizeof(struct kvmi_pages),            0xf0, kvmi_get_page_access },
    [KVMI_SET_PAGE_ACCESS]         = { "SET_PAGE_ACCESS",         ALL, ERROR, sizeof(struct kvmi_pages),            0xf0, kvmi_set_page_access },
    [KVMI_GET_MAP_TOKEN]           = { "GET_MAP_TOKEN",           ALL, ERROR, 0,                                    0,    kvmi_refuse },
    [KVMI_GET_MTRR_TYPE]           = { "GET_MTRR_TYPE",           CPU, DATA,  sizeof(struct kvmi_number),           0,    kvmi_get_mtrr_type },
    [KVMI_CONTROL_SPP]             = { "CONTROL_SPP",             ALL, ERROR, sizeof(struct kvmi_enable),           0xfe, kvmi_control_spp },
    [KVMI_GET_PAGE_WRITE_BITMAP]   = { "GET_PAGE_WRITE_BITMAP",   ALL, DATA,  sizeof(struct kvmi_pages),            0xf0, kvmi_get_page_write_bitmap },
    [KVMI_SET_PAGE_WRITE_BITMAP]   = { "SET_PAGE_WRITE_BITMAP",   ALL, ERROR, sizeof(struct kvmi_pages),            0xf0, kvmi_set_page_write_bitmap },
    [KVMI_CONTROL_CMD_RESPONSE]    = { "CONTROL_CMD_RESPONSE",    ALL, ERROR, sizeof(struct kvmi_cmd_response),     0xfc, control_cmd_response },
    [KVMI_SET_VE_INFO_PAGE]        = { "SET_VE_INFO_PAGE",        CPU, ERROR, 0,                                    0,    kvmi_refuse },
    [KVMI_GET_MAX_GFN]             = { "GET_MAX_GFN",             ALL, DATA,  0,                                    0,    kvmi_get_max_gfn },
    [KVMI_SET_EPT_PAGE_CONV]       = { "SET_EPT_PAGE_CONV",       ALL, ERROR, 0,                                    0,    kvmi_refuse },
    [KVMI_GET_NEXT_AVAILABLE_GFN]  = { "GET_NEXT_AVAILABLE_GFN",  ALL, DATA,  0,                                    0,    get_next_available_gfn },
    [KVMI_SWITCH_EPT_VIEW]         = { "SWITCH_EPT_VIEW",         CPU, ERROR, sizeof(struct kvmi_view),             0xfc, kvmi_switch_view },
    [KVMI_DISABLE_VE]              = { "DISABLE_VE",              CPU, ERROR, 0,                                    0,    kvmi_refuse },
    [KVMI_GET_EPT_VIEW]            = { "GET_EPT_VIEW",            CPU, DATA,  0,                                    0,    kvmi_get_view },
    [KVMI_VCPU_TRANSLATE_GVA]      = { "VCPU_TRANSLATE_GVA",      CPU, DATA,  sizeof(struct kvmi_number),           0,    kvmi_translate },
    [KVMI_CONTROL_EPT_VIEW]        = { "CONTROL_EPT_VIEW",        CPU, ERROR, 0,                                    0,    kvmi_refuse },
    [KVMI_VCPU_GET_XCR]            = { "VCPU_GET_XCR",            CPU, DATA,  sizeof(struct kvmi_byte),             0xfe, kvmi_get_xcr },
    [KVMI_VCPU_SET_XSAVE]          = { "VCPU_SET_XSAVE",          CPU, ERROR, XSAVE_AREA_BYTES,                     0,    kvmi_set_xsave },
    [KVMI_QUERY_PHYSICAL]          = { "QUERY_PHYSICAL",          ALL, DATA,  sizeof(struct kvmi_number),           0,    kvmi_query_physical },
    [KVMI_VCPU_ALLOC_GFN]          = { "VCPU_ALLOC_GFN",          CPU, ERROR, sizeof(struct kvmi_number),           0,    kvmi_alloc_gfn },
    [KVMI_VCPU_FREE_GFN]           = { "VCPU_FREE_GFN",           CPU, ERROR, sizeof(struct kvmi_number),           0,    kvmi_free_gfn },
    [KVMI_CREATE_EPT_VIEW]         = { "CREATE_EPT_VIEW",         ALL, DATA,  0,                                    0,    kvmi_create_view },
    [KVMI_DESTROY_EPT_VIEW]        = { "DESTROY_EPT_VIEW",        ALL, ERROR, sizeof(struct kvmi_view),             0xfc, kvmi_destroy_view },
    [KVMI_VCPU_CHANGE_GFN]         = { "VCPU_CHANGE_GFN",         CPU, ERROR, sizeof(struct kvmi_change_gfn),       0,    kvmi_change_gfn },
    [KVMI_VCPU_CONTROL_SINGLESTEP] = { "VCPU_CONTROL_SINGLESTEP", CPU, ERROR, sizeof(struct kvmi_byte),             0xfe, control_singlestep },
};
/* clang-format on */

static const struct kvmi_event_kind events[KVMI_EVENTS] = {
    [KVMI_EVENT_UNHOOK] = { "UNHOOK", KVMI_EVENT_UNHOOK },
    [KVMI_EVENT_CR] = { "CR", KVMI_EVENT_CR },
    [KVMI_EVENT_MSR] = { "MSR", KVMI_EVENT_MSR },
    [KVMI_EVENT_XSETBV] = { "XSETBV", KVMI_EVENT_XSETBV },
    [KVMI_EVENT_BREAKPOINT] = { "BREAKPOINT", KVMI_EVENT_BREAKPOINT },
    [KVMI_EVENT_HYPERCALL] = { "HYPERCALL", KVMI_EVENT_HYPERCALL },
    [KVMI_EVENT_PF] = { "PF", KVMI_EVENT_PF },
    [KVMI_EVENT_TRAP] = { "TRAP", KVMI_EVENT_TRAP },
    [KVMI_EVENT_DESCRIPTOR] = { "DESCRIPTOR", KVMI_EVENT_DESCRIPTOR },
    [KVMI_EVENT_CREATE_VCPU] = { "CREATE_VCPU", KVMI_EVENT_CREATE_VCPU },
    [KVMI_EVENT_PAUSE_VCPU] = { "PAUSE_VCPU", KVMI_EVENT_PAUSE_VCPU },
    [KVMI_EVENT_SINGLESTEP] = { "SINGLESTEP", KVMI_EVENT_SINGLESTEP },
    [KVMI_EVENT_CPUID] = { "CPUID", KVMI_EVENT_CPUID },
};

/* ---- events ---- */

static uint32_t encode_specific(const struct kvmi_told *t, void *out)
{
    switch (t->event) {
    case KVMI_EVENT_CR:
        return KVMI_PUT(out, kvmi_event_cr, .cr = (uint16_t)t->index, .old_value = t->old_value, .new_value = t->value);
    case KVMI_EVENT_MSR:
        return KVMI_PUT(out, kvmi_event_msr, .msr = t->index, .old_value = t->old_value, .new_value = t->value);
    case KVMI_EVENT_BREAKPOINT:
        return KVMI_PUT(out, kvmi_event_breakpoint, .gpa = t->gpa, .insn_bytes = t->insn_bytes);
    case KVMI_EVENT_PF:
        return KVMI_PUT(out, kvmi_event_pf, .gva = t->gva, .gpa = t->gpa, .access = (uint8_t)t->access, .view = t->state.view);
    case KVMI_EVENT_TRAP:
        return KVMI_PUT(out, kvmi_event_trap, .vector = (uint8_t)t->index, .error_code = (uint32_t)t->old_value, .cr2 = t->value);
    case KVMI_EVENT_DESCRIPTOR:
        return KVMI_PUT(out, kvmi_event_descriptor, .descriptor = kvmi_descriptor_of(t->index), .is_write = t->access == WATCH_WRITE);
    case KVMI_EVENT_SINGLESTEP:
        return KVMI_PUT(out, kvmi_byte, .value = t->is_failed);
    case KVMI_EVENT_CPUID:
        return KVMI_PUT(out, kvmi_event_cpuid, .function = t->index, .index = (uint32_t)t->value, .insn_bytes = t->insn_bytes);
    default:
        return 0;
    }
}

static uint32_t encode_event(const struct kvmi_told *t, uint16_t *id, void *out)
{
    struct kvmi_event common;
    kvmi_encode_state(t, &common);
    common.event = (uint8_t)t->event;
    common.view = t->state.view;
    memcpy(out, &common, sizeof common);
    *id = KVMI_EVENT;
    return (uint32_t)sizeof common + encode_specific(t, (char *)out + sizeof common);
}

/* What is missing at the end of a reply was not said; what is too much would be of another protocol. */
static bool decode_reply(enum kvmi_event_id event, unsigned vcpu, const uint8_t *payload, uint32_t bytes, struct kvmi_verdict *out)
{
    bool has_value = event == KVMI_EVENT_CR || event == KVMI_EVENT_MSR;
    uint32_t more_bytes = has_value ? sizeof out->value : event == KVMI_EVENT_PF ? sizeof(struct kvmi_event_pf_reply) : 0;
    if (!kvmi_decode_answer(event, vcpu, payload, bytes, more_bytes, out))
        return false;
    if (has_value)
        kvmi_decode_value(payload, bytes, out);
    return event != KVMI_EVENT_PF || kvmi_decode_access(payload, bytes, out);
}

const struct kvmi_dialect kvmi_dialect_libkvmi = { .letter = 'b',
                                                   .name = "libkvmi",
                                                   .n_commands = KVMI_IDS,
                                                   .n_events = KVMI_EVENTS,
                                                   .command = commands,
                                                   .event = events,
                                                   .id_event_reply = KVMI_EVENT_REPLY,
                                                   .id_ours = KVMI_EVENT,
                                                   .encode_reply = kvmi_encode_reply,
                                                   .encode_event = encode_event,
                                                   .decode_reply = decode_reply };
