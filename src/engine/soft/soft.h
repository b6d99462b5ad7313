/* SPDX-License-Identifier: MIT */
/*
 * The soft engine: a CPU in software, for any x86-64 Linux host. lib puts its table into core.
 */
#ifndef VITRINE_ENGINE_SOFT_SOFT_H
#define VITRINE_ENGINE_SOFT_SOFT_H

#include "core/engine.h"

extern const struct engine_ops soft_engine_ops;

/* VMs created from now on run one instruction at a time, without translated blocks: slow, for tests and comparisons. */
void soft_set_stepping(bool is_stepping);

#endif
