/* SPDX-License-Identifier: MIT */
/*
 * Shows a virtual machine's CPUs another text than its memory holds: decoy VM TEXT OTHER. Pages that begin with the text, as the first page of a file does, get
 * a copy that begins with the other one, of the same length, and all CPUs go into a view in which the copies are seen in their place. It ends with its
 * standard input, and with it all that it did: the memory itself was never touched.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <vitrine/vitrine.h>

#define PAGE_BYTES 4096u
#define COPIES_AT (1ull << 38) /* where no memory is */
#define SLOTS_MAX 64
#define CPUS_MAX 64

static int show_copy(struct vitrine_vm *vm, unsigned view, uint64_t gpa, uint64_t copy_at, const char *other)
{
    char page[PAGE_BYTES];
    if (vitrine_mem_read(vm, gpa, page, sizeof page) != sizeof page)
        return -1;
    memcpy(page, other, strlen(other));
    if (vitrine_page_add(vm, copy_at) || vitrine_mem_write(vm, copy_at, page, sizeof page) != sizeof page)
        return -1;
    return vitrine_view_remap(vm, view, gpa, copy_at);
}

/* How many pages are shown otherwise now, or -1. */
static int show_copies(struct vitrine_vm *vm, unsigned view, const char *text, const char *other)
{
    struct vitrine_slot slot[SLOTS_MAX];
    char begin[256];
    size_t length = strlen(text);
    int n = 0, n_slots = vitrine_vm_slots(vm, slot, SLOTS_MAX);
    if (n_slots < 0)
        return -1;
    for (int i = 0; i < n_slots && i < SLOTS_MAX; i++)
        for (uint64_t gpa = slot[i].gpa; gpa < slot[i].gpa + slot[i].bytes; gpa += PAGE_BYTES) {
            if (vitrine_mem_read(vm, gpa, begin, length) != (ssize_t)length || memcmp(begin, text, length))
                continue;
            if (show_copy(vm, view, gpa, COPIES_AT + (uint64_t)n * PAGE_BYTES, other))
                return -1;
            n++;
        }
    return n;
}

static int switch_all(struct vitrine_vm *vm, unsigned view)
{
    struct vitrine_vcpu_info cpu[CPUS_MAX];
    int n = vitrine_vm_vcpus(vm, cpu, CPUS_MAX), r = n < 0 ? -1 : 0;
    for (int i = 0; !r && i < n && i < CPUS_MAX; i++)
        r = vitrine_view_switch(vm, cpu[i].id, view);
    return r;
}

int main(int argc, char **argv)
{
    if (argc != 4 || strlen(argv[2]) != strlen(argv[3]) || !*argv[2] || strlen(argv[2]) > 256) {
        fprintf(stderr, "usage: decoy VM TEXT OTHER\n");
        return 2;
    }
    struct vitrine_vm *vm = vitrine_vm_open(argv[1]);
    int view = vm ? vitrine_view_create(vm) : -1, n = view < 0 ? -1 : show_copies(vm, (unsigned)view, argv[2], argv[3]);
    if (n < 0 || switch_all(vm, (unsigned)view)) {
        fprintf(stderr, "%s: %s\n", argv[1], strerror(errno));
        vitrine_vm_close(vm);
        return 1;
    }
    printf("%d pages are shown otherwise\n", n);
    fflush(stdout);
    while (getchar() != EOF)
        ;
    vitrine_vm_close(vm);
    return 0;
}
