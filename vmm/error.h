/* SPDX-License-Identifier: MIT */
/*
 * How a failure inside the VMM travels to the outcome: an errno for the program and one sentence for the reader. No state, no lock.
 */
#ifndef VITRINE_VMM_ERROR_H
#define VITRINE_VMM_ERROR_H

struct vmm_error {
    char text[448];
};

/* Writes the sentence and returns `code`, so that a failing path is one return statement. */
__attribute__((format(printf, 3, 4))) int error_set(struct vmm_error *error, int code, const char *format, ...);

#endif
