/* SPDX-License-Identifier: MIT */
/*
 * Signals that come while a guest runs, by what can be seen of the guest and of its thread. Waits have no limit of their own: the driver ends a case that waits
 * in vain.
 */
#include "tests/conform/sender.h"

#include <signal.h>
#include <unistd.h>

#include "tests/conform/conform.h"
#include "tests/thread_state.h"

#define LOOK_EVERY_US 100

uint16_t sender_count(const uint8_t *data)
{
    return *(const volatile uint16_t *)(const void *)(data + COUNT_AT);
}

void sender_wait_counting(const uint8_t *data, uint16_t start)
{
    while (sender_count(data) == start)
        usleep(LOOK_EVERY_US);
}

static void *send(void *arg)
{
    struct sender *s = arg;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    while (!s->may_look)
        usleep(LOOK_EVERY_US);
    if (s->flags & SENDER_WHEN_ASLEEP) {
        while (s->data && !sender_count(s->data)) /* before it runs its guest the thread may sleep for other reasons */
            usleep(LOOK_EVERY_US);
        thread_wait_state(s->to_id, "S");
    } else {
        sender_wait_counting(s->data, s->start);
    }
    if (s->flags & SENDER_TO_PROCESS)
        kill(getpid(), s->number);
    else
        pthread_kill(s->to, s->number);
    return NULL;
}

void sender_start(struct sender *s, int number, unsigned flags, const uint8_t *data)
{
    *s = (struct sender){ .to = pthread_self(), .to_id = gettid(), .number = number, .flags = flags, .data = data, .start = data ? sender_count(data) : 0 };
    REQUIRE(pthread_create(&s->thread, NULL, send, s) == 0);
    s->may_look = true; /* not before: making a thread may sleep */
}

void sender_join(struct sender *s)
{
    pthread_join(s->thread, NULL);
}
