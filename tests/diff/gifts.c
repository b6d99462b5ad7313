/* SPDX-License-Identifier: MIT */
/* See gifts.h. */
#include "gifts.h"

#include <string.h>

#include "diff.h"

#define SPOIL 0x5a
#define OF_INSN_MAX (WATCH_GIFTS_MAX - 1) /* more would not all be kept */

static uint8_t was[DATA_BYTES];
static bool is_spoiled[DATA_BYTES];
static unsigned n_of_insn;
static uint64_t n_all;

void gifts_begin(void)
{
    memset(is_spoiled, 0, sizeof is_spoiled);
    n_of_insn = 0;
}

bool gifts_make(const struct watch_event *e, struct watch_reply *out)
{
    uint64_t at = e->gva - DATA_AT;
    uint8_t *data = guest_data();
    if (!(e->access & WATCH_READ) || (e->access & WATCH_EXECUTE) || e->bytes > WATCH_DATA_MAX || at + e->bytes > DATA_BYTES || n_of_insn == OF_INSN_MAX)
        return false;
    *out = (struct watch_reply){ .answer = WATCH_EMULATE, .data_at = e->gva, .data_bytes = e->bytes };
    for (unsigned i = 0; i < e->bytes; i++) {
        uint8_t *p = &data[at + i];
        if (!is_spoiled[at + i]) {
            was[at + i] = *p;
            *p ^= SPOIL;
            is_spoiled[at + i] = true;
        }
        out->data[i] = was[at + i];
    }
    n_of_insn++;
    n_all++;
    return true;
}

void gifts_undo(const uint8_t *native)
{
    uint8_t *data = guest_data();
    for (unsigned at = 0; at < DATA_BYTES; at++)
        if (is_spoiled[at] && data[at] == (was[at] ^ SPOIL) && native[at] == was[at])
            data[at] = was[at];
}

uint64_t gifts_count(void)
{
    return n_all;
}
