/* SPDX-License-Identifier: MIT */
/*
 * Results of the guests, as TAP lines on port 0xe9; the end on port 0xf4.
 */
#ifndef VITRINE_GUESTS_SAY_H
#define VITRINE_GUESTS_SAY_H

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

void say(const char *text);
void say_hex(u64 value);
void check(const char *name, u64 got, u64 want);
void skip(const char *name, const char *why);
/* Prefix of the names that follow. */
void group(const char *name);
/* Says how many checks failed and stops the machine. */
__attribute__((noreturn)) void guest_end(void);

static inline void out8(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
static inline void out32(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port) : "memory");
}
static inline u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}
static inline void cpuid(u32 leaf, u32 sub, u32 r[4])
{
    __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}
/* reg: 0-3 = eax ebx ecx edx */
static inline bool has_cpuid(u32 leaf, unsigned reg, unsigned bit)
{
    u32 r[4];
    cpuid(leaf, 0, r);
    return r[reg] >> bit & 1;
}

#endif
