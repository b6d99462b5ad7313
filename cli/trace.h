/* SPDX-License-Identifier: MIT */
/*
 * Between the files of `vitrine trace`: what its command line says. Functions return CLI_DONE, or another status after a message; texts are taken apart.
 */
#ifndef VITRINE_CLI_TRACE_H
#define VITRINE_CLI_TRACE_H

#include <stdbool.h>
#include <stdint.h>

#include "vitrine/inspect.h"

struct trace_options {
    bool is_virtual, is_waiting, is_json;
    uint32_t vcpu;
    uint64_t count;
    struct vitrine_reply reply; /* to each event, with is_waiting */
};

/* "FILTER,...", added to *what. */
int trace_parse_filter(char *text, struct vitrine_subscription *what);
/* "ANSWER" or "ANSWER=VALUE". */
int trace_parse_answer(char *text, struct vitrine_reply *out);
/* One subscription for each of "EVENT,...", all with the filter. */
int trace_subscribe(struct vitrine_vm *vm, const struct trace_options *o, char *on, const struct vitrine_subscription *filter);

#endif
