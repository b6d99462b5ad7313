/* SPDX-License-Identifier: MIT */
/* See memflow.h. The device answers EPERM to whatever fails, and clients know no other errno; the reasons go to the log. */
#include "front/memflow/memflow.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "abi/memflow.h"
#include "base/log.h"
#include "base/user.h"
#include "vitrine/inspect.h"

#define SLOTS_MAX 2048u
#define VMS_MAX 1024u

enum memflow_kind { MEMFLOW_OTHER, MEMFLOW_DEVICE, MEMFLOW_VM, MEMFLOW_MAP };

/* What the file of a VM's fd holds. A pid and a number may come again, together with the time of its start they do not. */
struct memflow_target {
    uint32_t pid, number;
    uint64_t started_ns;
};

/* ---- fds ---- */

static const char *const names[] = { [MEMFLOW_DEVICE] = "memflow", [MEMFLOW_VM] = "memflow-vm", [MEMFLOW_MAP] = "memflow-vm-map" };
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

static int fd_create(enum memflow_kind kind, const void *contents, size_t bytes)
{
    int fd = memfd_create(names[kind], MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if ((bytes && write(fd, contents, bytes) != (ssize_t)bytes) || fcntl(fd, F_ADD_SEALS, SEALS)) {
        int error = errno;
        close(fd);
        return -error;
    }
    return fd;
}

static enum memflow_kind kind_of(int fd)
{
    char path[40], name[40], want[40];
    if (fcntl(fd, F_GET_SEALS) != SEALS)
        return MEMFLOW_OTHER;
    snprintf(path, sizeof path, "/proc/thread-self/fd/%d", fd);
    ssize_t n = readlink(path, name, sizeof name - 1);
    name[n < 0 ? 0 : n] = '\0';
    for (unsigned kind = MEMFLOW_DEVICE; kind <= MEMFLOW_MAP; kind++) {
        snprintf(want, sizeof want, "/memfd:%s (deleted)", names[kind]);
        if (!strcmp(name, want))
            return kind;
    }
    return MEMFLOW_OTHER;
}

int memflow_open(void)
{
    return fd_create(MEMFLOW_DEVICE, NULL, 0);
}

bool memflow_is_fd(int fd)
{
    return kind_of(fd) != MEMFLOW_OTHER;
}

/* ---- VMs ---- */

/* Of all VMs, or those of a process, the one that was made last. */
static int find_vm(uint32_t pid, struct memflow_target *out)
{
    struct vitrine_vm_info *info = calloc(VMS_MAX, sizeof *info);
    int n = info ? vitrine_vm_list(info, VMS_MAX) : -1;
    const struct vitrine_vm_info *newest = NULL;
    int error = n < 0 ? -errno : -ESRCH;
    for (int i = 0; i < n && i < (int)VMS_MAX; i++)
        if ((!pid || info[i].pid == pid) && (!newest || info[i].started_ns > newest->started_ns))
            newest = &info[i];
    if (newest) {
        *out = (struct memflow_target){ .pid = newest->pid, .number = newest->number, .started_ns = newest->started_ns };
        error = 0;
    }
    free(info);
    return error;
}

static int open_target(const struct memflow_target *t, struct vitrine_vm **out)
{
    char which[32];
    struct vitrine_vm_info info;
    snprintf(which, sizeof which, "%u.%u", t->pid, t->number);
    struct vitrine_vm *vm = vitrine_vm_open(which);
    if (!vm)
        return -errno;
    int error = vitrine_vm_info(vm, &info) ? -errno : info.started_ns == t->started_ns ? 0 : -ESRCH;
    if (error)
        vitrine_vm_close(vm);
    else
        *out = vm;
    return error;
}

static int open_vm(int fd, void *arg)
{
    struct memflow_target t;
    (void)fd;
    int r = find_vm((uint32_t)(uintptr_t)arg, &t);
    return r ? r : fd_create(MEMFLOW_VM, &t, sizeof t);
}

static int target_of(int fd, struct memflow_target *t)
{
    return pread(fd, t, sizeof *t, 0) == sizeof *t ? 0 : -EIO;
}

/* The VM behind fd, for a caller with room for so many slots. is_outside: not if it is this process's own. */
static int open_for(int fd, uint32_t slot_count, bool is_outside, struct memflow_target *t, struct vitrine_vm **out)
{
    int r = slot_count ? target_of(fd, t) : -EINVAL;
    if (!r && is_outside && t->pid == (uint32_t)getpid())
        r = -EDEADLK; /* the VMM itself has its memory mapped already */
    return r ? r : open_target(t, out);
}

/* Slots of the normal address space to the caller's array of `room`: how many. */
static int give_slots(struct vitrine_vm *vm, struct memflow_slot *to, uint32_t room)
{
    struct vitrine_slot *slot = calloc(SLOTS_MAX, sizeof *slot);
    int n = slot ? vitrine_vm_slots(vm, slot, SLOTS_MAX) : -1, r = n < 0 ? -errno : 0;
    uint32_t count = 0;
    for (int i = 0; !r && i < n && i < (int)SLOTS_MAX && count < room; i++) {
        struct memflow_slot s = { .base = slot[i].gpa, .host_base = slot[i].host, .map_size = slot[i].bytes };
        if (slot[i].id >> 16 == 0)
            r = user_write((uintptr_t)&to[count++], &s, sizeof s);
    }
    free(slot);
    return r ? r : (int)count;
}

static int vm_info(int fd, void *arg)
{
    struct memflow_vm_info info;
    struct memflow_target t;
    struct vitrine_vm *vm;
    int r = user_read(&info, (uintptr_t)arg, sizeof info);
    if (!r)
        r = open_for(fd, info.slot_count, false, &t, &vm);
    if (r)
        return r;
    r = give_slots(vm, info.slots, info.slot_count);
    vitrine_vm_close(vm);
    if (r < 0)
        return r;
    info.userspace_pid = (int32_t)t.pid;
    info.slot_count = (uint32_t)r;
    return user_write((uintptr_t)arg, &info, sizeof info);
}

static int give_mappings(const struct vitrine_mapping *mapping, uint32_t n, void *arg, struct memflow_map_info *info)
{
    int r = 0;
    for (uint32_t i = 0; !r && i < n; i++) {
        struct memflow_slot s = { .base = mapping[i].gpa, .host_base = (uintptr_t)mapping[i].at, .map_size = mapping[i].bytes };
        r = user_write((uintptr_t)&info->slots[i], &s, sizeof s);
    }
    info->slot_count = n;
    return r ? r : user_write((uintptr_t)arg, info, sizeof *info);
}

static int map_slots(struct vitrine_vm *vm, void *arg, struct memflow_map_info *info)
{
    uint32_t room = info->slot_count < SLOTS_MAX ? info->slot_count : SLOTS_MAX;
    struct vitrine_mapping *mapping = calloc(room, sizeof *mapping);
    int n = mapping ? vitrine_vm_map(vm, mapping, room) : -1;
    int r = n < 0 ? -errno : give_mappings(mapping, (uint32_t)n, arg, info);
    if (!r)
        r = fd_create(MEMFLOW_MAP, NULL, 0);
    if (r < 0 && n > 0)
        vitrine_vm_unmap(mapping, (uint32_t)n);
    free(mapping);
    return r;
}

static int map_vm(int fd, void *arg)
{
    struct memflow_map_info info;
    struct memflow_target t;
    struct vitrine_vm *vm;
    int r = user_read(&info, (uintptr_t)arg, sizeof info);
    if (!r)
        r = open_for(fd, info.slot_count, true, &t, &vm);
    if (r)
        return r;
    r = map_slots(vm, arg, &info);
    vitrine_vm_close(vm);
    return r;
}

/* ---- calls ---- */

static const struct memflow_call {
    unsigned long request;
    enum memflow_kind kind;
    const char *name;
    int (*handle)(int fd, void *arg);
} calls[] = {
    { MEMFLOW_OPEN_VM, MEMFLOW_DEVICE, "OPEN_VM", open_vm },
    { MEMFLOW_VM_INFO, MEMFLOW_VM, "VM_INFO", vm_info },
    { MEMFLOW_MAP_VM, MEMFLOW_VM, "MAP_VM", map_vm },
};

int memflow_ioctl(int fd, unsigned long request, unsigned long arg)
{
    enum memflow_kind kind = kind_of(fd);
    for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (calls[i].request != (uint32_t)request || calls[i].kind != kind)
            continue;
        int r = calls[i].handle(fd, (void *)(uintptr_t)arg);
        if (r < 0)
            log_write(LOG_WARN, "memflow: %s: %s", calls[i].name, r == -ENOTSUP ? "none of the memory can be mapped; 'vitrine info' says why" : strerror(-r));
        return r < 0 ? -EPERM : r;
    }
    return -EPERM;
}
