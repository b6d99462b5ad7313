/* SPDX-License-Identifier: MIT */
/* The part of <vitrine/inspect.h> about events; see inspect.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/inspect_priv.h"

#define EVENTS_MAX 256u /* of one request */

int vitrine_vm_subscribe(struct vitrine_vm *vm, const struct vitrine_subscription *what, const struct vitrine_range *range, unsigned n_ranges)
{
    struct {
        struct control_subscription head;
        struct vitrine_subscription what;
    } in = { .head.number = vm->number, .what = *what };
    struct control_subscription out = { 0 };
    if (n_ranges > (CONTROL_PAYLOAD_MAX - sizeof in) / sizeof *range) {
        errno = ENOSPC;
        return -1;
    }
    ssize_t n = inspect_call(vm, CONTROL_SUBSCRIBE, &in, sizeof in, range, n_ranges * (uint32_t)sizeof *range, &out, sizeof out);
    if (n >= 0 && n != sizeof out) {
        errno = EPROTO;
        return -1;
    }
    return n < 0 ? -1 : (int)out.subscription;
}

int vitrine_vm_unsubscribe(struct vitrine_vm *vm, int subscription)
{
    struct control_subscription in = { .number = vm->number, .subscription = (uint32_t)subscription };
    return inspect_call(vm, CONTROL_UNSUBSCRIBE, &in, sizeof in, NULL, 0, NULL, 0) < 0 ? -1 : 0;
}

int vitrine_vm_next_events(struct vitrine_vm *vm, struct vitrine_event *out, unsigned n, int timeout_ms, uint64_t *dropped)
{
    struct control_events in = { .number = vm->number,
                                 .max = n < EVENTS_MAX ? n : EVENTS_MAX,
                                 .timeout_ms = timeout_ms < 0 ? UINT32_MAX : (uint32_t)timeout_ms };
    size_t max_bytes = sizeof(struct control_told) + in.max * sizeof *out;
    uint8_t *reply = malloc(max_bytes);
    if (!reply)
        return -1;
    ssize_t bytes = inspect_call(vm, CONTROL_EVENTS, &in, sizeof in, NULL, 0, reply, max_bytes);
    int saved = errno, count = -1;
    if (bytes >= (ssize_t)sizeof(struct control_told)) {
        struct control_told told;
        memcpy(&told, reply, sizeof told);
        if (dropped)
            *dropped = told.dropped;
        count = (int)(((size_t)bytes - sizeof told) / sizeof *out);
        memcpy(out, reply + sizeof told, (unsigned)count * sizeof *out);
    } else if (bytes >= 0) {
        saved = EPROTO;
    }
    free(reply);
    errno = saved;
    return count;
}

int vitrine_vm_answer(struct vitrine_vm *vm, const struct vitrine_event *event, enum vitrine_answer answer, uint64_t value)
{
    struct control_answer in = { .number = vm->number, .vcpu = event->vcpu, .question = event->question, .answer = (uint32_t)answer, .value = value };
    return inspect_call(vm, CONTROL_ANSWER, &in, sizeof in, NULL, 0, NULL, 0) < 0 ? -1 : 0;
}
