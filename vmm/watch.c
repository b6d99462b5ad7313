/* SPDX-License-Identifier: MIT */
/*
 * See watch.h. The panic words are believed only at the start of a kernel line, after the optional "[seconds] " stamp.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "vmm/watch.h"

#define WATCH_PANIC_TEXT "Kernel panic - not syncing"
#define WATCH_PANIC_END_TEXT "---[ end Kernel panic"

int64_t watch_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

void watch_init(struct watch *watch, const char *marker)
{
    memset(watch, 0, sizeof(*watch));
    watch->marker = marker;
}

static const char *watch_skip_stamp(const char *line)
{
    const char *end;

    if (*line != '[')
        return line;
    end = strchr(line, ']');
    if (!end || end[1] != ' ' || strspn(line + 1, " .0123456789TC") != (size_t)(end - line - 1))
        return line;
    return end + 2;
}

static enum watch_event watch_line(struct watch *watch)
{
    const char *text = watch_skip_stamp(watch->line);

    if (strncmp(text, WATCH_PANIC_TEXT, sizeof(WATCH_PANIC_TEXT) - 1) == 0) {
        if (!watch->is_panicked)
            snprintf(watch->panic, sizeof(watch->panic), "%.159s", text);
        watch->is_panicked = true;
        return WATCH_PANIC;
    }
    if (watch->is_panicked && strncmp(text, WATCH_PANIC_END_TEXT, sizeof(WATCH_PANIC_END_TEXT) - 1) == 0)
        return WATCH_PANIC_END;
    return WATCH_NONE;
}

enum watch_event watch_byte(struct watch *watch, uint8_t byte)
{
    enum watch_event event = WATCH_NONE;
    size_t n;

    if (byte == '\n' || byte == '\r') {
        event = watch->used ? watch_line(watch) : WATCH_NONE;
        watch->used = 0;
        return event;
    }
    if (byte == 0 || watch->used == sizeof(watch->line) - 1)
        return WATCH_NONE;
    if (watch->used == 0)
        watch->line_ns = watch_now_ns();
    watch->line[watch->used++] = (char)byte;
    watch->line[watch->used] = '\0';
    if (!watch->marker || watch->marker_ns)
        return WATCH_NONE;
    n = strlen(watch->marker);
    if (n && n <= watch->used && memcmp(watch->line + watch->used - n, watch->marker, n) == 0)
        watch->marker_ns = watch->line_ns;
    return WATCH_NONE;
}
