/* SPDX-License-Identifier: MIT */
/*
 * The chosen engine and chips. Written before any VM exists, then constant: no lock.
 */
#include "core/parts.h"

static struct vm_parts parts;

void vm_parts_set(const struct engine_ops *engine, const struct chip_ops *chip)
{
    parts = (struct vm_parts){ .engine = engine, .chip = chip };
}

const struct vm_parts *vm_parts(void)
{
    return &parts;
}
