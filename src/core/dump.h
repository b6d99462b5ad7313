/* SPDX-License-Identifier: MIT */
/*
 * A vCPU as text for bug reports.
 */
#ifndef VITRINE_CORE_DUMP_H
#define VITRINE_CORE_DUMP_H

#include "base/types.h"

struct vcpu;

/* Registers, events and requests, several lines. Returns the length the whole text has, as snprintf. The vCPU should not run; nothing is locked. */
size_t vcpu_dump(const struct vcpu *v, char *buf, size_t bytes);

#endif
