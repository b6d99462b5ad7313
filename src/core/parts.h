/* SPDX-License-Identifier: MIT */
/*
 * Which engine and which chips new VMs get. Filled once by the composition root (lib) before the first VM; read by fronts, which may know neither.
 */
#ifndef VITRINE_CORE_PARTS_H
#define VITRINE_CORE_PARTS_H

struct engine_ops;
struct chip_ops;

struct vm_parts {
    const struct engine_ops *engine;
    const struct chip_ops *chip;
};

void vm_parts_set(const struct engine_ops *engine, const struct chip_ops *chip);
const struct vm_parts *vm_parts(void); /* members are NULL if nothing was chosen */

#endif
