/* SPDX-License-Identifier: MIT */
/* See tool.h. `mutex` makes the listener one thread's at a time; it guards the rest too. */
#include "tool.h"

#include <assert.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "gifts.h"
#include "introspect/view.h"

#define ACCESS_ALL (WATCH_READ | WATCH_WRITE | WATCH_EXECUTE)
#define PIECE_BYTES 128u
#define EVENTS_MAX 4096u

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct look_listener *listeners[2];
static struct tool_plan plan;
static unsigned current; /* whose events are waited for */
static int subscription;
static struct tool_event events[EVENTS_MAX];
static unsigned n_events;
static _Atomic uint64_t n_questions;

/* The question came because the last one was answered with RETRY. */
static bool is_again(const struct tool_event *last, const struct watch_record *r)
{
    return last->answer == WATCH_RETRY && last->record.rip == r->rip && !memcmp(&last->record.event, &r->event, sizeof r->event) &&
           !memcmp(last->record.gpr, r->gpr, sizeof r->gpr);
}

static enum watch_answer choose(const struct tool_event *e)
{
    if (e->n_told <= plan.n_retries)
        return WATCH_RETRY;
    bool is_its_own = e->record.event.gva < ARENA_END; /* not part of a delivery */
    bool may_deny = is_its_own && e->record.rip >= plan.deny_first && e->record.rip < plan.deny_end;
    return n_events - 1 == plan.deny_at && may_deny ? WATCH_DENY : WATCH_CONTINUE;
}

static void hear(struct look_listener *l, const struct watch_record *r)
{
    assert(r->event.kind == WATCH_ACCESS && !r->vcpu && plan.is_asking == (r->question != 0));
    if (!n_events || !is_again(&events[n_events - 1], r)) {
        assert(n_events < EVENTS_MAX);
        events[n_events++] = (struct tool_event){ .record = *r };
    }
    struct tool_event *e = &events[n_events - 1];
    e->n_told++;
    if (!r->question)
        return;
    e->answer = choose(e);
    atomic_fetch_add(&n_questions, 1);
    struct watch_reply reply = { .answer = e->answer };
    if (plan.is_giving && e->answer == WATCH_CONTINUE)
        gifts_make(&r->event, &reply);
    int error = look_reply(l, r->vcpu, r->question, &reply);
    assert(!error);
}

/* mutex is held. */
static void hear_all(struct look_listener *l)
{
    struct watch_record r;
    uint64_t dropped;
    while (look_listener_next(l, &r, 1, &dropped))
        hear(l, &r);
    assert(!dropped);
}

static void *answer_all(void *arg)
{
    struct look_listener *l = arg;
    for (;;) {
        struct pollfd p = { .fd = look_listener_fd(l), .events = POLLIN };
        poll(&p, 1, -1);
        pthread_mutex_lock(&mutex);
        hear_all(l);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

int tool_init(struct vm *const vm[2])
{
    for (unsigned n = 0; n < 2; n++) {
        pthread_t thread;
        int r = look_listener_create(vm[n], &listeners[n]);
        if (!r)
            r = -pthread_create(&thread, NULL, answer_all, listeners[n]);
        if (r)
            return r;
    }
    return 0;
}

bool tool_can_deny(const struct tool_plan *p)
{
    for (unsigned i = 0; i < p->n_ranges; i++) {
        const struct look_range *r = &p->range[i];
        uint64_t unit = r->access == WATCH_WRITE ? PIECE_BYTES : PAGE_BYTES;
        if (r->first % unit || (r->last + 1) % unit)
            return false;
    }
    return p->is_asking;
}

/* mutex is held. */
static void set_page(const struct look_page *page)
{
    struct look_page with_write = *page;
    with_write.access |= WATCH_WRITE;
    int r = look_view_set_access(listeners[current], 0, &with_write, 1);
    if (!r)
        r = look_view_set_writeable(listeners[current], 0, page, 1);
    assert(!r);
}

/* mutex is held. One range after the other: several may be of one page. */
static void deny(const struct look_range *range)
{
    for (gpa_t gpa = range->first & ~PAGE_OFFSET_MASK; gpa <= range->last; gpa += PAGE_BYTES) {
        struct look_page page = { .gpa = gpa };
        int r = look_view_get(listeners[current], 0, &page, 1);
        assert(!r);
        page.access &= ~range->access;
        for (unsigned i = 0; i < PAGE_BYTES / PIECE_BYTES; i++)
            if ((range->access & WATCH_WRITE) && gpa + i * PIECE_BYTES >= range->first && gpa + i * PIECE_BYTES < range->last)
                page.writeable &= ~(1u << i);
        set_page(&page);
    }
}

/* mutex is held. */
static void allow(const struct look_range *range)
{
    for (gpa_t gpa = range->first & ~PAGE_OFFSET_MASK; gpa <= range->last; gpa += PAGE_BYTES)
        set_page(&(struct look_page){ .gpa = gpa, .access = ACCESS_ALL, .writeable = ~0u });
}

void tool_begin(unsigned number, const struct tool_plan *p)
{
    const struct look_filter f = { .kinds = WATCH_ACCESS, .is_asking = p->is_asking, .last_index = UINT32_MAX };
    pthread_mutex_lock(&mutex);
    plan = *p;
    current = number;
    n_events = 0;
    subscription = p->is_by_view ? 0 : look_subscribe(listeners[number], &f, p->range, p->n_ranges);
    assert(subscription > 0 || p->is_by_view);
    for (unsigned i = 0; p->is_by_view && i < p->n_ranges; i++)
        deny(&p->range[i]);
    pthread_mutex_unlock(&mutex);
}

const struct tool_event *tool_end(unsigned *n)
{
    pthread_mutex_lock(&mutex);
    hear_all(listeners[current]);
    int r = subscription ? look_unsubscribe(listeners[current], (unsigned)subscription) : 0;
    assert(!r);
    for (unsigned i = 0; plan.is_by_view && i < plan.n_ranges; i++)
        allow(&plan.range[i]);
    *n = n_events;
    pthread_mutex_unlock(&mutex);
    return events;
}

uint64_t tool_n_questions(void)
{
    return atomic_load(&n_questions);
}
