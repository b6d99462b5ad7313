/* SPDX-License-Identifier: MIT */
/*
 * Maps a virtual machine's memory into this process, with no copy, and looks for a text in it: memory VM TEXT. Both sides see each other's writes at once.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <vitrine/vitrine.h>

enum { SLOTS = 64 };

/* The offset of the first match from `at` on, or `bytes`. */
static uint64_t find(const unsigned char *in, uint64_t at, uint64_t bytes, const char *text)
{
    size_t n = strlen(text);
    for (; at + n <= bytes; at++) {
        const unsigned char *next = memchr(in + at, text[0], bytes - at - n + 1);
        if (!next)
            break;
        at = (uint64_t)(next - in);
        if (!memcmp(next, text, n))
            return at;
    }
    return bytes;
}

int main(int argc, char **argv)
{
    struct vitrine_mapping map[SLOTS];

    if (argc != 3 || !argv[2][0]) {
        fprintf(stderr, "usage: memory VM TEXT\n");
        return 2;
    }
    struct vitrine_vm *vm = vitrine_vm_open(argv[1]);
    int n = vm ? vitrine_vm_map(vm, map, SLOTS) : -1;
    if (n < 0) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno)); /* ENOTSUP: the machine's memory is private */
        vitrine_vm_close(vm);
        return 1;
    }
    vitrine_vm_close(vm); /* mappings stay */
    for (int i = 0; i < n; i++)
        for (uint64_t at = 0; (at = find(map[i].at, at, map[i].bytes, argv[2])) < map[i].bytes; at++)
            printf("%#" PRIx64 "\n", map[i].gpa + at);
    vitrine_vm_unmap(map, (unsigned)n);
    return 0;
}
