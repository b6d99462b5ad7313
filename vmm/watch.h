/* SPDX-License-Identifier: MIT */
/*
 * Reads along with the guest's console output: when did the marker's line begin, has the kernel panicked. One caller at a time.
 */
#ifndef VITRINE_VMM_WATCH_H
#define VITRINE_VMM_WATCH_H

#include "base/types.h"

#define WATCH_LINE_BYTES 512

enum watch_event { WATCH_NONE, WATCH_PANIC, WATCH_PANIC_END };

struct watch {
    const char *marker; /* NULL or "" : none */
    int64_t marker_ns;  /* when the first byte of the marker's line came; 0: not seen */
    int64_t line_ns;
    bool is_panicked;
    char panic[160]; /* the kernel's sentence, for the message */
    char line[WATCH_LINE_BYTES];
    unsigned used; /* a longer line is judged by its start */
};

void watch_init(struct watch *watch, const char *marker);
enum watch_event watch_byte(struct watch *watch, uint8_t byte);
int64_t watch_now_ns(void);

#endif
