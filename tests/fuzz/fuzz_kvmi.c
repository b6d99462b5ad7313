/* SPDX-License-Identifier: MIT */
/*
 * Random messages to the KVMI front, whole and broken, about a VM that runs meanwhile, and answers to its events, right and wrong: nothing crashes or hangs,
 * each reply has the protocol's form, and when the session ends the guest runs on. In every other batch the tool may change nothing of the guest's, which then
 * has to keep its sums. Payloads end, and replies begin, at a page that is not there. See batches.h.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batches.h"
#include "counter.h"
#include "front/kvmi/kvmi.h"

#define MESSAGES_PER_BATCH 3000
#define FIXED_BATCHES 10
#define BATCH_SECONDS 120
#define IN_BYTES 0x10000u
#define OUT_BYTES ((KVMI_OUT_BYTES + 4095) & ~4095ul)

static const uint64_t edges[] = { 0,      1,       2,       0x500,      0xfff,      0x1000,     0x8000,      0x9000,
                                  0xb000, 0x1ffff, 0x20000, 0x80000000, 0xffffffff, 1ull << 47, ~0ull << 12, ~0ull };

static const struct kvmi_options options = { .dialect = &kvmi_dialect_libkvmi };
static struct kvmi_session *session;
static uint8_t *in_end, *out;
static uint64_t seed;
static bool is_harmless; /* this batch */

static void begin_session(void)
{
    if (session)
        kvmi_session_destroy(session);
    session = kvmi_session_create(1, &options);
}

static void fail(const struct kvmi_head *head, const char *what)
{
    printf("# message %u of %u bytes: %s\n", head->id, head->bytes, what);
    exit(1);
}

static void check_reply(const struct kvmi_head *head, ssize_t n)
{
    struct kvmi_head reply;
    struct kvmi_error error;
    if (n == -EPROTO || n == 0)
        return;
    if (n < (ssize_t)(sizeof reply + sizeof error) || n > (ssize_t)KVMI_OUT_BYTES)
        fail(head, "a reply of a wrong size");
    memcpy(&reply, out, sizeof reply);
    memcpy(&error, out + sizeof reply, sizeof error);
    if (reply.id != head->id || reply.sequence != head->sequence || reply.bytes != n - (ssize_t)sizeof reply || error.zero)
        fail(head, "not its reply");
    if (error.error > 0 || error.error < -KVMI_ENOSYS || (error.error && reply.bytes != sizeof error))
        fail(head, "a wrong error");
    const struct kvmi_command *c = kvmi_command_at(&kvmi_dialect_libkvmi, head->id);
    if (!error.error && (!c || (reply.bytes > sizeof error) != c->has_data))
        fail(head, "data where there is none, or none");
}

static void handle(const struct kvmi_head *head, const uint8_t *payload)
{
    ssize_t n = kvmi_handle(session, head, payload, out);
    check_reply(head, n);
    if (n < 0)
        begin_session();
}

/* Mostly what a tool would say: so that much is asked for, and events come. */
static uint32_t sensible_payload(uint16_t *id, uint8_t *to)
{
    static const uint8_t events[] = { KVMI_EVENT_CR,         KVMI_EVENT_MSR,  KVMI_EVENT_BREAKPOINT, KVMI_EVENT_HYPERCALL, KVMI_EVENT_PF,
                                      KVMI_EVENT_DESCRIPTOR, KVMI_EVENT_TRAP, KVMI_EVENT_SINGLESTEP, KVMI_EVENT_CPUID,     KVMI_EVENT_XSETBV };
    struct {
        struct kvmi_vcpu vcpu;
        union {
            struct kvmi_control_events events;
            struct kvmi_control_register control;
            struct kvmi_byte byte;
            struct kvmi_pause pause;
            struct kvmi_view view;
        };
    } in = { 0 };
    struct {
        struct kvmi_pages head;
        struct kvmi_page_access page;
    } pages = { .head = { .view = (uint16_t)(batches_choose(&seed, 4) == 0), .n_pages = 1 } };
    uint8_t enable = batches_choose(&seed, 3) != 0;
    const struct kvmi_control_register control[] = { { .enable = enable, .index = 0 }, { .enable = enable, .index = 0x174 } };
    switch (batches_choose(&seed, 8)) {
    case 0:
    case 1:
        *id = KVMI_CONTROL_EVENTS;
        in.events = (struct kvmi_control_events){ .event = events[batches_choose(&seed, sizeof events)], .enable = enable };
        break;
    case 2:
        *id = KVMI_CONTROL_CR;
        in.control = control[0];
        break;
    case 3:
        *id = KVMI_CONTROL_MSR;
        in.control = control[1];
        break;
    case 4:
        *id = KVMI_VCPU_CONTROL_SINGLESTEP;
        in.byte.value = batches_choose(&seed, 4) == 0;
        break;
    case 5:
        *id = KVMI_PAUSE_VCPU;
        in.pause.wait = enable;
        break;
    case 6:
        *id = KVMI_SWITCH_EPT_VIEW;
        in.view.view = (uint16_t)batches_choose(&seed, 3);
        break;
    default:
        *id = KVMI_SET_PAGE_ACCESS;
        pages.page.gpa = batches_choose(&seed, COUNTER_FIRST_PAGE + COUNTER_PAGES) * 4096ull;
        pages.page.access = (uint8_t)batches_choose(&seed, 8);
        memcpy(to, &pages, sizeof pages);
        return sizeof pages;
    }
    memcpy(to, &in, sizeof in);
    return sizeof in;
}

static void sensible_message(void)
{
    uint8_t payload[64];
    struct kvmi_head head = { .sequence = (uint32_t)batches_random(&seed) };
    head.bytes = (uint16_t)sensible_payload(&head.id, payload);
    memcpy(in_end - head.bytes, payload, head.bytes);
    handle(&head, in_end - head.bytes);
}

static uint32_t random_payload(const struct kvmi_command *c)
{
    uint32_t bytes = c ? c->bytes + (c->is_vcpu ? 8u : 0u) : batches_choose(&seed, 64);
    if (batches_choose(&seed, 4) == 0)
        bytes += batches_choose(&seed, 5000);
    if (batches_choose(&seed, 8) == 0)
        bytes = batches_choose(&seed, IN_BYTES);
    uint8_t *in = in_end - bytes;
    for (uint32_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t value = batches_choose(&seed, 2) ? edges[batches_choose(&seed, sizeof edges / sizeof *edges)] : batches_random(&seed);
        memcpy(in + i, &value, 8);
    }
    if (c && c->is_vcpu && bytes >= 8 && batches_choose(&seed, 8))
        memset(in, 0, 8);
    if (c && batches_choose(&seed, 4))
        for (unsigned i = 0, at = c->is_vcpu ? 8 : 0; i < 16 && at + i < bytes; i++)
            if (c->must_be_zero >> i & 1)
                in[at + i] = 0;
    return bytes;
}

static bool is_harmful(unsigned id)
{
    return id == KVMI_SET_REGISTERS || id == KVMI_WRITE_PHYSICAL || id == KVMI_INJECT_EXCEPTION || id == KVMI_VCPU_CHANGE_GFN;
}

static void random_message(void)
{
    struct kvmi_head head = { .id = (uint16_t)(batches_choose(&seed, 16) ? batches_choose(&seed, KVMI_IDS) : batches_random(&seed)),
                              .sequence = (uint32_t)batches_random(&seed) };
    if (is_harmless && is_harmful(head.id))
        return;
    head.bytes = (uint16_t)random_payload(kvmi_command_at(&kvmi_dialect_libkvmi, head.id));
    handle(&head, in_end - head.bytes);
}

/* ---- events ---- */

static void check_event(ssize_t n, const struct kvmi_head *head, const struct kvmi_event *event)
{
    static const uint8_t more[KVMI_EVENTS] = { [KVMI_EVENT_CR] = 24,   [KVMI_EVENT_MSR] = 24,       [KVMI_EVENT_BREAKPOINT] = 16, [KVMI_EVENT_PF] = 24,
                                               [KVMI_EVENT_TRAP] = 16, [KVMI_EVENT_DESCRIPTOR] = 8, [KVMI_EVENT_SINGLESTEP] = 8,  [KVMI_EVENT_CPUID] = 16 };
    if (head->id != KVMI_EVENT || event->event >= KVMI_EVENTS || !kvmi_event_name(&kvmi_dialect_libkvmi, event->event) || event->event == KVMI_EVENT_UNHOOK)
        fail(head, "an event that is none");
    if (n != (ssize_t)sizeof *head + head->bytes || head->bytes != sizeof *event + more[event->event] || event->bytes != sizeof *event || event->vcpu)
        fail(head, "an event of a wrong form");
}

struct answer {
    struct kvmi_vcpu vcpu;
    struct kvmi_event_reply reply;
    union {
        uint64_t value;
        struct kvmi_event_pf_reply pf;
    };
};

static uint32_t fill_answer(const struct kvmi_event *event, const uint8_t *specific, struct answer *a)
{
    bool has_value = event->event == KVMI_EVENT_CR || event->event == KVMI_EVENT_MSR;
    uint32_t bytes = offsetof(struct answer, value);
    bool may_retry = event->event == KVMI_EVENT_PF || event->event == KVMI_EVENT_BREAKPOINT || event->event == KVMI_EVENT_DESCRIPTOR;
    a->reply.event = event->event;
    a->reply.action = may_retry && batches_choose(&seed, 4) == 0 ? KVMI_RETRY : KVMI_CONTINUE;
    if (has_value) {
        memcpy(&a->value, specific + 16, sizeof a->value);
        if (!is_harmless && batches_choose(&seed, 4) == 0)
            a->value = batches_choose(&seed, 2) ? batches_random(&seed) : edges[batches_choose(&seed, sizeof edges / sizeof *edges)];
        bytes += batches_choose(&seed, 4) ? sizeof a->value : 0;
    } else if (event->event == KVMI_EVENT_PF && batches_choose(&seed, 2)) {
        a->pf.singlestep = (uint8_t)batches_choose(&seed, 2);
        a->pf.rep_complete = (uint8_t)batches_choose(&seed, 2);
        memcpy(&a->pf.context_at, specific, sizeof a->pf.context_at);
        a->pf.context_bytes = is_harmless ? 0 : batches_choose(&seed, KVMI_CONTEXT_MAX + 1);
        bytes += batches_choose(&seed, 2) ? sizeof a->pf : batches_choose(&seed, sizeof a->pf);
    }
    return bytes;
}

/* Ends the connection, mostly. */
static uint32_t spoil_answer(struct answer *a, struct kvmi_head *head, uint32_t bytes)
{
    switch (batches_choose(&seed, 6)) {
    case 0:
        a->reply.action = (uint8_t)(is_harmless ? 3 + batches_choose(&seed, 200) : batches_choose(&seed, 4));
        return bytes;
    case 1:
        a->vcpu.vcpu = 1;
        return bytes;
    case 2:
        head->sequence++;
        return bytes;
    case 3:
        a->reply.event = (uint8_t)batches_random(&seed);
        return bytes;
    default:
        return batches_choose(&seed, sizeof *a + 1);
    }
}

/* As libkvmi would; now and then something else. False: there was none. */
static bool answer_event(void)
{
    ssize_t n = kvmi_next_event(session, out);
    struct kvmi_head head;
    struct kvmi_event event;
    struct answer a = { 0 };
    if (n == 0)
        return false;
    memcpy(&head, out, sizeof head);
    memcpy(&event, out + sizeof head, sizeof event);
    check_event(n, &head, &event);
    uint32_t bytes = fill_answer(&event, out + sizeof head + sizeof event, &a);
    if (batches_choose(&seed, 200) == 0)
        bytes = spoil_answer(&a, &head, bytes);
    head.id = KVMI_EVENT_REPLY;
    head.bytes = (uint16_t)bytes;
    memcpy(in_end - bytes, &a, bytes);
    handle(&head, in_end - bytes);

    return true;
}

/* A VM that goes says so to who asked for it, once. */
static void check_end(void)
{
    const struct kvmi_head head = { .id = KVMI_CONTROL_VM_EVENTS, .bytes = sizeof(struct kvmi_control_events) };
    const struct kvmi_control_events request = { .event = KVMI_EVENT_UNHOOK, .enable = 1 };
    struct kvmi_event event;
    begin_session();
    memcpy(in_end - sizeof request, &request, sizeof request);
    handle(&head, in_end - sizeof request);
    counter_destroy();
    if (kvmi_handle(session, &head, in_end - sizeof request, out) != -ESRCH)
        fail(&head, "answered for a VM that has gone");
    bool is_told = kvmi_next_event(session, out) == (ssize_t)(sizeof head + sizeof event);
    memcpy(&event, out + sizeof head, sizeof event);
    if (!is_told || event.event != KVMI_EVENT_UNHOOK || kvmi_next_event(session, out) != -ESRCH)
        fail(&head, "UNHOOK is not told once");
    kvmi_session_destroy(session);
    session = NULL;
}

static void batch(uint64_t first)
{
    seed = first;
    is_harmless = batches_choose(&seed, 2);
    in_end = batches_room(IN_BYTES) + IN_BYTES;
    out = batches_room(OUT_BYTES);
    counter_create_summing();
    begin_session();
    counter_start();
    for (unsigned i = 0; i < MESSAGES_PER_BATCH; i++) {
        if (batches_choose(&seed, 2))
            sensible_message();
        else
            random_message();
        for (unsigned k = batches_choose(&seed, 4); k && answer_event(); k--)
            i++;
        if (batches_choose(&seed, 500) == 0)
            begin_session();
    }
    batches_count(MESSAGES_PER_BATCH);
    kvmi_session_destroy(session);
    session = NULL;
    counter_stop();
    if (is_harmless)
        counter_must_sum();
    else
        counter_must_count();
    check_end();
}

int main(void)
{
    static const struct batches b = { "random messages of KVMI tools", "messages", FIXED_BATCHES, BATCH_SECONDS, batch };
    return batches_run(&b);
}
