/* SPDX-License-Identifier: MIT */
/*
 * The dialect of the first proposal (July 2017): its table of commands, its events, replies that begin with their error. Layouts are src/abi/kvmi_rfc.h's; what
 * is done is not here, but for what only this dialect has.
 */
#include "abi/kvmi_rfc.h"

#include <string.h>

#include "core/hold.h"
#include "front/kvmi/kvmi_priv.h"
#include "introspect/memory.h"

#define LEAF_XSAVE 0xdu
#define MSR_MTRR_CAP 0xfeu

/* The vCPU that a request names in its first bytes. */
static bool take_vcpu(struct kvmi_arg *a)
{
    return kvmi_take_vcpu(a, ((const struct kvmi17_vcpu *)a->in)->vcpu);
}

/* ---- the guest ---- */

static int get_version(struct kvmi_arg *a)
{
    *(struct kvmi17_version *)a->out = (struct kvmi17_version){ .version = KVMI_VERSION };
    a->out_bytes = sizeof(struct kvmi17_version);
    return 0;
}

static int get_guest_info(struct kvmi_arg *a)
{
    if (!kvmi_take_vcpu(a, 0))
        return -EAGAIN;
    *(struct kvmi17_guest_info *)a->out = (struct kvmi17_guest_info){ .n_vcpus = (uint16_t)a->session->n_cpus, .tsc_hz = a->vcpu->tsc_khz * 1000 };
    a->out_bytes = sizeof(struct kvmi17_guest_info);
    return 0;
}

static int pause_guest(struct kvmi_arg *a)
{
    if (!a->session->holds_vm)
        hold_vm(a->vm);
    a->session->holds_vm = true;
    return 0;
}

static int unpause_guest(struct kvmi_arg *a)
{
    if (a->session->holds_vm)
        hold_release_vm(a->vm);
    a->session->holds_vm = false;
    return 0;
}

static int shutdown_guest(struct kvmi_arg *a)
{
    if (!kvmi_take_vcpu(a, 0))
        return -EAGAIN;
    vcpu_request(a->vcpu, VREQ_TRIPLE_FAULT);
    return unpause_guest(a);
}

/* ---- vCPUs ---- */

/* Today's request has more before the indices, and its answer begins with the mode, which is here behind the error. */
static int get_registers(struct kvmi_arg *a)
{
    uint8_t *in = a->session->in;
    const struct kvmi17_get_registers request = *(const struct kvmi17_get_registers *)a->in;
    const struct kvmi_get_registers todays = { .n_msrs = request.n_msrs };
    const uint32_t index_bytes = request.n_msrs * (uint32_t)sizeof(uint32_t);
    if (!kvmi_take_vcpu(a, request.vcpu) || a->in_bytes < sizeof request + index_bytes)
        return -EINVAL;
    if (sizeof todays + index_bytes > KVMI_MESSAGE_MAX)
        return -E2BIG;
    memmove(in + sizeof todays, in + sizeof request, index_bytes);
    memcpy(in, &todays, sizeof todays);
    a->in_bytes = (uint32_t)sizeof todays + index_bytes;
    int r = kvmi_get_registers(a);
    struct kvmi17_registers *out = a->out;
    out->mode = ((const struct kvmi_registers *)a->out)->mode;
    return r;
}
_Static_assert(offsetof(struct kvmi17_registers, regs) == offsetof(struct kvmi_registers, regs) &&
                   sizeof(struct kvmi17_registers) == sizeof(struct kvmi_registers),
               "the rest is in the same place");

static int set_registers(struct kvmi_arg *a)
{
    const struct kvmi17_set_registers *in = a->in;
    if (!take_vcpu(a))
        return -EINVAL;
    kvmi_put_registers(a->vcpu, &in->regs);
    return 0;
}

/* Requests that begin with the vCPU and are about nothing else. */
static int of_vcpu(struct kvmi_arg *a, void (*call)(struct vcpu *v, void *out), uint32_t bytes)
{
    if (!take_vcpu(a))
        return -EINVAL;
    memset(a->out, 0, bytes);
    hold_call(a->vcpu, call, a->out);
    a->out_bytes = bytes;
    return 0;
}

static void mtrrs_fill(struct vcpu *v, void *out)
{
    struct kvmi17_mtrrs *m = out;
    m->pat = v->cpu.pat;
    vcpu_msr_read(v, MSR_MTRR_CAP, &m->cap, true);
    vcpu_msr_read(v, MSR_MTRR_DEF_TYPE, &m->type, true);
}

static int get_mtrrs(struct kvmi_arg *a)
{
    return of_vcpu(a, mtrrs_fill, sizeof(struct kvmi17_mtrrs));
}

static void xsave_info_fill(struct vcpu *v, void *out)
{
    uint32_t r[4];
    vcpu_cpuid(v, LEAF_XSAVE, 0, r);
    ((struct kvmi17_xsave_info *)out)->bytes = r[1];
}

static int get_xsave_info(struct kvmi_arg *a)
{
    return of_vcpu(a, xsave_info_fill, sizeof(struct kvmi17_xsave_info));
}

/* The request names no vCPU: all have the same, or the guest is about to make it so. */
static int get_mtrr_type(struct kvmi_arg *a)
{
    if (!kvmi_take_vcpu(a, 0))
        return -EAGAIN;
    int r = kvmi_get_mtrr_type(a);
    uint8_t type = ((const struct kvmi_byte *)a->out)->value;
    *(struct kvmi17_mtrr_type *)a->out = (struct kvmi17_mtrr_type){ .type_of_text = type, .type = type };
    a->out_bytes = sizeof(struct kvmi17_mtrr_type);
    return r;
}

static int inject(struct kvmi_arg *a, uint8_t vector, uint32_t error_code, uint64_t address)
{
    const struct kvmi_exception todays = { .vector = vector, .error_code = error_code, .address = address };
    if (!take_vcpu(a))
        return -EINVAL;
    a->in = &todays;
    return kvmi_inject_exception(a);
}

static int inject_page_fault(struct kvmi_arg *a)
{
    const struct kvmi17_inject_page_fault *in = a->in;
    return inject(a, VEC_PF, in->error_code, in->gva);
}

static int inject_breakpoint(struct kvmi_arg *a)
{
    return inject(a, VEC_BP, 0, 0);
}

/* ---- memory ---- */

/* Across pages too, as far as a message goes. */
static int read_physical(struct kvmi_arg *a)
{
    const struct kvmi_physical *in = a->in;
    uint8_t *bytes = (uint8_t *)a->out + sizeof(int32_t);
    if (!in->bytes || in->bytes > KVMI_DATA_MAX - sizeof(int32_t))
        return -EINVAL;
    if (look_memory_read(a->vm, in->gpa, bytes, in->bytes) != (ssize_t)in->bytes)
        return -ENOENT;
    a->out_bytes = (uint32_t)(sizeof(int32_t) + in->bytes);
    return 0;
}

static int write_physical(struct kvmi_arg *a)
{
    const struct kvmi_physical *in = a->in;
    if (!in->bytes || in->bytes > KVMI_MESSAGE_MAX || a->in_bytes < sizeof *in + in->bytes)
        return -EINVAL;
    return look_memory_write(a->vm, in->gpa, in + 1, in->bytes) == (ssize_t)in->bytes ? 0 : -ENOENT;
}

/* The request names a vCPU, but memory is the same for all. */
static int get_page_access(struct kvmi_arg *a)
{
    const uint64_t gpa = ((const struct kvmi17_page *)a->in)->gpa;
    const struct kvmi_pages todays = { .n_pages = 1 };
    if (!take_vcpu(a))
        return -EINVAL;
    memcpy(a->session->in, &todays, sizeof todays);
    memcpy(a->session->in + sizeof todays, &gpa, sizeof gpa);
    a->in_bytes = sizeof todays + sizeof gpa;
    int r = kvmi_get_page_access(a);
    *(struct kvmi17_page_access *)a->out = (struct kvmi17_page_access){ .access = *(const uint8_t *)a->out };
    a->out_bytes = sizeof(struct kvmi17_page_access);
    return r;
}

static int set_page_access(struct kvmi_arg *a)
{
    const struct kvmi17_set_page_access *in = a->in;
    const struct kvmi_page_access todays = { .gpa = in->gpa, .access = (uint8_t)in->access };
    return !take_vcpu(a) || in->access > 7 ? -EINVAL : kvmi_set_access(a, 0, &todays, 1);
}

/* ---- what the tool wants to be told ---- */

static const struct kvmi_event_kind events[KVMI17_EVENTS] = {
    [KVMI17_EVENT_CR] = { "CR", KVMI_EVENT_CR },
    [KVMI17_EVENT_MSR] = { "MSR", KVMI_EVENT_MSR },
    [KVMI17_EVENT_XSETBV] = { "XSETBV", KVMI_EVENT_XSETBV },
    [KVMI17_EVENT_BREAKPOINT] = { "BREAKPOINT", KVMI_EVENT_BREAKPOINT },
    [KVMI17_EVENT_USER_CALL] = { "USER_CALL", KVMI_EVENT_HYPERCALL },
    [KVMI17_EVENT_PAGE_FAULT] = { "PAGE_FAULT", KVMI_EVENT_PF },
    [KVMI17_EVENT_TRAP] = { "TRAP", KVMI_EVENT_TRAP },
};

static int control_events(struct kvmi_arg *a)
{
    const struct kvmi17_control_events *in = a->in;
    int r = 0;
    if (!take_vcpu(a))
        return -EINVAL;
    for (unsigned i = 0; i < 32; i++)
        if (in->events >> i & 1) {
            enum kvmi_event_id event = kvmi_event_at(a->session->dialect, i);
            if (event == KVMI_EVENTS)
                return -EINVAL;
            if (!kvmi_allows_event(a->session, event))
                return -EPERM;
        }
    for (unsigned i = 0; i < KVMI17_EVENTS && !r; i++)
        if (events[i].name && kvmi_allows_event(a->session, events[i].event))
            r = kvmi_control_event(a, events[i].event, in->events >> i & 1);
    return r;
}

/* vCPUs that come later have what the first has: kvmi_notice_cpus. */
static int of_all(struct kvmi_arg *a, int (*control)(struct kvmi_arg *a, uint32_t index, bool enable))
{
    const struct kvmi17_control_register *in = a->in;
    int r = in->enable > 1 ? -EINVAL : 0;
    for (unsigned i = 0; !r && kvmi_take_vcpu(a, i); i++)
        r = control(a, in->index, in->enable);
    return r;
}

static int cr_control(struct kvmi_arg *a)
{
    return of_all(a, kvmi_control_register);
}

static int msr_control(struct kvmi_arg *a)
{
    return of_all(a, kvmi_control_msr);
}

/* ---- the table ---- */

/* clang-format off */
static const struct kvmi_command commands[KVMI17_IDS] = {
    [KVMI17_GET_VERSION]         = { "GET_VERSION",         ALL, DATA,  0,                                        0, get_version },
    [KVMI17_GET_GUEST_INFO]      = { "GET_GUEST_INFO",      ALL, DATA,  0,                                        0, get_guest_info },
    [KVMI17_PAUSE_GUEST]         = { "PAUSE_GUEST",         ALL, ERROR, 0,                                        0, pause_guest },
    [KVMI17_UNPAUSE_GUEST]       = { "UNPAUSE_GUEST",       ALL, ERROR, 0,                                        0, unpause_guest },
    [KVMI17_GET_REGISTERS]       = { "GET_REGISTERS",       ALL, DATA,  sizeof(struct kvmi17_get_registers),      0, get_registers },
    [KVMI17_SET_REGISTERS]       = { "SET_REGISTERS",       ALL, ERROR, sizeof(struct kvmi17_set_registers),      0, set_registers },
    [KVMI17_SHUTDOWN_GUEST]      = { "SHUTDOWN_GUEST",      ALL, ERROR, 0,                                        0, shutdown_guest },
    [KVMI17_GET_MTRR_TYPE]       = { "GET_MTRR_TYPE",       ALL, DATA,  sizeof(struct kvmi_number),               0, get_mtrr_type },
    [KVMI17_GET_MTRRS]           = { "GET_MTRRS",           ALL, DATA,  sizeof(struct kvmi17_vcpu),               0, get_mtrrs },
    [KVMI17_GET_XSAVE_INFO]      = { "GET_XSAVE_INFO",      ALL, DATA,  sizeof(struct kvmi17_vcpu),               0, get_xsave_info },
    [KVMI17_GET_PAGE_ACCESS]     = { "GET_PAGE_ACCESS",     ALL, DATA,  sizeof(struct kvmi17_page),               0, get_page_access },
    [KVMI17_SET_PAGE_ACCESS]     = { "SET_PAGE_ACCESS",     ALL, ERROR, sizeof(struct kvmi17_set_page_access),    0, set_page_access },
    [KVMI17_INJECT_PAGE_FAULT]   = { "INJECT_PAGE_FAULT",   ALL, ERROR, sizeof(struct kvmi17_inject_page_fault),  0, inject_page_fault },
    [KVMI17_READ_PHYSICAL]       = { "READ_PHYSICAL",       ALL, DATA,  sizeof(struct kvmi_physical),             0, read_physical },
    [KVMI17_WRITE_PHYSICAL]      = { "WRITE_PHYSICAL",      ALL, ERROR, sizeof(struct kvmi_physical),             0, write_physical },
    [KVMI17_MAP_PHYSICAL_PAGE_TO_GUEST]     = { "MAP_PHYSICAL_PAGE_TO_GUEST",     ALL, ERROR, sizeof(struct kvmi17_map_page), 0, kvmi_map_page_to_guest },
    [KVMI17_UNMAP_PHYSICAL_PAGE_FROM_GUEST] = { "UNMAP_PHYSICAL_PAGE_FROM_GUEST", ALL, ERROR, sizeof(struct kvmi_number),     0, kvmi_unmap_page_from_guest },
    [KVMI17_CONTROL_EVENTS]      = { "CONTROL_EVENTS",      ALL, ERROR, sizeof(struct kvmi17_control_events),     0, control_events },
    [KVMI17_CR_CONTROL]          = { "CR_CONTROL",          ALL, ERROR, sizeof(struct kvmi17_control_register),   0, cr_control },
    [KVMI17_MSR_CONTROL]         = { "MSR_CONTROL",         ALL, ERROR, sizeof(struct kvmi17_control_register),   0, msr_control },
    [KVMI17_INJECT_BREAKPOINT]   = { "INJECT_BREAKPOINT",   ALL, ERROR, sizeof(struct kvmi17_vcpu),               0, inject_breakpoint },
};
/* clang-format on */

/* ---- replies ---- */

/* Of a command that is not there, the error alone; else as many bytes as without one, where that is known. */
static uint32_t encode_reply(unsigned id, int error, uint32_t bytes, uint8_t *payload)
{
    static const uint8_t fixed[KVMI17_IDS] = { [KVMI17_GET_GUEST_INFO] = sizeof(struct kvmi17_guest_info),
                                               [KVMI17_GET_MTRR_TYPE] = sizeof(struct kvmi17_mtrr_type),
                                               [KVMI17_GET_MTRRS] = sizeof(struct kvmi17_mtrrs) };
    const int32_t raw = error == -KVMI_ENOSYS ? -ENOSYS : error;
    bool is_known = id < KVMI17_IDS && commands[id].name;
    if (!is_known)
        bytes = sizeof raw;
    else if (error || !commands[id].has_data)
        bytes = fixed[id] ? fixed[id] : sizeof(struct kvmi17_error);
    if (error || !commands[id].has_data)
        memset(payload, 0, bytes);
    else
        memmove(payload, payload + KVMI_REPLY_AT, bytes);
    memcpy(payload, &raw, sizeof raw);
    return bytes;
}

/* ---- events ---- */

static unsigned number_of(enum kvmi_event_id event)
{
    unsigned i = 0;
    while (!events[i].name || events[i].event != event)
        i++;
    return i;
}

static uint32_t trap_type(uint32_t vector)
{
    enum { EXTERNAL_INTERRUPT = 0, NMI = 2, HARDWARE_EXCEPTION = 3, SOFTWARE_EXCEPTION = 6 };
    if (vector > 31) /* injected, as the next */
        return EXTERNAL_INTERRUPT;
    if (vector == VEC_NMI)
        return NMI;
    return vector == VEC_BP || vector == VEC_OF ? SOFTWARE_EXCEPTION : HARDWARE_EXCEPTION;
}

static uint32_t encode_specific(const struct kvmi_told *t, void *out)
{
    switch (t->event) {
    case KVMI_EVENT_CR:
        return KVMI_PUT(out, kvmi_event_cr, .cr = (uint16_t)t->index, .old_value = t->old_value, .new_value = t->value);
    case KVMI_EVENT_MSR:
        return KVMI_PUT(out, kvmi_event_msr, .msr = t->index, .old_value = t->old_value, .new_value = t->value);
    case KVMI_EVENT_XSETBV:
        return KVMI_PUT(out, kvmi_number, .value = t->value);
    case KVMI_EVENT_BREAKPOINT:
        return KVMI_PUT(out, kvmi_number, .value = t->gpa);
    case KVMI_EVENT_PF:
        return KVMI_PUT(out, kvmi17_event_page_fault, .gva = t->gva, .gpa = t->gpa, .access = t->access);
    case KVMI_EVENT_TRAP:
        return KVMI_PUT(out, kvmi17_event_trap, .vector = t->index, .type = trap_type(t->index), .error_code = (uint32_t)t->old_value,
                        .cr2 = t->index == VEC_PF ? t->value : 0);
    default:
        return 0;
    }
}

static uint32_t encode_event(const struct kvmi_told *t, uint16_t *id, void *out)
{
    const struct kvmi_state *s = &t->state;
    const struct kvmi17_event common = { .vcpu = (uint16_t)t->vcpu,
                                         .mode = s->mode,
                                         .event = 1u << number_of(t->event),
                                         .regs = s->regs,
                                         .sregs = s->sregs,
                                         .sysenter_cs = s->sysenter_cs,
                                         .sysenter_esp = s->sysenter_esp,
                                         .sysenter_eip = s->sysenter_eip,
                                         .efer = s->efer,
                                         .star = s->star,
                                         .lstar = s->lstar };
    *id = KVMI17_EVENT_VCPU;
    memcpy(out, &common, sizeof common);
    return (uint32_t)sizeof common + encode_specific(t, (char *)out + sizeof common);
}

static bool decode_page_fault(uint32_t actions, const uint8_t *more, uint32_t bytes, struct kvmi_verdict *out)
{
    struct kvmi17_page_fault_reply in = { 0 };
    memcpy(&in, more, bytes);
    if (in.context_bytes > sizeof in.context)
        return false;
    if ((actions & KVMI17_SET_CTX) && (actions & KVMI17_ALLOW)) {
        out->is_data_of_event = true;
        out->data_bytes = in.context_bytes;
        memcpy(out->data, in.context, in.context_bytes);
    }
    return true;
}

/* Of an access, ALLOW is to go past the permission, unless NOEMU is there too. The breakpoint without it is the tool's own. */
static enum kvmi_action action_of(enum kvmi_event_id event, uint32_t actions)
{
    bool is_allowed = actions & KVMI17_ALLOW;
    if (event == KVMI_EVENT_PF)
        return is_allowed && !(actions & KVMI17_NOEMU) ? KVMI_CONTINUE : KVMI_RETRY;
    return event == KVMI_EVENT_BREAKPOINT && !is_allowed ? KVMI_RETRY : KVMI_CONTINUE;
}

/* Without ALLOW a register keeps its value. Exceptions are told of, not asked about. */
static bool decode_reply(enum kvmi_event_id event, unsigned vcpu, const uint8_t *payload, uint32_t bytes, struct kvmi_verdict *out)
{
    struct kvmi17_event_reply in;
    bool has_value = event == KVMI_EVENT_CR || event == KVMI_EVENT_MSR;
    uint32_t more_bytes = has_value ? sizeof out->value : event == KVMI_EVENT_PF ? sizeof(struct kvmi17_page_fault_reply) : 0;
    (void)vcpu;
    if (bytes < sizeof in || bytes > sizeof in + more_bytes)
        return false;
    memcpy(&in, payload, sizeof in);
    if (in.actions & ~(uint32_t)(KVMI17_ALLOW | KVMI17_SET_REGS | KVMI17_SET_CTX | KVMI17_NOEMU))
        return false;
    out->action = action_of(event, in.actions);
    out->is_denied = !(in.actions & KVMI17_ALLOW) && (has_value || event == KVMI_EVENT_XSETBV);
    out->has_regs = in.actions & KVMI17_SET_REGS;
    out->regs = in.regs;
    out->has_value = has_value && bytes == sizeof in + sizeof out->value;
    if (out->has_value)
        memcpy(&out->value, payload + sizeof in, sizeof out->value);
    return event != KVMI_EVENT_PF || decode_page_fault(in.actions, payload + sizeof in, bytes - (uint32_t)sizeof in, out);
}

const struct kvmi_dialect kvmi_dialect_rfc = { .letter = 'a',
                                               .name = "RFC",
                                               .n_commands = KVMI17_IDS,
                                               .n_events = KVMI17_EVENTS,
                                               .command = commands,
                                               .event = events,
                                               .is_vm_wide = true,
                                               .has_synthetic_msrs = true,
                                               .tells_all_traps = true,
                                               .has_exact_requests = true,
                                               .id_event_reply = KVMI17_EVENT_VCPU_REPLY,
                                               .id_ours = KVMI17_EVENT_VCPU,
                                               .encode_reply = encode_reply,
                                               .encode_event = encode_event,
                                               .decode_reply = decode_reply };
