/* SPDX-License-Identifier: MIT */
/*
 * memcpy and friends that use general registers only (see the vector rule in soft_priv.h).
 */
#ifndef VITRINE_ENGINE_SOFT_LIGHT_H
#define VITRINE_ENGINE_SOFT_LIGHT_H

#include <stddef.h>

static inline void light_copy(void *to, const void *from, size_t bytes)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

static inline void light_fill(void *to, unsigned char value, size_t bytes)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(bytes) : "a"(value) : "memory");
}

#endif
