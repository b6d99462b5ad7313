/* SPDX-License-Identifier: MIT */
/*
 * What the fuzz programs of KVMI share: a tool's session with a VM that runs meanwhile, the order of a batch, and payloads at random. Payloads end, and replies
 * begin, at a page that is not there. One thread.
 */
#ifndef VITRINE_TESTS_FUZZ_KVMI_TALK_H
#define VITRINE_TESTS_FUZZ_KVMI_TALK_H

#include <stdbool.h>

#include "batches.h"
#include "front/kvmi/kvmi.h"

#define TALK_IN_BYTES 0x10000u

/* Of this batch. */
struct talk {
    struct kvmi_options options; /* of the sessions that begin */
    struct kvmi_session *session;
    uint8_t *in_end, *out;
    uint64_t seed;
    bool is_harmless; /* the tool may change nothing of the guest's, which then has to keep its sums */
};
extern struct talk talk;

struct talk_ops {
    void (*begin_session)(void); /* ends with talk_begin_session */
    void (*sensible_message)(void);
    void (*random_message)(void);
    bool (*answer_event)(void); /* false: there is none */
};

/* In the place of a session that is there. */
void talk_begin_session(void);
/* The guest runs on until the caller says counter_destroy. */
void talk_batch(uint64_t seed, const struct talk_ops *ops);
/* Any, or one that something may go wrong with: an edge of memory, of the guest's pages, of addresses. */
uint64_t talk_random_number(void);
/* For a command, or NULL for none: its bytes, before talk.in_end. The first `head_bytes` are mostly zero, as is mostly what has to be. */
uint32_t talk_random_payload(const struct kvmi_command *c, unsigned head_bytes);

#endif
