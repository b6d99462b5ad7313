/* SPDX-License-Identifier: MIT */
/*
 * The tool of --watch: subscribes to accesses of one of guest.c's VMs or denies them, answers each question as a plan says and writes down what it was told.
 * The main thread calls; a thread of the tool's own answers.
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
    bool is_by_view;               /* not by a subscription: the pages and pieces are denied. Only if tool_can_deny */
    unsigned n_retries;            /* each question is answered so often with RETRY before it is answered */
    bool is_giving;                /* gifts.h */
    unsigned deny_at;              /* the question that is denied, or TOOL_NEVER */
    uint64_t deny_first, deny_end; /* only if rip is there */
};

struct tool_event {
    struct watch_record record;
    enum watch_answer answer; /* the last one; WATCH_CONTINUE if none was asked for */
    unsigned n_told;          /* 1, and 1 for each RETRY */
};

/* Its ranges are whole pages, or for writes whole pieces, and it asks. */
bool tool_can_deny(const struct tool_plan *plan);
int tool_init(struct vm *const vm[2]);
/* Before guest_run with the VM of this number. Nothing may be watched. */
void tool_begin(unsigned number, const struct tool_plan *plan);
/* After it. The events in their order, until the next tool_begin. */
const struct tool_event *tool_end(unsigned *n);
uint64_t tool_n_questions(void);

#endif
