/* SPDX-License-Identifier: MIT */
/*
 * The one way through a dialect's table of commands, those that are about the protocol itself, and sessions. See kvmi.h.
 *
 * A request may be shorter or longer than its struct (tools are older or newer than we are): it is copied into the session and filled up with zeros. What has
 * an answer in the protocol is answered, however wrong it is; the connection ends only where no answer would be understood: see kvmi_handle.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "abi/kvmi_rfc.h"
#include "abi/kvmi_v12.h"
#include "base/log.h"
#include "core/time.h"
#include "front/kvmi/kvmi_priv.h"
#include "introspect/memory.h"

#define READY_AFTER_NS 2000000000ull

/* ---- the dialect ---- */

const struct kvmi_command *kvmi_command_at(const struct kvmi_dialect *d, unsigned id)
{
    return id < d->n_commands && d->command[id].name ? &d->command[id] : NULL;
}

const char *kvmi_event_name(const struct kvmi_dialect *d, unsigned event)
{
    return event < d->n_events ? d->event[event].name : NULL;
}

enum kvmi_event_id kvmi_event_at(const struct kvmi_dialect *d, unsigned number)
{
    return kvmi_event_name(d, number) ? d->event[number].event : KVMI_EVENTS;
}

bool kvmi_is_refused(const struct kvmi_command *c)
{
    return c->handle == kvmi_refuse;
}

int kvmi_refuse(struct kvmi_arg *a)
{
    (void)a;
    return -EOPNOTSUPP;
}

int kvmi_check_command(struct kvmi_arg *a)
{
    const struct kvmi_command *c = kvmi_command_at(a->session->dialect, ((const struct kvmi_check *)a->in)->id);
    if (!c)
        return -ENOENT;
    if (!kvmi_allows_command(a->session, c))
        return -EPERM;
    return kvmi_is_refused(c) ? -EOPNOTSUPP : 0;
}

int kvmi_check_event(struct kvmi_arg *a)
{
    enum kvmi_event_id event = kvmi_event_at(a->session->dialect, ((const struct kvmi_check *)a->in)->id);
    if (event == KVMI_EVENTS)
        return -ENOENT;
    return kvmi_allows_event(a->session, event) ? 0 : -EPERM;
}

int kvmi_get_guest_info(struct kvmi_arg *a)
{
    *(struct kvmi_guest_info *)a->out = (struct kvmi_guest_info){ .n_vcpus = a->session->n_cpus };
    a->out_bytes = sizeof(struct kvmi_guest_info);
    return 0;
}

/* ---- the way through it ---- */

struct kvmi_cpu *kvmi_cpu_of(struct kvmi_session *s, uint32_t id)
{
    unsigned i = 0;
    while (i < s->n_cpus && s->cpu[i].id != id)
        i++;
    return i < s->n_cpus ? &s->cpu[i] : NULL;
}

static void notice_cpu(struct kvmi_session *s, uint32_t id)
{
    struct kvmi_wants *w = &s->wants[id];
    const struct kvmi_wants *first = &s->wants[s->cpu[0].id];
    s->cpu[s->n_cpus++] = (struct kvmi_cpu){ .id = (uint16_t)id };
    atomic_store(&w->events, s->dialect->events_always);
    w->wants_all_traps = s->dialect->tells_all_traps;
    if (!s->dialect->is_vm_wide || w == first)
        return;
    atomic_store(&w->control_registers, atomic_load(&first->control_registers));
    for (unsigned i = 0; i < sizeof w->msr / sizeof w->msr[0][0]; i++)
        atomic_store(&w->msr[0][0] + i, atomic_load(&first->msr[0][0] + i));
    atomic_store(&w->n_msrs, atomic_load(&first->n_msrs));
}

/* Numbers once given stay. */
void kvmi_notice_cpus(struct kvmi_session *s, struct vm *vm)
{
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus) && s->n_cpus < VM_VCPUS_MAX; i++)
        if (vm_vcpu(vm, i) && !kvmi_cpu_of(s, i))
            notice_cpu(s, i);
}

struct vcpu *kvmi_vcpu_of(struct vm *vm, const struct kvmi_cpu *cpu)
{
    return vm_vcpu(vm, cpu->id);
}

bool kvmi_take_vcpu(struct kvmi_arg *a, unsigned number)
{
    if (number >= a->session->n_cpus)
        return false;
    a->cpu = &a->session->cpu[number];
    a->vcpu = kvmi_vcpu_of(a->vm, a->cpu);
    return true;
}

static int take_vcpu_head(struct kvmi_arg *a, const uint8_t **payload, uint32_t *bytes)
{
    struct kvmi_vcpu head;
    if (*bytes < sizeof head)
        return -EINVAL;
    memcpy(&head, *payload, sizeof head);
    if (head.zero1 || head.zero2 || !kvmi_take_vcpu(a, head.vcpu))
        return -EINVAL;
    *payload += sizeof head;
    *bytes -= sizeof head;
    return 0;
}

static int command_call(const struct kvmi_command *c, struct kvmi_arg *a, const uint8_t *payload, uint32_t bytes)
{
    uint8_t *in = a->session->in;
    int r = c->is_vcpu ? take_vcpu_head(a, &payload, &bytes) : 0;
    if (r)
        return r;
    if (bytes < c->bytes && a->session->dialect->has_exact_requests)
        return -EINVAL;
    memcpy(in, payload, bytes);
    if (bytes < c->bytes)
        memset(in + bytes, 0, c->bytes - bytes);
    for (unsigned i = 0; i < 16; i++)
        if ((c->must_be_zero >> i & 1) && in[i])
            return -EINVAL;
    a->in = in;
    a->in_bytes = bytes;
    return c->handle(a);
}

static ssize_t broken(struct kvmi_session *s, const char *why)
{
    s->why = why;
    return -EPROTO;
}

/* The vCPU's events are known by their sequence numbers, so what answers none of them is no mistake that an error could be told of. */
static ssize_t event_reply(struct kvmi_session *s, struct vm *vm, const struct kvmi_head *head, const void *payload)
{
    if (kvmi_take_event_reply(s, vm, head, payload))
        return 0;
    return broken(s, "the tool answered an event that was not sent, or in a way that it has not");
}

static ssize_t command(struct kvmi_session *s, struct vm *vm, const struct kvmi_head *head, const void *payload, uint8_t *out)
{
    const struct kvmi_command *c = kvmi_command_at(s->dialect, head->id);
    struct kvmi_arg a = { .session = s, .vm = vm, .out = out + sizeof *head + KVMI_REPLY_AT };
    int r = -KVMI_ENOSYS;
    bool is_allowed = c && kvmi_allows_command(s, c);
    if (s->is_silent && (!is_allowed || c->has_data))
        return broken(s, "the tool wants no answers, but sent a command that must be answered");
    if (c)
        r = !is_allowed ? -EPERM : head->bytes > KVMI_MESSAGE_MAX ? -E2BIG : command_call(c, &a, payload, head->bytes);
    bool is_silent = s->is_silent;
    s->is_silent = s->is_silent_next;
    if (is_silent)
        return 0;
    uint32_t bytes = s->dialect->encode_reply(head->id, r, a.out_bytes, out + sizeof *head);
    struct kvmi_head reply = { .id = head->id, .bytes = (uint16_t)bytes, .sequence = head->sequence };
    memcpy(out, &reply, sizeof reply);
    return (ssize_t)(sizeof reply + bytes);
}

/*
 * All dialects say version 1. GET_VERSION and the two checks have numbers and sizes that do not tell; what comes next may. The first dialect is the one of
 * today's tools, so it is given up for what it does not have. The first message of the dialect of 2017 is never a tool's in others.
 */
static void choose_dialect(struct kvmi_session *s, const struct kvmi_head *head)
{
    static const struct kvmi_head only_v12[] = {
        { KVMI12_VCPU_CONTROL_EVENTS, 16, 0 }, { KVMI12_VM_GET_INFO, 0, 0 }, { KVMI12_VM_CONTROL_EVENTS, 8, 0 }, { KVMI12_VM_READ_PHYSICAL, 16, 0 }
    };
    if (!s->has_spoken && head->id == KVMI17_GET_VERSION)
        s->dialect = &kvmi_dialect_rfc;
    s->has_spoken = true;
    for (unsigned i = 0; i < sizeof only_v12 / sizeof *only_v12; i++)
        if (head->id == only_v12[i].id && head->bytes == only_v12[i].bytes)
            s->dialect = &kvmi_dialect_v12;
    bool is_of_both = head->id == KVMI_GET_VERSION || head->id == KVMI12_VM_CHECK_COMMAND || head->id == KVMI12_VM_CHECK_EVENT;
    s->is_dialect_open = is_of_both && s->dialect == &kvmi_dialect_libkvmi;
    for (unsigned i = 0; i < s->n_cpus; i++)
        atomic_store(&s->wants[s->cpu[i].id].events, s->dialect->events_always);
}

ssize_t kvmi_handle(struct kvmi_session *s, const struct kvmi_head *head, const void *payload, void *out)
{
    struct vm *vm = vm_find_exactly(s->vm_number);
    if (!vm)
        return -ESRCH;
    if (s->is_dialect_open)
        choose_dialect(s, head);
    kvmi_notice_cpus(s, vm);
    ssize_t n;
    if (head->id == s->dialect->id_event_reply)
        n = event_reply(s, vm, head, payload);
    else if (head->id != s->dialect->id_ours)
        n = command(s, vm, head, payload, out);
    else /* an answer to that would look like an event of ours */
        n = broken(s, "the tool sent an event");
    vm_put(vm);
    return n;
}

/* ---- sessions ---- */

/* A client that has begun to run one has made its vCPUs; one that starts it later is waited for a little. */
static bool is_ready(struct vm *vm)
{
    bool has_cpus = false;
    for (unsigned i = 0; i < atomic_load(&vm->n_vcpus); i++) {
        const struct vcpu *v = vm_vcpu(vm, i);
        has_cpus |= v != NULL;
        if (v && atomic_load(&v->is_running))
            return true;
    }
    return has_cpus && time_realtime_ns() - vm->started_ns > READY_AFTER_NS;
}

/* Nobody told us one, so it is made of what makes a VM unique, in the form of RFC 9562's version 8: a tool that meets it again knows it again. */
static void uuid_of(const struct vm *vm, uint8_t uuid[16])
{
    uint32_t pid = (uint32_t)getpid();
    memcpy(uuid, &pid, 4);
    memcpy(uuid + 4, &vm->number, 2);
    uuid[7] = (uint8_t)(vm->number >> 16);
    memcpy(uuid + 8, &vm->started_ns, 8);
    uuid[6] = 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
}

bool kvmi_find_vm(uint32_t number, struct kvmi_vm *out)
{
    struct vm *vm = number ? vm_find_exactly(number) : vm_find(1);
    if (!vm)
        return false;
    *out = (struct kvmi_vm){ .number = vm->number, .is_ready = is_ready(vm) };
    out->hello = (struct kvmi_hello){ .struct_bytes = sizeof out->hello, .start_time = (int64_t)(vm->started_ns / 1000000000), .max_gpa = look_memory_end(vm) };
    uuid_of(vm, out->hello.uuid);
    strncpy(out->hello.name, log_machine_name(), sizeof out->hello.name - 1);
    vm_put(vm);
    return true;
}

struct kvmi_session *kvmi_session_create(uint32_t vm_number, const struct kvmi_options *options)
{
    struct kvmi_session *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->dialect = options->dialect ? options->dialect : &kvmi_dialect_libkvmi;
    s->is_dialect_open = !options->dialect;
    s->options = options;
    s->vm_number = vm_number;
    return s;
}

char kvmi_session_dialect(const struct kvmi_session *s)
{
    return s->dialect->letter;
}

const char *kvmi_session_why(const struct kvmi_session *s)
{
    return s->why;
}

void kvmi_session_set_peer(struct kvmi_session *s, pid_t pid)
{
    s->peer_pid = pid;
}

const char *kvmi_session_refusal(const struct kvmi_session *s)
{
    return s->refusal;
}

bool kvmi_session_wants_unhook(const struct kvmi_session *s)
{
    return s->wants_unhook;
}

void kvmi_session_destroy(struct kvmi_session *s)
{
    kvmi_home_close(s);
    struct vm *vm = vm_find_exactly(s->vm_number);
    if (s->listener)
        look_listener_destroy(s->listener);
    if (vm) {
        kvmi_controls_end(s, vm);
        kvmi_pauses_end(s, vm);
        vm_put(vm);
    }
    free(s);
}
