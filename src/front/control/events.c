/* SPDX-License-Identifier: MIT */
/* Subscriptions to events, and what comes of them. A connection has one listener per VM, made with its first subscription. See control.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/vm.h"
#include "front/control/control_priv.h"
#include "introspect/listen.h"

_Static_assert(VITRINE_ON_CR == WATCH_CR && VITRINE_ON_MSR_WRITE == WATCH_MSR_WRITE && VITRINE_ON_MSR_READ == WATCH_MSR_READ && VITRINE_ON_INT3 == WATCH_INT3 &&
                   VITRINE_ON_ACCESS == WATCH_ACCESS && VITRINE_ON_STEP == WATCH_STEP && VITRINE_ON_CPUID == WATCH_CPUID && VITRINE_ON_XSETBV == WATCH_XSETBV &&
                   VITRINE_ON_TABLE == WATCH_TABLE && VITRINE_ON_HYPERCALL == WATCH_HYPERCALL && VITRINE_ON_PORT == WATCH_PORT &&
                   VITRINE_ON_EXCEPTION == WATCH_EXCEPTION && VITRINE_ON_INTERRUPT == WATCH_INTERRUPT && VITRINE_ON_SYSCALL == WATCH_SYSCALL,
               "the same kinds");
_Static_assert(VITRINE_READ == WATCH_READ && VITRINE_WRITE == WATCH_WRITE && VITRINE_EXECUTE == WATCH_EXECUTE, "the same accesses");
_Static_assert((int)VITRINE_CONTINUE == (int)WATCH_CONTINUE && (int)VITRINE_DENY == (int)WATCH_DENY && (int)VITRINE_CHANGE == (int)WATCH_CHANGE &&
                   (int)VITRINE_RETRY == (int)WATCH_RETRY,
               "the same answers");

#define FLAGS (VITRINE_SUBSCRIBE_ASK | VITRINE_SUBSCRIBE_VCPU | VITRINE_SUBSCRIBE_CR3)

static struct look_listener *ear_find(const struct control_arg *a, uint32_t number)
{
    for (struct control_ear *e = a->session->ears; e; e = e->next)
        if (e->number == number)
            return e->listener;
    return NULL;
}

static int ear_open(struct control_arg *a, struct look_listener **out)
{
    *out = ear_find(a, a->vm->number);
    if (*out)
        return 0;
    struct control_ear *e = calloc(1, sizeof *e);
    int r = e ? look_listener_create(a->vm, &e->listener) : -ENOMEM;
    if (r) {
        free(e);
        return r;
    }
    e->number = a->vm->number;
    e->next = a->session->ears;
    a->session->ears = e;
    *out = e->listener;
    return 0;
}

void control_ears_close(struct control_session *s)
{
    for (struct control_ear *e = s->ears, *next; e; e = next) {
        next = e->next;
        look_listener_destroy(e->listener);
        free(e);
    }
    s->ears = NULL;
}

static struct look_filter filter_of(const struct vitrine_subscription *s)
{
    return (struct look_filter){ .kinds = s->kinds,
                                 .is_asking = s->flags & VITRINE_SUBSCRIBE_ASK,
                                 .has_vcpu = s->flags & VITRINE_SUBSCRIBE_VCPU,
                                 .has_cr3 = s->flags & VITRINE_SUBSCRIBE_CR3,
                                 .vcpu = s->vcpu,
                                 .cpls = s->cpls,
                                 .cr3 = s->cr3,
                                 .first_index = s->first_index,
                                 .last_index = s->last_index,
                                 .value_mask = s->value_mask,
                                 .value = s->value,
                                 .count = s->count };
}

int control_subscribe_call(struct control_arg *a)
{
    struct vitrine_subscription what;
    const uint8_t *in = (const uint8_t *)a->in + sizeof(struct control_subscription), *ranges = in + sizeof what;
    memcpy(&what, in, sizeof what); /* requests come at any alignment */
    uint32_t bytes = a->in_bytes - (uint32_t)(ranges - (const uint8_t *)a->in), n = bytes / (uint32_t)sizeof(struct vitrine_range);
    if (bytes % sizeof(struct vitrine_range) || (what.flags & ~FLAGS))
        return -EINVAL;
    struct look_listener *l;
    int r = ear_open(a, &l);
    struct look_range *range = r || !n ? NULL : malloc(n * sizeof *range);
    if (!r && n && !range)
        r = -ENOMEM;
    for (uint32_t i = 0; !r && i < n; i++) {
        struct vitrine_range from;
        memcpy(&from, ranges + i * sizeof from, sizeof from);
        range[i] = (struct look_range){ .first = from.first, .last = from.last, .access = from.access };
    }
    struct look_filter f = filter_of(&what);
    if (!r)
        r = look_subscribe(l, &f, range, n);
    free(range);
    if (r < 0)
        return r;
    *(struct control_subscription *)a->out = (struct control_subscription){ .subscription = (uint32_t)r };
    a->out_bytes = sizeof(struct control_subscription);
    return 0;
}

int control_unsubscribe(struct control_arg *a)
{
    struct look_listener *l = ear_find(a, a->vm->number);
    return l ? look_unsubscribe(l, ((const struct control_subscription *)a->in)->subscription) : -ENOENT;
}

int control_ring(struct control_arg *a)
{
    struct look_listener *l;
    int r = ear_open(a, &l), fd[2];
    if (r || (r = look_listener_share(l, fd)))
        return r;
    memcpy(a->session->fd, fd, sizeof fd);
    a->session->n_fds = 2;
    return 0;
}

int control_answer_call(struct control_arg *a)
{
    struct control_answer in;
    struct look_listener *l = ear_find(a, a->vm->number);
    memcpy(&in, a->in, sizeof in);
    if (!l || in.answer >= WATCH_ANSWERS)
        return -EINVAL;
    return look_answer(l, in.vcpu, in.question, (enum watch_answer)in.answer, in.value);
}
