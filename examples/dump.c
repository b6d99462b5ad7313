/* SPDX-License-Identifier: MIT */
/* Saves a virtual machine's memory and registers as an ELF core, for gdb and its kin: dump VM FILE. The guest stands still meanwhile. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <vitrine/vitrine.h>

/* False would end the dump. */
static bool tell(uint64_t done_bytes, uint64_t all_bytes, void *arg)
{
    uint64_t *last_mib = arg;
    if (done_bytes >> 26 != *last_mib >> 6 || done_bytes == all_bytes)
        printf("%" PRIu64 " of %" PRIu64 " MiB\n", done_bytes >> 20, all_bytes >> 20);
    *last_mib = done_bytes >> 20;
    return true;
}

int main(int argc, char **argv)
{
    uint64_t last_mib = 0;

    if (argc != 3) {
        fprintf(stderr, "usage: dump VM FILE\n");
        return 2;
    }
    struct vitrine_vm *vm = vitrine_vm_open(argv[1]);
    int fd = vm ? open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    if (fd < 0 || vitrine_vm_dump(vm, fd, VITRINE_DUMP_ELF, false, tell, &last_mib) || close(fd)) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        return 1;
    }
    vitrine_vm_close(vm);
    return 0;
}
