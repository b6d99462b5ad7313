/* SPDX-License-Identifier: MIT */
/*
 * Scalars with a meaning. An address is never a bare integer: the type says whose address it is.
 */
#ifndef VITRINE_BASE_TYPES_H
#define VITRINE_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t gpa_t; /* guest-physical address */
typedef uint64_t gva_t; /* guest linear ("virtual") address, segment base already added */
typedef uint64_t gfn_t; /* guest page frame number: gpa >> 12 */
typedef uint8_t *hva_t; /* address in this process */

#define PAGE_SHIFT 12
#define PAGE_BYTES 4096ull
#define PAGE_OFFSET_MASK 0xfffull

#endif
