/* SPDX-License-Identifier: MIT */
/* Subscriptions to events, and what comes of them. A connection has one listener per VM, made with its first subscription. See control.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/hold.h"
#include "core/vm.h"
#include "front/control/control_priv.h"
#include "introspect/listen.h"

_Static_assert(VITRINE_ON_CR == WATCH_CR && VITRINE_ON_MSR_WRITE == WATCH_MSR_WRITE && VITRINE_ON_MSR_READ == WATCH_MSR_READ && VITRINE_ON_INT3 == WATCH_INT3 &&
                   VITRINE_ON_ACCESS == WATCH_ACCESS && VITRINE_ON_STEP == WATCH_STEP && VITRINE_ON_CPUID == WATCH_CPUID && VITRINE_ON_XSETBV == WATCH_XSETBV &&
                   VITRINE_ON_TABLE == WATCH_TABLE && VITRINE_ON_HYPERCALL == WATCH_HYPERCALL && VITRINE_ON_PORT == WATCH_PORT &&
                   VITRINE_ON_EXCEPTION == WATCH_EXCEPTION && VITRINE_ON_INTERRUPT == WATCH_INTERRUPT && VITRINE_ON_SYSCALL == WATCH_SYSCALL &&
                   VITRINE_ON_SYSRET == WATCH_SYSRET && VITRINE_ON_FLUSH == WATCH_FLUSH && VITRINE_ON_DEBUG == WATCH_DEBUG && VITRINE_ON_VCPU == WATCH_VCPU &&
                   VITRINE_ON_INJECTED == WATCH_INJECTED && VITRINE_ON_END == WATCH_END,
               "the same kinds");
_Static_assert(VITRINE_READ == WATCH_READ && VITRINE_WRITE == WATCH_WRITE && VITRINE_EXECUTE == WATCH_EXECUTE, "the same accesses");
_Static_assert((int)VITRINE_CONTINUE == (int)WATCH_CONTINUE && (int)VITRINE_DENY == (int)WATCH_DENY && (int)VITRINE_CHANGE == (int)WATCH_CHANGE &&
                   (int)VITRINE_RETRY == (int)WATCH_RETRY && (int)VITRINE_EMULATE == (int)WATCH_EMULATE && (int)VITRINE_INJECT == (int)WATCH_INJECT &&
                   (int)VITRINE_CRASH == (int)WATCH_CRASH && VITRINE_DATA_MAX == WATCH_DATA_MAX,
               "the same answers");
_Static_assert((int)VITRINE_FLUSH_PARAVIRTUAL == (int)WATCH_FLUSH_PARAVIRTUAL && (int)VITRINE_FLUSH_CR3 == (int)WATCH_FLUSH_CR3 &&
                   (int)VITRINE_VCPU_HALTS == (int)WATCH_VCPU_HALTED && (int)VITRINE_VCPU_STARTED == (int)WATCH_VCPU_STARTED,
               "the same indexes");

#define FLAGS (VITRINE_SUBSCRIBE_ASK | VITRINE_SUBSCRIBE_LOSSLESS | VITRINE_SUBSCRIBE_VCPU | VITRINE_SUBSCRIBE_CR3 | VITRINE_SUBSCRIBE_RIP)

static struct look_listener *ear_find(const struct control_arg *a, uint32_t number)
{
    for (struct control_ear *e = a->session->ears; e; e = e->next)
        if (e->number == number)
            return e->listener;
    return NULL;
}

int control_ear_open(struct control_arg *a, struct look_listener **out)
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
                                 .is_lossless = s->flags & VITRINE_SUBSCRIBE_LOSSLESS,
                                 .has_vcpu = s->flags & VITRINE_SUBSCRIBE_VCPU,
                                 .has_cr3 = s->flags & VITRINE_SUBSCRIBE_CR3,
                                 .vcpu = s->vcpu,
                                 .cpls = s->cpls,
                                 .cr3 = s->cr3,
                                 .first_index = s->first_index,
                                 .last_index = s->last_index,
                                 .value_mask = s->value_mask,
                                 .value = s->value,
                                 .has_rips = s->flags & VITRINE_SUBSCRIBE_RIP,
                                 .first_rip = s->first_rip,
                                 .last_rip = s->last_rip,
                                 .every = s->every,
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
    int r = control_ear_open(a, &l);
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
    int r = control_ear_open(a, &l), fd[2];
    if (r || (r = look_listener_share(l, fd)))
        return r;
    memcpy(a->session->fd, fd, sizeof fd);
    a->session->n_fds = 2;
    return 0;
}

int control_room(struct control_arg *a)
{
    struct look_listener *l = ear_find(a, a->vm->number);
    return l ? look_room(l) : -EINVAL;
}

/* ---- answers ---- */

static struct injection injection_of(const struct vitrine_injection *i)
{
    return (struct injection){ .is_interrupt = i->is_interrupt,
                               .vector = (uint8_t)i->vector,
                               .has_code = i->has_code,
                               .code = i->code,
                               .has_address = i->has_address,
                               .address = i->address };
}

int control_answer_call(struct control_arg *a)
{
    struct control_answer in;
    struct vitrine_reply from;
    struct look_listener *l = ear_find(a, a->vm->number);
    memcpy(&in, a->in, sizeof in);
    memcpy(&from, (const uint8_t *)a->in + sizeof in, sizeof from);
    if (!l || from.answer >= WATCH_ANSWERS || from.data_bytes > WATCH_DATA_MAX || from.injection.vector > UINT8_MAX)
        return -EINVAL;
    struct watch_reply reply = { .answer = (enum watch_answer)from.answer,
                                 .value = from.value,
                                 .data_at = from.data_at,
                                 .data_bytes = from.data_bytes,
                                 .injection = injection_of(&from.injection) };
    memcpy(reply.data, from.data, from.data_bytes);
    return look_reply(l, in.vcpu, in.question, &reply);
}

struct injecting {
    struct injection what;
    int result;
};

static void inject(struct vcpu *v, void *arg)
{
    struct injecting *i = arg;
    i->result = inject_into(v, &i->what, false);
}

int control_inject(struct control_arg *a)
{
    struct vitrine_injection from;
    memcpy(&from, (const struct control_vcpu *)a->in + 1, sizeof from);
    if (from.vector > UINT8_MAX)
        return -EINVAL;
    struct injecting i = { .what = injection_of(&from) };
    hold_call(a->vcpu, inject, &i);
    return i.result;
}
