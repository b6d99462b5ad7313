/* SPDX-License-Identifier: MIT */
/*
 * See say.h. For 32- and 64-bit guests; also the few functions that the compiler calls by itself.
 */
#include "say.h"

static const char *current = "";
static unsigned n_failed;

void *memset(void *to, int value, __SIZE_TYPE__ n);
void *memcpy(void *to, const void *from, __SIZE_TYPE__ n);

void *memset(void *to, int value, __SIZE_TYPE__ n)
{
    void *d = to;
    __asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, __SIZE_TYPE__ n)
{
    void *d = to;
    __asm__ volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n)::"memory");
    return to;
}

void say(const char *text)
{
    while (*text)
        out8(0xe9, (u8)*text++);
}

void say_hex(u64 value)
{
    int digit = 60;
    while (digit && !(value >> digit))
        digit -= 4;
    for (; digit >= 0; digit -= 4)
        out8(0xe9, (u8) "0123456789abcdef"[value >> digit & 15]);
}

void group(const char *name)
{
    current = name;
}

static void line(const char *verdict, const char *name)
{
    say(verdict);
    say(" - ");
    say(current);
    say(" ");
    say(name);
}

void check(const char *name, u64 got, u64 want)
{
    line(got == want ? "ok" : "not ok", name);
    if (got != want) {
        n_failed++;
        say(": got ");
        say_hex(got);
        say(" want ");
        say_hex(want);
    }
    say("\n");
}

void skip(const char *name, const char *why)
{
    line("ok", name);
    say(" # SKIP ");
    say(why);
    say("\n");
}

void guest_end(void)
{
    say("# failed: ");
    say_hex(n_failed);
    say("\n");
    out8(0xf4, n_failed != 0);
    for (;;)
        __asm__ volatile("cli; hlt");
}
