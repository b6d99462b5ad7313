/* SPDX-License-Identifier: MIT */
/*
 * String instructions upward and downward, with and without REP, over page borders and over themselves: each against a loop that does one element at a time.
 */
#include "tests64.h"

#define BASE 0x29000000000ull
#define BYTES 12288u

static u8 memory[BYTES] __attribute__((aligned(4096))), expected[BYTES];

static void fill(void)
{
    for (u32 i = 0; i < BYTES / 8; i++)
        ((u64 *)memory)[i] = ((u64 *)expected)[i] = i * 0x9e3779b97f4a7c15;
}

static u32 differences(void)
{
    u32 n = 0;
    for (u32 i = 0; i < BYTES / 8; i++)
        n += ((u64 *)memory)[i] != ((u64 *)expected)[i];
    return n;
}

static void copy_element(u32 to, u32 from, u32 bytes)
{
    u8 element[8];
    for (u32 i = 0; i < bytes; i++)
        element[i] = expected[from + i];
    for (u32 i = 0; i < bytes; i++)
        expected[to + i] = element[i];
}

struct run {
    u64 si, di, cx;
};

#define MOVS(direction, insn) __asm__ volatile(direction "; " insn "; cld" : "+S"(r->si), "+D"(r->di), "+c"(r->cx)::"memory", "cc")
#define MOVS_SIZES(direction, prefix, suffix)   \
    switch (bytes) {                            \
    case 1:                                     \
        MOVS(direction, prefix "movsb" suffix); \
        break;                                  \
    case 2:                                     \
        MOVS(direction, prefix "movsw" suffix); \
        break;                                  \
    case 4:                                     \
        MOVS(direction, prefix "movsl" suffix); \
        break;                                  \
    default:                                    \
        MOVS(direction, prefix "movsq" suffix); \
    }

static void movs(struct run *r, u32 bytes, bool is_down, bool is_rep)
{
    if (is_rep && is_down) {
        MOVS_SIZES("std", "rep ", "")
    } else if (is_rep) {
        MOVS_SIZES("cld", "rep ", "")
    } else if (is_down) {
        MOVS_SIZES("std", "1: ", "; dec %2; jnz 1b")
    } else {
        MOVS_SIZES("cld", "1: ", "; dec %2; jnz 1b")
    }
}

/* The number of things that are wrong. */
static u32 one_move(u32 to, u32 from, u32 bytes, u32 n, bool is_down, bool is_rep)
{
    struct run r = { (u64)memory + from, (u64)memory + to, n };
    u64 step = is_down ? -(u64)bytes : bytes;
    fill();
    movs(&r, bytes, is_down, is_rep);
    for (u32 i = 0; i < n; i++)
        copy_element((u32)(to + step * i), (u32)(from + step * i), bytes);
    return (r.cx != 0) + (r.si != (u64)memory + from + step * n) + (r.di != (u64)memory + to + step * n) + differences();
}

static void moves(void)
{
    static const u16 distance[] = { 0, 1, 3, 8, 13, 100, 4096, 4500 };
    group("MOVS");
    for (u32 bytes = 1; bytes <= 8; bytes *= 2) {
        u32 wrong = 0;
        for (u32 i = 0; i < sizeof distance / sizeof *distance; i++)
            for (u32 way = 0; way < 8; way++) {
                u32 n = 1500 / bytes, low = way & 1 ? 1 : 4090, high = low + distance[i], begin = way & 2 ? n * bytes : 0;
                wrong += one_move((way & 1 ? high : low) + begin, (way & 1 ? low : high) + begin, bytes, n, way & 2, way & 4);
            }
        check("MOVS up and down, near and far, with and without REP", wrong, 0);
    }
}

static void fills(void)
{
    group("STOS and LODS");
    u64 di = (u64)memory + 6000, cx = 700, si = (u64)memory, a;
    fill();
    __asm__ volatile("std; rep stosl; cld" : "+D"(di), "+c"(cx) : "a"(0x12345678) : "memory");
    for (u32 i = 0; i < 700; i++)
        *(u32 *)(expected + 6000 - 4 * i) = 0x12345678;
    check("REP STOSL downward", differences(), 0);
    check("its RDI", di, (u64)memory + 6000 - 2800);
    fill();
    di = (u64)memory + 4095;
    __asm__ volatile("stosw; stosb; stosq" : "+D"(di) : "a"(0x1122334455667788) : "memory");
    *(u16 *)(expected + 4095) = 0x7788;
    expected[4097] = 0x88;
    *(u64 *)(expected + 4098) = 0x1122334455667788;
    check("STOS over a page border", differences(), 0);
    check("their RDI", di, (u64)memory + 4106);
    fill();
    __asm__ volatile("mov $-1, %%rax; lodsb; mov %%rax, %%rdx; lodsl; add %%rax, %%rdx; std; lodsw; cld; add %%rdx, %%rax" : "+S"(si), "=&a"(a)::"rdx", "cc");
    u64 b = ~0xffull | memory[0], l = *(u32 *)(memory + 1), w = (l & ~0xffffull) | *(u16 *)(memory + 5);
    check("LODS", a, b + l + w);
    check("its RSI", si, (u64)memory + 3);
    u64 from = 0xffffffff00000000ull | (u64)memory, to = 0xffffffff00000000ull | ((u64)memory + 64);
    __asm__ volatile("addr32 movsb" : "+S"(from), "+D"(to)::"memory");
    check("MOVSB by 32 bits: RSI", from, (u64)memory + 1);
    check("MOVSB by 32 bits: RDI", to, (u64)memory + 65);
}

static void faults(void)
{
    group("string faults");
    page_map(BASE, (u64)memory | PTE_P | PTE_W);
    page_map(BASE + 4096, 0);
    page_map(BASE + 8192, ((u64)memory + 8192) | PTE_P | PTE_W);
    fill();
    TRY("movsq", "S"(BASE), "D"(BASE + 4092));
    check_trap("MOVSQ into an absent page", 14, 2);
    check("nothing was stored", differences(), 0);
    TRY("lodsq", "S"(BASE + 4092));
    check_trap("LODSQ from an absent page", 14, 0);
    TRY("stosb", "D"(BASE + 4096));
    check_trap("STOSB into an absent page", 14, 2);
    u64 si = BASE + 8192 + 400, di = BASE + 8192 + 200, cx = 100;
    trap_vector = NO_TRAP;
    __asm__ volatile("lea 9f(%%rip), %%r15; mov %%r15, trap_fixup(%%rip); lea 8f(%%rip), %%r15; mov %%r15, trap_insn(%%rip)\n"
                     "std; 8: rep movsl; 9: movq $0, trap_fixup(%%rip); cld"
                     : "+S"(si), "+D"(di), "+c"(cx)::"r15", "memory");
    check_trap("REP MOVSL downward into an absent page", 14, 2);
    check("its RCX", cx, 100 - 51);
    check("its RSI", si, BASE + 8192 + 400 - 4 * 51);
    check("its RDI", di, BASE + 8192 - 4);
    for (u32 i = 0; i < 51; i++)
        copy_element(8192 + 200 - 4 * i, 8192 + 400 - 4 * i, 4);
    check("what it moved", differences(), 0);
}

void test_strings(void)
{
    moves();
    fills();
    faults();
}
