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

#include "counter.h"
#include "kvmi_talk.h"

#define FIXED_BATCHES 10
#define BATCH_SECONDS 120

static void begin_session(void)
{
    talk.options.dialect = &kvmi_dialect_libkvmi;
    talk_begin_session();
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
    memcpy(&reply, talk.out, sizeof reply);
    memcpy(&error, talk.out + sizeof reply, sizeof error);
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
    ssize_t n = kvmi_handle(talk.session, head, payload, talk.out);
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
    } pages = { .head = { .view = (uint16_t)(batches_choose(&talk.seed, 4) == 0), .n_pages = 1 } };
    uint8_t enable = batches_choose(&talk.seed, 3) != 0;
    const struct kvmi_control_register control[] = { { .enable = enable, .index = 0 }, { .enable = enable, .index = 0x174 } };
    switch (batches_choose(&talk.seed, 8)) {
    case 0:
    case 1:
        *id = KVMI_CONTROL_EVENTS;
        in.events = (struct kvmi_control_events){ .event = events[batches_choose(&talk.seed, sizeof events)], .enable = enable };
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
        in.byte.value = batches_choose(&talk.seed, 4) == 0;
        break;
    case 5:
        *id = KVMI_PAUSE_VCPU;
        in.pause.wait = enable;
        break;
    case 6:
        *id = KVMI_SWITCH_EPT_VIEW;
        in.view.view = (uint16_t)batches_choose(&talk.seed, 3);
        break;
    default:
        *id = KVMI_SET_PAGE_ACCESS;
        pages.page.gpa = batches_choose(&talk.seed, COUNTER_FIRST_PAGE + COUNTER_PAGES) * 4096ull;
        pages.page.access = (uint8_t)batches_choose(&talk.seed, 8);
        memcpy(to, &pages, sizeof pages);
        return sizeof pages;
    }
    memcpy(to, &in, sizeof in);
    return sizeof in;
}

static void sensible_message(void)
{
    uint8_t payload[64];
    struct kvmi_head head = { .sequence = (uint32_t)batches_random(&talk.seed) };
    head.bytes = (uint16_t)sensible_payload(&head.id, payload);
    memcpy(talk.in_end - head.bytes, payload, head.bytes);
    handle(&head, talk.in_end - head.bytes);
}

static bool is_harmful(unsigned id)
{
    return id == KVMI_SET_REGISTERS || id == KVMI_WRITE_PHYSICAL || id == KVMI_INJECT_EXCEPTION || id == KVMI_VCPU_CHANGE_GFN;
}

static void random_message(void)
{
    struct kvmi_head head = { .id = (uint16_t)(batches_choose(&talk.seed, 16) ? batches_choose(&talk.seed, KVMI_IDS) : batches_random(&talk.seed)),
                              .sequence = (uint32_t)batches_random(&talk.seed) };
    if (talk.is_harmless && is_harmful(head.id))
        return;
    const struct kvmi_command *c = kvmi_command_at(&kvmi_dialect_libkvmi, head.id);
    head.bytes = (uint16_t)talk_random_payload(c, c && c->is_vcpu ? 8 : 0);
    handle(&head, talk.in_end - head.bytes);
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
    a->reply.action = may_retry && batches_choose(&talk.seed, 4) == 0 ? KVMI_RETRY : KVMI_CONTINUE;
    if (has_value) {
        memcpy(&a->value, specific + 16, sizeof a->value);
        if (!talk.is_harmless && batches_choose(&talk.seed, 4) == 0)
            a->value = talk_random_number();
        bytes += batches_choose(&talk.seed, 4) ? sizeof a->value : 0;
    } else if (event->event == KVMI_EVENT_PF && batches_choose(&talk.seed, 2)) {
        a->pf.singlestep = (uint8_t)batches_choose(&talk.seed, 2);
        a->pf.rep_complete = (uint8_t)batches_choose(&talk.seed, 2);
        memcpy(&a->pf.context_at, specific, sizeof a->pf.context_at);
        a->pf.context_bytes = talk.is_harmless ? 0 : batches_choose(&talk.seed, KVMI_CONTEXT_MAX + 1);
        bytes += batches_choose(&talk.seed, 2) ? sizeof a->pf : batches_choose(&talk.seed, sizeof a->pf);
    }
    return bytes;
}

/* Ends the connection, mostly. */
static uint32_t spoil_answer(struct answer *a, struct kvmi_head *head, uint32_t bytes)
{
    switch (batches_choose(&talk.seed, 6)) {
    case 0:
        a->reply.action = (uint8_t)(talk.is_harmless ? 3 + batches_choose(&talk.seed, 200) : batches_choose(&talk.seed, 4));
        return bytes;
    case 1:
        a->vcpu.vcpu = 1;
        return bytes;
    case 2:
        head->sequence++;
        return bytes;
    case 3:
        a->reply.event = (uint8_t)batches_random(&talk.seed);
        return bytes;
    default:
        return batches_choose(&talk.seed, sizeof *a + 1);
    }
}

/* As libkvmi would; now and then something else. False: there was none. */
static bool answer_event(void)
{
    ssize_t n = kvmi_next_event(talk.session, talk.out);
    struct kvmi_head head;
    struct kvmi_event event;
    struct answer a = { 0 };
    if (n == 0)
        return false;
    memcpy(&head, talk.out, sizeof head);
    memcpy(&event, talk.out + sizeof head, sizeof event);
    check_event(n, &head, &event);
    uint32_t bytes = fill_answer(&event, talk.out + sizeof head + sizeof event, &a);
    if (batches_choose(&talk.seed, 200) == 0)
        bytes = spoil_answer(&a, &head, bytes);
    head.id = KVMI_EVENT_REPLY;
    head.bytes = (uint16_t)bytes;
    memcpy(talk.in_end - bytes, &a, bytes);
    handle(&head, talk.in_end - bytes);

    return true;
}

/* A VM that goes says so to who asked for it, once. */
static void check_end(void)
{
    const struct kvmi_head head = { .id = KVMI_CONTROL_VM_EVENTS, .bytes = sizeof(struct kvmi_control_events) };
    const struct kvmi_control_events request = { .event = KVMI_EVENT_UNHOOK, .enable = 1 };
    struct kvmi_event event;
    begin_session();
    memcpy(talk.in_end - sizeof request, &request, sizeof request);
    handle(&head, talk.in_end - sizeof request);
    counter_destroy();
    if (kvmi_handle(talk.session, &head, talk.in_end - sizeof request, talk.out) != -ESRCH)
        fail(&head, "answered for a VM that has gone");
    bool is_told = kvmi_next_event(talk.session, talk.out) == (ssize_t)(sizeof head + sizeof event);
    memcpy(&event, talk.out + sizeof head, sizeof event);
    if (!is_told || event.event != KVMI_EVENT_UNHOOK || kvmi_next_event(talk.session, talk.out) != -ESRCH)
        fail(&head, "UNHOOK is not told once");
    kvmi_session_destroy(talk.session);
    talk.session = NULL;
}

static void batch(uint64_t seed)
{
    static const struct talk_ops ops = { begin_session, sensible_message, random_message, answer_event };
    talk_batch(seed, &ops);
    check_end();
}

int main(void)
{
    static const struct batches b = { "random messages of KVMI tools", "messages", FIXED_BATCHES, BATCH_SECONDS, batch };
    return batches_run(&b);
}
