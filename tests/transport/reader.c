/* SPDX-License-Identifier: MIT */
/*
 * A reader of guest memory through /dev/memflow, written from the description of that device alone: it knows nothing of vitrine. Use: reader TASK PID
 * [ARGUMENTS]; PID 0 is the newest machine. Prints what it finds, exit status 0 if the task went as it should. Started by run-memflow.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define OPEN_VM 0x80046d00ul
#define VM_INFO 0xc0106d01ul
#define MAP_VM 0xc0106d02ul
#define SLOTS 64
#define WAIT_SECONDS 120

struct slot {
    uint64_t base, host_base, map_size;
};
struct info {
    int32_t userspace_pid;
    uint32_t slot_count;
    struct slot *slots;
};
struct map {
    uint32_t slot_count;
    struct slot *slots;
};

static struct slot slots[SLOTS];
static uint32_t n_slots;
static bool has_failed;

static void check(bool claim, const char *what)
{
    if (!claim)
        printf("wrong: %s (errno %d)\n", what, errno);
    has_failed |= !claim;
}

static int open_vm(int pid)
{
    int device = open("/dev/memflow", O_RDONLY);
    int vm = device < 0 ? -1 : ioctl(device, OPEN_VM, (unsigned long)pid);
    int error = errno;
    if (device >= 0)
        close(device);
    errno = error;
    return vm;
}

/* As the connectors do it; the fds are closed at once. */
static bool map_vm(int pid)
{
    struct map map = { .slot_count = SLOTS, .slots = slots };
    int vm = open_vm(pid), fd = vm < 0 ? -1 : ioctl(vm, MAP_VM, &map);
    int error = errno;
    n_slots = fd < 0 ? 0 : map.slot_count;
    if (fd >= 0)
        close(fd);
    if (vm >= 0)
        close(vm);
    errno = error;
    return fd >= 0;
}

static volatile uint8_t *at(uint64_t gpa)
{
    for (uint32_t i = 0; i < n_slots; i++)
        if (gpa - slots[i].base < slots[i].map_size)
            return (volatile uint8_t *)(uintptr_t)(slots[i].host_base + (gpa - slots[i].base));
    printf("wrong: %#" PRIx64 " is not mapped\n", gpa);
    exit(1);
}

static bool time_is_over(void)
{
    static time_t end;
    if (!end)
        end = time(NULL) + WAIT_SECONDS;
    return time(NULL) > end;
}

/* ---- tasks ---- */

static int list(int pid)
{
    struct info info = { .slot_count = SLOTS, .slots = slots };
    int vm = open_vm(pid);
    if (vm < 0 || ioctl(vm, VM_INFO, &info)) {
        printf("no machine: %s\n", strerror(errno));
        return 1;
    }
    printf("pid %d\n", info.userspace_pid);
    for (uint32_t i = 0; i < info.slot_count; i++)
        printf("slot %#" PRIx64 " %" PRIu64 " %#" PRIx64 "\n", slots[i].base, slots[i].map_size, slots[i].host_base);
    return 0;
}

static int mapped(int pid)
{
    (void)pid;
    for (uint32_t i = 0; i < n_slots; i++)
        printf("slot %#" PRIx64 " %" PRIu64 "\n", slots[i].base, slots[i].map_size);
    return 0;
}

/* A counter of the guest goes on while this process makes no call about it. */
static int watch(uint64_t gpa)
{
    volatile uint32_t *counter = (volatile uint32_t *)at(gpa);
    for (unsigned changes = 0; changes < 1000; changes++)
        for (uint32_t before = *counter; *counter == before;)
            if (time_is_over())
                return 1;
    return 0;
}

/* What is written to gpa, the guest copies to the byte behind. */
static int echo(uint64_t gpa)
{
    for (unsigned value = 1; value < 256; value++) {
        *at(gpa) = (uint8_t)value;
        while (at(gpa)[1] != value)
            if (time_is_over())
                return 1;
    }
    return 0;
}

static int dump(const char *file)
{
    int fd = open(file, O_RDWR | O_CREAT | O_TRUNC, 0600), r = fd < 0;
    for (uint32_t i = 0; !r && i < n_slots; i++)
        r = pwrite(fd, (void *)(uintptr_t)slots[i].host_base, slots[i].map_size, (off_t)slots[i].base) != (ssize_t)slots[i].map_size;
    return r;
}

/* Replaces a text in guest memory wherever it stands; says how often. */
static int replace(const char *from, const char *to)
{
    unsigned n = 0;
    for (uint32_t i = 0; i < n_slots; i++) {
        char *p = (char *)(uintptr_t)slots[i].host_base, *end = p + slots[i].map_size;
        for (; (p = memmem(p, (size_t)(end - p), from, strlen(from))); n++)
            memcpy(p, to, strlen(to));
    }
    printf("replaced %u\n", n);
    return n == 0;
}

static int erase(void)
{
    for (uint32_t i = 0; i < n_slots; i++)
        memset((void *)(uintptr_t)slots[i].host_base, 0, slots[i].map_size);
    return 0;
}

/* Says that it has mapped, waits for the end of its input, and goes through everything again. */
static int stay(void)
{
    char c;
    unsigned long sum = 0;
    puts("mapped");
    fflush(stdout);
    while (read(0, &c, 1) > 0)
        ;
    for (uint32_t i = 0; i < n_slots; i++)
        for (uint64_t k = 0; k < slots[i].map_size; k += 64)
            sum += *(volatile uint8_t *)(uintptr_t)(slots[i].host_base + k);
    printf("read %lu\n", sum);
    *at(slots[0].base) = 1;
    for (uint32_t i = 0; i < n_slots; i++)
        check(!munmap((void *)(uintptr_t)slots[i].host_base, slots[i].map_size), "munmap");
    return has_failed;
}

/* ---- the calls themselves ---- */

static bool is_refused(int r)
{
    return r == -1 && errno == EPERM;
}

static void check_room(int vm)
{
    struct slot two[3] = { { 0 }, { .base = 0x5a, .host_base = 0x5b, .map_size = 0x5c }, { .base = 0x5d } };
    struct info info = { .slot_count = 1, .slots = two };
    struct map map = { .slot_count = 1, .slots = two };
    check(ioctl(vm, VM_INFO, &info) == 0 && info.slot_count == 1, "VM_INFO with room for one");
    check(two[0].map_size && two[1].base == 0x5a && two[1].host_base == 0x5b && two[1].map_size == 0x5c, "VM_INFO writes no more than that");
    memset(&two[0], 0, sizeof two[0]);
    check(ioctl(vm, MAP_VM, &map) >= 0 && map.slot_count == 1, "MAP_VM with room for one");
    check(two[0].map_size && two[1].base == 0x5a && two[1].map_size == 0x5c && two[2].base == 0x5d, "MAP_VM writes no more than that");
}

static void check_refused(int vm)
{
    struct info info = { .slots = slots }, bad_slots = { .slot_count = SLOTS, .slots = (void *)16 };
    char terminal[64];
    struct map map = { .slots = slots }, bad_map = { .slot_count = SLOTS, .slots = (void *)16 };
    check(is_refused(ioctl(vm, VM_INFO, &info)) && is_refused(ioctl(vm, MAP_VM, &map)), "no room: EPERM");
    check(is_refused(ioctl(vm, VM_INFO, &bad_slots)) && is_refused(ioctl(vm, MAP_VM, &bad_map)), "no such array: EPERM");
    check(is_refused(ioctl(vm, VM_INFO, (void *)16)) && is_refused(ioctl(vm, MAP_VM, NULL)), "no such struct: EPERM");
    check(is_refused(ioctl(vm, OPEN_VM, 0ul)), "OPEN_VM of a VM's fd: EPERM");
    check(is_refused(ioctl(vm, 0x6d7ful, 0ul)) && is_refused(ioctl(vm, 0x5401ul, terminal)), "other requests: EPERM");
    check(ioctl(vm, FIOCLEX) == 0, "FIOCLEX is the kernel's");
}

static void check_device(int pid)
{
    struct info info = { .slot_count = SLOTS, .slots = slots };
    struct stat st;
    int device = open("/dev/memflow", O_RDWR);
    check(device >= 0 && stat("/dev/memflow", &st) == 0 && S_ISCHR(st.st_mode), "the node is there");
    check(access("/dev/memflow", R_OK | W_OK) == 0, "and may be used");
    check(is_refused(ioctl(device, VM_INFO, &info)), "VM_INFO of the device: EPERM");
    check(is_refused(ioctl(device, OPEN_VM, (unsigned long)getpid())) && is_refused(ioctl(device, OPEN_VM, 0x7ffffffful)), "OPEN_VM of who has no VM: EPERM");
    int vm = ioctl(device, OPEN_VM, (unsigned long)pid), twin = dup(vm);
    check(vm >= 0 && (fcntl(vm, F_GETFD) & FD_CLOEXEC), "OPEN_VM: close-on-exec");
    close(device);
    close(vm);
    check(ioctl(twin, VM_INFO, &info) == 0 && info.userspace_pid == pid, "a duplicate is as good");
    for (uint32_t i = 1; i < info.slot_count; i++)
        check(slots[i - 1].base + slots[i - 1].map_size <= slots[i].base, "sorted");
    close(twin);
}

static int calls(int pid)
{
    struct slot kept;
    check_device(pid);
    int vm = open_vm(pid);
    check_room(vm);
    check_refused(vm);
    close(vm);
    check(map_vm(pid) && n_slots > 0, "MAP_VM");
    kept = slots[0];
    check(map_vm(pid) && slots[0].host_base != kept.host_base, "MAP_VM again: beside the first");
    *at(slots[0].base + 0x5000) = 0x77;
    check(*(volatile uint8_t *)(uintptr_t)(kept.host_base + 0x5000) == 0x77, "both are the same memory");
    return has_failed;
}

int main(int argc, char **argv)
{
    int pid = argc > 2 ? atoi(argv[2]) : 0;
    const char *task = argc > 1 ? argv[1] : "";
    if (!strcmp(task, "list"))
        return list(pid);
    if (!strcmp(task, "calls"))
        return calls(pid);
    if (!map_vm(pid)) {
        printf("cannot map: %s\n", strerror(errno));
        return 1;
    }
    if (!strcmp(task, "map"))
        return mapped(pid);
    if (!strcmp(task, "erase"))
        return erase();
    if (!strcmp(task, "stay"))
        return stay();
    if (!strcmp(task, "watch") && argc > 3)
        return watch(strtoull(argv[3], NULL, 0));
    if (!strcmp(task, "echo") && argc > 3)
        return echo(strtoull(argv[3], NULL, 0));
    if (!strcmp(task, "dump") && argc > 3)
        return dump(argv[3]);
    if (!strcmp(task, "replace") && argc > 4)
        return replace(argv[3], argv[4]);
    return 2;
}
