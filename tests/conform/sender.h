/* SPDX-License-Identifier: MIT */
/*
 * One signal to a thread that is inside KVM_RUN for certain: its guest is seen counting (payload count), or it is seen asleep.
 */
#ifndef VITRINE_TESTS_SENDER_H
#define VITRINE_TESTS_SENDER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define COUNT_AT 0x500u /* the word that payload count counts in, from the base of DS */

struct sender {
    pthread_t thread, to;
    pid_t to_id;
    int number;
    unsigned flags;
    const uint8_t *data;
    uint16_t start; /* of the count, before the run */
    atomic_bool may_look;
};

#define SENDER_WHEN_ASLEEP 1u /* the guest has counted once and counts no more, or data is NULL: wait until the calling thread sleeps */
#define SENDER_TO_PROCESS 2u  /* like a timer's, not to the thread */

/* Call it just before KVM_RUN: sends `number` to the calling thread once that runs the guest. data: where the guest's DS begins, in the client's memory. */
void sender_start(struct sender *s, int number, unsigned flags, const uint8_t *data);
/* Waits until it is sent. */
void sender_join(struct sender *s);

uint16_t sender_count(const uint8_t *data);
/* Waits until the count is another than `start`. */
void sender_wait_counting(const uint8_t *data, uint16_t start);

#endif
