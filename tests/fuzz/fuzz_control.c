/* SPDX-License-Identifier: MIT */
/*
 * Random requests to the control front, of the right and of wrong sizes, about a VM that runs meanwhile: nothing crashes or hangs, an answer stays within its
 * bounds, and when the session ends the guest runs on. Payloads lie at the end of a page, so that reading beyond them is seen. See batches.h.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "batches.h"
#include "counter.h"
#include "front/control/control.h"
#include "vitrine/inspect.h"

#define REQUESTS_PER_BATCH 3000
#define FIXED_BATCHES 10
#define BATCH_SECONDS 120
#define PAGES 8u
#define SUBSCRIBE_BYTES (sizeof(struct control_subscription) + sizeof(struct vitrine_subscription))

static const uint64_t edges[] = { 0, 1, 2, 0x500, 0xfff, 0x1000, 0x1ffff, 0x20000, 0x80000000, 0xffffffff, 1ull << 47, ~0ull << 12, ~0ull };

static uint32_t usual_bytes(unsigned call)
{
    switch (call) {
    case CONTROL_HELLO:
        return 0;
    case CONTROL_SET_REGS:
        return sizeof(struct control_vcpu) + sizeof(struct vitrine_regs);
    case CONTROL_GET_REGS:
    case CONTROL_TRANSLATE:
    case CONTROL_CPU_PAUSE:
    case CONTROL_CPU_RESUME:
    case CONTROL_CPU_HOLD:
    case CONTROL_CPU_RELEASE:
    case CONTROL_GET_XSAVE:
        return sizeof(struct control_vcpu);
    case CONTROL_STEP:
        return sizeof(struct control_step);
    case CONTROL_GET_MSRS:
    case CONTROL_SET_MSRS:
        return sizeof(struct control_vcpu) + 2 * sizeof(struct vitrine_msr);
    case CONTROL_SET_XSAVE:
        return sizeof(struct control_vcpu) + sizeof(struct vitrine_xsave);
    case CONTROL_INJECT:
        return sizeof(struct control_vcpu) + sizeof(struct vitrine_injection);
    case CONTROL_SUBSCRIBE:
        return SUBSCRIBE_BYTES;
    case CONTROL_UNSUBSCRIBE:
        return sizeof(struct control_subscription);
    case CONTROL_ANSWER:
        return sizeof(struct control_answer) + sizeof(struct vitrine_reply);
    case CONTROL_READ:
    case CONTROL_WRITE:
        return sizeof(struct control_memory);
    case CONTROL_VIEW_DELETE:
    case CONTROL_VIEW_SWITCH:
    case CONTROL_VIEW_OF:
    case CONTROL_VIEW_REMAP:
    case CONTROL_PAGE_ADD:
    case CONTROL_PAGE_REMOVE:
        return sizeof(struct control_view);
    case CONTROL_PAGE_LEND:
        return sizeof(struct control_lend);
    case CONTROL_VIEW_ACCESS:
    case CONTROL_VIEW_PIECES:
    case CONTROL_VIEW_PAGES:
        return sizeof(struct control_view) + 2 * sizeof(struct vitrine_page);
    default:
        return sizeof(struct control_vm);
    }
}

/* A subscription that is likely to be taken, so that there are events and answers. */
static void make_sensible(uint64_t *s, uint8_t *in, uint32_t bytes)
{
    struct vitrine_subscription c = { .kinds = 1u << batches_choose(s, 20), .flags = batches_choose(s, 2), .last_index = UINT32_MAX };
    in += sizeof(struct control_subscription);
    bytes -= (uint32_t)sizeof(struct control_subscription);
    memcpy(in, &c, sizeof c);
    if (bytes >= sizeof c + sizeof(struct vitrine_range)) {
        struct vitrine_range r = { .first = edges[batches_choose(s, 6)], .last = 0x1fff, .access = 1 + batches_choose(s, 7) };
        memcpy(in + sizeof c, &r, sizeof r);
    }
}

/* A view and pages that there are, mostly. */
static void make_sensible_view(uint64_t *s, uint8_t *in, uint32_t bytes)
{
    struct control_view v = { .view = batches_choose(s, 3), .gpa = batches_choose(s, 40) << 12, .target = batches_choose(s, 40) << 12 };
    memcpy(in, &v, sizeof v);
    for (uint32_t at = sizeof v; at + sizeof(struct vitrine_page) <= bytes; at += sizeof(struct vitrine_page)) {
        struct vitrine_page p = { .gpa = batches_choose(s, 33) << 12, .access = batches_choose(s, 8), .writeable = (uint32_t)batches_random(s) };
        memcpy(in + at, &p, sizeof p);
    }
}

/* A file of two pages or something that is none comes with the request, mostly. */
static void give(struct control_session *session, uint64_t *s, uint8_t *in, uint32_t bytes)
{
    struct control_lend l = { .gpa = batches_choose(s, 40) << 12, .offset = batches_choose(s, 3) << 12 };
    int fd = batches_choose(s, 8) ? memfd_create("lent", MFD_CLOEXEC) : open("/dev/null", O_RDWR | O_CLOEXEC);
    int ignored = ftruncate(fd, 2 * 4096);
    (void)ignored; /* not of the device */
    if (batches_choose(s, 16))
        control_give_fd(session, fd);
    else
        close(fd);
    if (bytes == sizeof l && batches_choose(s, 4))
        memcpy(in, &l, sizeof l);
}

static void request(struct control_session *session, uint64_t *s, uint8_t *end, uint8_t *out)
{
    struct control_head head = { .call = (uint16_t)(batches_choose(s, 16) ? batches_choose(s, CONTROL_CALLS) : batches_random(s)),
                                 .sequence = (uint32_t)batches_random(s) },
                        reply;
    head.bytes = usual_bytes(head.call);
    if (head.call == CONTROL_WRITE)
        head.bytes += batches_choose(s, 5000);
    if (head.call == CONTROL_SUBSCRIBE)
        head.bytes += batches_choose(s, 3) * (uint32_t)sizeof(struct vitrine_range);
    if (batches_choose(s, 8) == 0)
        head.bytes = batches_choose(s, PAGES * 4096);
    uint8_t *in = end - ((head.bytes + 7) & ~7u);
    for (uint32_t i = 0; i + 8 <= head.bytes; i += 8) {
        uint64_t value = batches_choose(s, 2) ? edges[batches_choose(s, sizeof edges / sizeof *edges)] : batches_random(s);
        memcpy(in + i, &value, 8);
    }
    uint32_t number = batches_choose(s, 16) ? 1 : (uint32_t)batches_random(s), vcpu = batches_choose(s, 4) ? 0 : (uint32_t)batches_random(s);
    if (head.call == CONTROL_SUBSCRIBE && head.bytes >= SUBSCRIBE_BYTES && batches_choose(s, 4))
        make_sensible(s, in, head.bytes);
    if (head.call >= CONTROL_VIEW_DELETE && head.call <= CONTROL_PAGE_REMOVE && head.bytes >= sizeof(struct control_view) && batches_choose(s, 4))
        make_sensible_view(s, in, head.bytes);
    if (head.call == CONTROL_PAGE_LEND || batches_choose(s, 64) == 0)
        give(session, s, in, head.call == CONTROL_PAGE_LEND ? head.bytes : 0);
    if (head.bytes >= 8) {
        memcpy(in, &number, 4);
        if (head.call != CONTROL_READ)
            memcpy(in + 4, &vcpu, 4);
    }
    if (head.call == CONTROL_STEP && head.bytes == sizeof(struct control_step))
        ((struct control_step *)(void *)in)->timeout_ms = batches_choose(s, 3);
    control_handle(session, &head, in, &reply, out);
    if (reply.bytes > CONTROL_PAYLOAD_MAX || (reply.error && reply.bytes) || reply.call != head.call || reply.sequence != head.sequence ||
        reply.error >= 4096) {
        printf("# call %u of %u bytes: reply of %u bytes, error %u\n", head.call, head.bytes, reply.bytes, reply.error);
        exit(1);
    }
}

/* Whatever was paused is resumed by whoever may, what the session held went with it. */
static bool runs_on(struct control_session *session, uint8_t *end, uint8_t *out)
{
    struct control_vm vm = { .number = 1 };
    struct control_head head = { .call = CONTROL_RESUME, .bytes = sizeof vm }, reply;
    memcpy(end - 8, &vm, sizeof vm);
    control_handle(session, &head, end - 8, &reply, out);
    control_session_destroy(session);
    return reply.error == 0;
}

static void batch(uint64_t seed)
{
    uint8_t *pages = mmap(NULL, (PAGES + 1) * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *end = pages + PAGES * 4096;
    uint8_t *out = malloc(CONTROL_PAYLOAD_MAX);
    uint64_t s = seed;
    mprotect(end, 4096, PROT_NONE);
    counter_create();
    struct control_session *session = control_session_create();
    counter_start();
    for (unsigned i = 0; i < REQUESTS_PER_BATCH; i++)
        request(session, &s, end, out);
    batches_count(REQUESTS_PER_BATCH);
    if (!runs_on(session, end, out))
        exit(1);
    counter_stop();
    counter_must_count();
    counter_destroy();
    free(out);
}

int main(void)
{
    static const struct batches b = { "random requests of tools", "requests", FIXED_BATCHES, BATCH_SECONDS, batch };
    return batches_run(&b);
}
