/* SPDX-License-Identifier: MIT */
/*
 * Random messages to the KVMI front, whole and broken, about a VM that runs meanwhile, and answers to its events, right and wrong: nothing crashes or hangs,
 * each reply has the protocol's form, and when the session ends the guest runs on. Payloads end, and replies begin, at a page that is not there. See batches.h.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "batches.h"
#include "counter.h"
#include "front/kvmi/kvmi.h"

#define MESSAGES_PER_BATCH 3000
#define FIXED_BATCHES 10
#define BATCH_SECONDS 120
#define IN_BYTES 0x10000u
#define OUT_BYTES ((KVMI_OUT_BYTES + 4095) & ~4095ul)

static const uint64_t edges[] = { 0, 1, 2, 0x500, 0xfff, 0x1000, 0x1ffff, 0x20000, 0x80000000, 0xffffffff, 1ull << 47, ~0ull << 12, ~0ull };

static const struct kvmi_options options = { .dialect = &kvmi_dialect_libkvmi };
static struct kvmi_session *session;
static uint8_t *in_end, *out;
static uint64_t seed;

static uint8_t *room_between_holes(size_t bytes)
{
    uint8_t *room = mmap(NULL, bytes + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (room == MAP_FAILED || mprotect(room + 4096, bytes, PROT_READ | PROT_WRITE))
        exit(1);
    return room + 4096;
}

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

static void random_message(void)
{
    struct kvmi_head head = { .id = (uint16_t)(batches_choose(&seed, 16) ? batches_choose(&seed, KVMI_IDS) : batches_random(&seed)),
                              .sequence = (uint32_t)batches_random(&seed) };
    const struct kvmi_command *c = kvmi_command_at(&kvmi_dialect_libkvmi, head.id);
    uint32_t bytes = c ? c->bytes + (c->is_vcpu ? 8u : 0u) : batches_choose(&seed, 64);
    if (batches_choose(&seed, 4) == 0)
        bytes += batches_choose(&seed, 5000);
    if (batches_choose(&seed, 8) == 0)
        bytes = batches_choose(&seed, IN_BYTES);
    head.bytes = (uint16_t)bytes;
    uint8_t *in = in_end - head.bytes;
    for (uint32_t i = 0; i + 8 <= head.bytes; i += 8) {
        uint64_t value = batches_choose(&seed, 2) ? edges[batches_choose(&seed, sizeof edges / sizeof *edges)] : batches_random(&seed);
        memcpy(in + i, &value, 8);
    }
    if (c && c->is_vcpu && head.bytes >= 8 && batches_choose(&seed, 8))
        memset(in, 0, 8);
    if (c && batches_choose(&seed, 4))
        for (unsigned i = 0, at = c->is_vcpu ? 8 : 0; i < 16 && at + i < head.bytes; i++)
            if (c->must_be_zero >> i & 1)
                in[at + i] = 0;
    handle(&head, in);
}

/* As libkvmi would; now and then something else. */
static void answer_event(void)
{
    ssize_t n = kvmi_next_event(session, out);
    struct kvmi_head head;
    struct kvmi_event event;
    struct {
        struct kvmi_vcpu vcpu;
        struct kvmi_event_reply reply;
    } answer = { 0 };
    if (n == 0)
        return;
    memcpy(&head, out, sizeof head);
    memcpy(&event, out + sizeof head, sizeof event);
    if (n != (ssize_t)sizeof head + head.bytes || head.id != KVMI_EVENT || event.bytes != sizeof event || event.vcpu ||
        !kvmi_event_name(&kvmi_dialect_libkvmi, event.event) || event.event == KVMI_EVENT_UNHOOK)
        fail(&head, "a wrong event");
    answer.reply.event = event.event;
    answer.reply.action = batches_choose(&seed, 8) ? KVMI_CONTINUE : (uint8_t)batches_choose(&seed, 4);
    answer.vcpu.vcpu = batches_choose(&seed, 32) == 0;
    head = (struct kvmi_head){ .id = KVMI_EVENT_REPLY, .bytes = sizeof answer, .sequence = head.sequence + (batches_choose(&seed, 32) == 0) };
    memcpy(in_end - sizeof answer, &answer, sizeof answer);
    handle(&head, in_end - sizeof answer);
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
    in_end = room_between_holes(IN_BYTES) + IN_BYTES;
    out = room_between_holes(OUT_BYTES);
    counter_create();
    begin_session();
    counter_start();
    for (unsigned i = 0; i < MESSAGES_PER_BATCH; i++) {
        random_message();
        if (batches_choose(&seed, 4) == 0)
            answer_event();
        if (batches_choose(&seed, 500) == 0)
            begin_session();
    }
    batches_count(MESSAGES_PER_BATCH);
    kvmi_session_destroy(session);
    session = NULL;
    counter_stop();
    counter_must_count();
    check_end();
}

int main(void)
{
    static const struct batches b = { "random messages of KVMI tools", "messages", FIXED_BATCHES, BATCH_SECONDS, batch };
    return batches_run(&b);
}
