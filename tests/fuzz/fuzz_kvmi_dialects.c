/* SPDX-License-Identifier: MIT */
/*
 * As fuzz_kvmi, in the dialects that libkvmi does not speak, and in that which
 * is found out: random messages about a VM that runs meanwhile, and answers to
 * its events. Each reply and event has its dialect's form; in every other batch
 * the tool may change nothing of the guest's, which then has to keep its sums.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "abi/kvmi_rfc.h"
#include "abi/kvmi_v12.h"
#include "counter.h"
#include "kvmi_talk.h"

#define FIXED_BATCHES 10
#define BATCH_SECONDS 120

static void begin_session(void)
{
    static const struct kvmi_dialect *const which[] = { &kvmi_dialect_rfc, &kvmi_dialect_v12, NULL };
    talk.options.dialect = which[batches_choose(&talk.seed, 3)];
    talk_begin_session();
}

/* What it is now: it may be found out to be another by the next message. */
static const struct kvmi_dialect *dialect(void)
{
    unsigned i = 0;
    while (kvmi_dialects[i]->letter != kvmi_session_dialect(talk.session))
        i++;
    return kvmi_dialects[i];
}

static void fail(const struct kvmi_head *head, const char *what)
{
    printf("# message %u of %u bytes, dialect %c: %s\n", head->id, head->bytes, dialect()->letter, what);
    exit(1);
}

/* ---- replies ---- */

static void check_separate(const struct kvmi_head *head, const struct kvmi_command *c, const uint8_t *payload, uint32_t bytes)
{
    struct kvmi_error error;
    if (bytes < sizeof error)
        fail(head, "a reply of a wrong size");
    memcpy(&error, payload, sizeof error);
    if (error.zero || error.error > 0 || error.error < -KVMI_ENOSYS || (error.error && bytes != sizeof error))
        fail(head, "a wrong error");
    if (!error.error && (!c || (bytes > sizeof error) != c->has_data))
        fail(head, "data where there is none, or none");
}

static void check_inside(const struct kvmi_head *head, const struct kvmi_command *c, const uint8_t *payload, uint32_t bytes)
{
    int32_t error;
    if (bytes < sizeof error)
        fail(head, "a reply of a wrong size");
    memcpy(&error, payload, sizeof error);
    if (error > 0 || error < -EOPNOTSUPP || (!c && (error != -ENOSYS || bytes != sizeof error)))
        fail(head, "a wrong error");
    for (uint32_t i = sizeof error; c && (error || !c->has_data) && i < bytes; i++)
        if (payload[i])
            fail(head, "something behind an error");
}

static void check_reply(const struct kvmi_head *head, ssize_t n)
{
    struct kvmi_head reply;
    if (n == -EPROTO || n == 0)
        return;
    if (n < (ssize_t)sizeof reply || n > (ssize_t)KVMI_OUT_BYTES)
        fail(head, "a reply of a wrong size");
    memcpy(&reply, talk.out, sizeof reply);
    if (reply.id != head->id || reply.sequence != head->sequence || reply.bytes != n - (ssize_t)sizeof reply)
        fail(head, "not its reply");
    const struct kvmi_command *c = kvmi_command_at(dialect(), head->id);
    (dialect()->letter == 'a' ? check_inside : check_separate)(head, c, talk.out + sizeof reply, reply.bytes);
}

static void handle(const struct kvmi_head *head, const uint8_t *payload)
{
    ssize_t n = kvmi_handle(talk.session, head, payload, talk.out);
    check_reply(head, n);
    if (n < 0)
        begin_session();
}

/* ---- messages ---- */

static uint32_t sensible_v12(uint16_t *id, uint8_t *to)
{
    static const uint8_t events[] = { KVMI12_EVENT_CR, KVMI12_EVENT_MSR,        KVMI12_EVENT_BREAKPOINT, KVMI12_EVENT_HYPERCALL,
                                      KVMI12_EVENT_PF, KVMI12_EVENT_DESCRIPTOR, KVMI12_EVENT_XSETBV };
    struct {
        struct kvmi_vcpu vcpu;
        union {
            struct kvmi_control_events events;
            struct kvmi12_control_cr cr;
            struct kvmi_control_register msr;
            struct kvmi_byte byte;
        };
    } in = { 0 };
    struct {
        struct kvmi12_set_page_access head;
        struct kvmi_page_access page;
    } pages = { .head.n_pages = 1 };
    uint8_t enable = batches_choose(&talk.seed, 3) != 0;
    static const uint16_t ids[] = { KVMI12_VCPU_CONTROL_EVENTS,     KVMI12_VCPU_CONTROL_EVENTS, KVMI12_VCPU_CONTROL_CR,   KVMI12_VCPU_CONTROL_MSR,
                                    KVMI12_VCPU_CONTROL_SINGLESTEP, KVMI12_VM_PAUSE_VCPU,       KVMI12_VM_SET_PAGE_ACCESS };
    *id = ids[batches_choose(&talk.seed, sizeof ids / sizeof *ids)];
    if (*id == KVMI12_VM_SET_PAGE_ACCESS) {
        pages.page.gpa = batches_choose(&talk.seed, COUNTER_FIRST_PAGE + COUNTER_PAGES) * 4096ull;
        pages.page.access = (uint8_t)batches_choose(&talk.seed, 8);
        memcpy(to, &pages, sizeof pages);
        return sizeof pages;
    }
    if (*id == KVMI12_VM_PAUSE_VCPU) {
        memset(to, 0, sizeof(struct kvmi12_pause));
        return sizeof(struct kvmi12_pause);
    }
    if (*id == KVMI12_VCPU_CONTROL_EVENTS)
        in.events = (struct kvmi_control_events){ .event = events[batches_choose(&talk.seed, sizeof events)], .enable = enable };
    else if (*id == KVMI12_VCPU_CONTROL_CR)
        in.cr.enable = enable;
    else if (*id == KVMI12_VCPU_CONTROL_MSR)
        in.msr = (struct kvmi_control_register){ .enable = enable, .index = 0x174 };
    else
        in.byte.value = batches_choose(&talk.seed, 4) == 0;
    memcpy(to, &in, sizeof in);
    return sizeof in;
}

static uint32_t sensible_rfc(uint16_t *id, uint8_t *to)
{
    static const uint16_t ids[] = { KVMI17_CONTROL_EVENTS, KVMI17_CONTROL_EVENTS, KVMI17_CR_CONTROL,      KVMI17_MSR_CONTROL,
                                    KVMI17_PAUSE_GUEST,    KVMI17_UNPAUSE_GUEST,  KVMI17_SET_PAGE_ACCESS, KVMI17_UNPAUSE_GUEST };
    const struct kvmi17_control_events events = { .events = batches_random(&talk.seed) & 0xfe };
    const struct kvmi17_control_register control = { .enable = batches_choose(&talk.seed, 3) != 0 };
    const struct kvmi17_control_register msr = { .enable = control.enable, .index = 0x174 };
    const struct kvmi17_set_page_access page = { .access = batches_choose(&talk.seed, 8),
                                                 .gpa = batches_choose(&talk.seed, COUNTER_FIRST_PAGE + COUNTER_PAGES) * 4096ull };
    *id = ids[batches_choose(&talk.seed, sizeof ids / sizeof *ids)];
    switch (*id) {
    case KVMI17_CONTROL_EVENTS:
        memcpy(to, &events, sizeof events);
        return sizeof events;
    case KVMI17_CR_CONTROL:
        memcpy(to, &control, sizeof control);
        return sizeof control;
    case KVMI17_MSR_CONTROL:
        memcpy(to, &msr, sizeof msr);
        return sizeof msr;
    case KVMI17_SET_PAGE_ACCESS:
        memcpy(to, &page, sizeof page);
        return sizeof page;
    default:
        return 0;
    }
}

static void sensible_message(void)
{
    uint8_t payload[64];
    struct kvmi_head head = { .sequence = (uint32_t)batches_random(&talk.seed) };
    head.bytes = (uint16_t)(dialect()->letter == 'a' ? sensible_rfc : sensible_v12)(&head.id, payload);
    memcpy(talk.in_end - head.bytes, payload, head.bytes);
    handle(&head, talk.in_end - head.bytes);
}

static bool is_harmful(unsigned id)
{
    switch (dialect()->letter) {
    case 'a':
        return id == KVMI17_SET_REGISTERS || id == KVMI17_SHUTDOWN_GUEST || id == KVMI17_INJECT_PAGE_FAULT || id == KVMI17_WRITE_PHYSICAL ||
               id == KVMI17_INJECT_BREAKPOINT;
    case 'c':
        return id == KVMI12_VCPU_SET_REGISTERS || id == KVMI12_VM_WRITE_PHYSICAL || id == KVMI12_VCPU_INJECT_EXCEPTION;
    default: /* another one by now, or soon */
        return true;
    }
}

static void random_message(void)
{
    struct kvmi_head head = { .id = (uint16_t)(batches_choose(&talk.seed, 16) ? batches_choose(&talk.seed, dialect()->n_commands) : batches_random(&talk.seed)),
                              .sequence = (uint32_t)batches_random(&talk.seed) };
    if (talk.is_harmless && is_harmful(head.id))
        return;
    const struct kvmi_command *c = kvmi_command_at(dialect(), head.id);
    head.bytes = (uint16_t)talk_random_payload(c, !c ? 0 : c->is_vcpu ? 8 : dialect()->letter == 'a' ? 2 : 0);
    handle(&head, talk.in_end - head.bytes);
}

/* ---- events ---- */

/* An event, in no dialect's layout. */
struct told {
    struct kvmi_head head;
    uint32_t number; /* the dialect's */
    const uint8_t *specific;
};

static void parse_v12(struct told *t, const uint8_t *payload)
{
    static const uint8_t more[KVMI12_EVENTS] = {
        [KVMI12_EVENT_BREAKPOINT] = 16, [KVMI12_EVENT_CR] = 24,  [KVMI12_EVENT_TRAP] = 16, [KVMI12_EVENT_XSETBV] = 24,
        [KVMI12_EVENT_DESCRIPTOR] = 8,  [KVMI12_EVENT_MSR] = 24, [KVMI12_EVENT_PF] = 24,   [KVMI12_EVENT_SINGLESTEP] = 8
    };
    struct kvmi12_event_head head;
    struct kvmi_event common;
    memcpy(&head, payload, sizeof head);
    memcpy(&common, payload + sizeof head, sizeof common);
    t->number = head.event;
    t->specific = payload + sizeof head + sizeof common;
    if (t->head.id != KVMI12_VCPU_EVENT || !kvmi_event_name(&kvmi_dialect_v12, head.event) || !(head.event & 1) || head.zeros[0] || head.zeros[1] ||
        head.zeros[2])
        fail(&t->head, "an event that is none");
    if (t->head.bytes != sizeof head + sizeof common + more[head.event] || common.bytes != sizeof common || common.vcpu || common.event || common.view)
        fail(&t->head, "an event of a wrong form");
}

static void parse_rfc(struct told *t, const uint8_t *payload)
{
    static const uint8_t more[KVMI17_EVENTS] = { [KVMI17_EVENT_CR] = 24,        [KVMI17_EVENT_MSR] = 24,        [KVMI17_EVENT_XSETBV] = 8,
                                                 [KVMI17_EVENT_BREAKPOINT] = 8, [KVMI17_EVENT_PAGE_FAULT] = 24, [KVMI17_EVENT_TRAP] = 24 };
    struct kvmi17_event common;
    memcpy(&common, payload, sizeof common);
    t->number = (uint32_t)__builtin_ctz(common.event | 1u << 31);
    t->specific = payload + sizeof common;
    if (t->head.id != KVMI17_EVENT_VCPU || common.event & (common.event - 1) || !kvmi_event_name(&kvmi_dialect_rfc, t->number))
        fail(&t->head, "an event that is none");
    if (t->head.bytes != sizeof common + more[t->number] || common.vcpu || common.pad)
        fail(&t->head, "an event of a wrong form");
}

static uint32_t answer_v12(const struct told *t, uint8_t *to)
{
    struct {
        struct kvmi_vcpu vcpu;
        struct kvmi_event_reply reply;
        uint64_t value;
    } a = { .reply.event = (uint8_t)t->number };
    bool has_value = t->number == KVMI12_EVENT_CR || t->number == KVMI12_EVENT_MSR;
    bool may_retry = t->number == KVMI12_EVENT_PF || t->number == KVMI12_EVENT_BREAKPOINT || t->number == KVMI12_EVENT_DESCRIPTOR;
    a.reply.action = may_retry && batches_choose(&talk.seed, 4) == 0 ? KVMI_RETRY : KVMI_CONTINUE;
    if (has_value)
        memcpy(&a.value, t->specific + 16, sizeof a.value);
    if (has_value && !talk.is_harmless && batches_choose(&talk.seed, 4) == 0)
        a.value = batches_random(&talk.seed);
    if (!talk.is_harmless && batches_choose(&talk.seed, 100) == 0)
        a.reply.action = (uint8_t)batches_choose(&talk.seed, 4);
    memcpy(to, &a, sizeof a);
    return sizeof a - (has_value ? 0 : sizeof a.value);
}

static uint32_t answer_rfc(const struct told *t, uint8_t *to)
{
    struct {
        struct kvmi17_event_reply reply;
        uint8_t more[sizeof(struct kvmi17_page_fault_reply)];
    } a = { .reply.actions = KVMI17_ALLOW };
    uint32_t more = 0;
    if (t->number == KVMI17_EVENT_CR || t->number == KVMI17_EVENT_MSR) {
        more = sizeof(uint64_t);
        memcpy(a.more, t->specific + 16, more);
    } else if (t->number == KVMI17_EVENT_PAGE_FAULT) {
        more = batches_choose(&talk.seed, sizeof a.more + 1);
        a.reply.actions |= batches_choose(&talk.seed, 4) ? 0 : KVMI17_NOEMU;
        a.more[0] = (uint8_t)batches_random(&talk.seed);
    }
    if (!talk.is_harmless && batches_choose(&talk.seed, 10) == 0) {
        a.reply.actions = batches_choose(&talk.seed, 16);
        a.reply.regs.rip = batches_random(&talk.seed);
    }
    memcpy(to, &a, sizeof a);
    return (uint32_t)sizeof a.reply + more;
}

/* Mostly as a tool would. False: there was none. */
static bool answer_event(void)
{
    uint8_t answer[512];
    struct told t;
    bool is_rfc = dialect()->letter == 'a';
    if (dialect()->letter == 'b') { /* what it was found out to be; that is fuzz_kvmi's */
        begin_session();
        return false;
    }
    ssize_t n = kvmi_next_event(talk.session, talk.out);
    if (n == 0)
        return false;
    memcpy(&t.head, talk.out, sizeof t.head);
    if (n != (ssize_t)sizeof t.head + t.head.bytes)
        fail(&t.head, "an event of a wrong size");
    (is_rfc ? parse_rfc : parse_v12)(&t, talk.out + sizeof t.head);
    uint32_t bytes = (is_rfc ? answer_rfc : answer_v12)(&t, answer);
    if (batches_choose(&talk.seed, 200) == 0)
        bytes = batches_choose(&talk.seed, bytes + 1);
    struct kvmi_head head = { .id = dialect()->id_event_reply, .bytes = (uint16_t)bytes, .sequence = t.head.sequence + (batches_choose(&talk.seed, 200) == 0) };
    memcpy(talk.in_end - bytes, answer, bytes);
    handle(&head, talk.in_end - bytes);
    return true;
}

static void batch(uint64_t seed)
{
    static const struct talk_ops ops = { begin_session, sensible_message, random_message, answer_event };
    talk_batch(seed, &ops);
    counter_destroy();
}

int main(void)
{
    static const struct batches b = { "random messages of KVMI tools of other dialects", "messages", FIXED_BATCHES, BATCH_SECONDS, batch };
    return batches_run(&b);
}
