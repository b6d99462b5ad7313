/* SPDX-License-Identifier: MIT */
/*
 * See error.h.
 */
#include <stdarg.h>
#include <stdio.h>

#include "vmm/error.h"

int error_set(struct vmm_error *error, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(error->text, sizeof(error->text), format, args);
    va_end(args);
    return code;
}
