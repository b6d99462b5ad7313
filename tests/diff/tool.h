/* SPDX-License-Identifier: MIT */
/*
 * The tool of --watch: subscribes to accesses of one of guest.c's VMs, answers each question as a plan says and writes down what it was told. The main thread
 * calls; a thread of the tool's own answers.
 */
#ifndef VITRINE_TESTS_DIFF_TOOL_H
#define VITRINE_TESTS_DIFF_TOOL_H

#include "diff.h"
#include "introspect/listen.h"

#define TOOL_RANGES_MAX 3
#define TOOL_NEVER UINT32_MAX

struct tool_plan {
    struct look_range range[TOOL_RANGES_MAX]; /* guest-physical */
    unsigned n_ranges;
    bool is_asking;
    unsigned n_retries;            /* each question is answered so often with RETRY before it is answered */
    unsigned deny_at;              /* the question that is denied, or TOOL_NEVER */
    uint64_t deny_first, deny_end; /* only if rip is there */
};

struct tool_event {
    struct watch_record record;
    enum watch_answer answer; /* the last one; WATCH_CONTINUE if none was asked for */
    unsigned n_told;          /* 1, and 1 for each RETRY */
};

int tool_init(struct vm *const vm[2]);
/* Before guest_run with the VM of this number. Nothing may be watched. */
void tool_begin(unsigned number, const struct tool_plan *plan);
/* After it. The events in their order, until the next tool_begin. */
const struct tool_event *tool_end(unsigned *n);
uint64_t tool_n_questions(void);

#endif
