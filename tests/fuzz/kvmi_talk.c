/* SPDX-License-Identifier: MIT */
/* See kvmi_talk.h. */
#include "kvmi_talk.h"

#include <string.h>

#include "counter.h"

#define MESSAGES_PER_BATCH 3000
#define OUT_BYTES ((KVMI_OUT_BYTES + 4095) & ~4095ul)

struct talk talk;

void talk_begin_session(void)
{
    if (talk.session)
        kvmi_session_destroy(talk.session);
    talk.session = kvmi_session_create(1, &talk.options);
}

void talk_batch(uint64_t seed, const struct talk_ops *ops)
{
    talk.seed = seed;
    talk.is_harmless = batches_choose(&talk.seed, 2);
    talk.in_end = batches_room(TALK_IN_BYTES) + TALK_IN_BYTES;
    talk.out = batches_room(OUT_BYTES);
    counter_create_summing();
    ops->begin_session();
    counter_start();
    for (unsigned i = 0; i < MESSAGES_PER_BATCH; i++) {
        if (batches_choose(&talk.seed, 2))
            ops->sensible_message();
        else
            ops->random_message();
        for (unsigned k = batches_choose(&talk.seed, 4); k && ops->answer_event(); k--)
            i++;
        if (batches_choose(&talk.seed, 500) == 0)
            ops->begin_session();
    }
    batches_count(MESSAGES_PER_BATCH);
    kvmi_session_destroy(talk.session);
    talk.session = NULL;
    counter_stop();
    if (talk.is_harmless)
        counter_must_sum();
    else
        counter_must_count();
}

uint64_t talk_random_number(void)
{
    static const uint64_t edges[] = { 0,      1,       2,       0x500,      0xfff,      0x1000,     0x8000,      0x9000,
                                      0xb000, 0x1ffff, 0x20000, 0x80000000, 0xffffffff, 1ull << 47, ~0ull << 12, ~0ull };
    return batches_choose(&talk.seed, 2) ? edges[batches_choose(&talk.seed, sizeof edges / sizeof *edges)] : batches_random(&talk.seed);
}

uint32_t talk_random_payload(const struct kvmi_command *c, unsigned head_bytes)
{
    unsigned before = c && c->is_vcpu ? 8 : 0;
    uint32_t bytes = c ? c->bytes + before : batches_choose(&talk.seed, 64);
    if (batches_choose(&talk.seed, 4) == 0)
        bytes += batches_choose(&talk.seed, 5000);
    if (batches_choose(&talk.seed, 8) == 0)
        bytes = batches_choose(&talk.seed, TALK_IN_BYTES);
    uint8_t *in = talk.in_end - bytes;
    for (uint32_t i = 0; i + 8 <= bytes; i += 8) {
        uint64_t value = talk_random_number();
        memcpy(in + i, &value, 8);
    }
    if (head_bytes && bytes >= 8 && batches_choose(&talk.seed, 8))
        memset(in, 0, head_bytes);
    if (c && batches_choose(&talk.seed, 4))
        for (unsigned i = 0, at = before; i < 16 && at + i < bytes; i++)
            if (c->must_be_zero >> i & 1)
                in[at + i] = 0;
    return bytes;
}
