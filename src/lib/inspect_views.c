/* SPDX-License-Identifier: MIT */
/* The part of <vitrine/inspect.h> about views of guest memory; see inspect.c. */
#include <errno.h>

#include "lib/inspect_priv.h"

_Static_assert(sizeof(struct control_view) + VITRINE_PAGES_MAX * sizeof(struct vitrine_page) <= CONTROL_PAYLOAD_MAX, "one request");

/* A call about the view, and more: 0 or -1. */
static int call_view(struct vitrine_vm *vm, enum control_call call, struct control_view in)
{
    in.number = vm->number;
    return inspect_call_exact(vm, call, &in, sizeof in, NULL, 0);
}

int vitrine_view_create(struct vitrine_vm *vm)
{
    struct control_vm in = { .number = vm->number };
    struct control_view out;
    return inspect_call_exact(vm, CONTROL_VIEW_CREATE, &in, sizeof in, &out, sizeof out) ? -1 : (int)out.view;
}

int vitrine_view_destroy(struct vitrine_vm *vm, unsigned view)
{
    return call_view(vm, CONTROL_VIEW_DELETE, (struct control_view){ .view = view });
}

int vitrine_view_switch(struct vitrine_vm *vm, uint32_t vcpu, unsigned view)
{
    return call_view(vm, CONTROL_VIEW_SWITCH, (struct control_view){ .vcpu = vcpu, .view = view });
}

int vitrine_view_of(struct vitrine_vm *vm, uint32_t vcpu)
{
    struct control_view in = { .number = vm->number, .vcpu = vcpu }, out;
    return inspect_call_exact(vm, CONTROL_VIEW_OF, &in, sizeof in, &out, sizeof out) ? -1 : (int)out.view;
}

/* A call about pages, which answers with as many bytes of them as it says. */
static int call_pages(struct vitrine_vm *vm, enum control_call call, unsigned view, const struct vitrine_page *page, unsigned n, void *out, size_t out_bytes)
{
    struct control_view in = { .number = vm->number, .view = view };
    if (n > VITRINE_PAGES_MAX) {
        errno = E2BIG;
        return -1;
    }
    ssize_t bytes = inspect_call(vm, call, &in, sizeof in, page, n * (uint32_t)sizeof *page, out, out_bytes);
    if (bytes >= 0 && (size_t)bytes != out_bytes) {
        errno = EPROTO;
        return -1;
    }
    return bytes < 0 ? -1 : 0;
}

int vitrine_view_set_access(struct vitrine_vm *vm, unsigned view, const struct vitrine_page *page, unsigned n)
{
    return inspect_ring_open(vm) ? -1 : call_pages(vm, CONTROL_VIEW_ACCESS, view, page, n, NULL, 0);
}

int vitrine_view_set_writeable(struct vitrine_vm *vm, unsigned view, const struct vitrine_page *page, unsigned n)
{
    return inspect_ring_open(vm) ? -1 : call_pages(vm, CONTROL_VIEW_PIECES, view, page, n, NULL, 0);
}

int vitrine_view_get(struct vitrine_vm *vm, unsigned view, struct vitrine_page *page, unsigned n)
{
    return call_pages(vm, CONTROL_VIEW_PAGES, view, page, n, page, n * sizeof *page);
}

int vitrine_view_remap(struct vitrine_vm *vm, unsigned view, uint64_t gpa, uint64_t target)
{
    return call_view(vm, CONTROL_VIEW_REMAP, (struct control_view){ .view = view, .gpa = gpa, .target = target });
}

int vitrine_page_add(struct vitrine_vm *vm, uint64_t gpa)
{
    return call_view(vm, CONTROL_PAGE_ADD, (struct control_view){ .gpa = gpa });
}

int vitrine_page_lend(struct vitrine_vm *vm, uint64_t gpa, int fd, uint64_t offset)
{
    struct control_lend in = { .number = vm->number, .gpa = gpa, .offset = offset };
    return inspect_call_giving(vm, CONTROL_PAGE_LEND, &in, sizeof in, fd);
}

int vitrine_page_remove(struct vitrine_vm *vm, uint64_t gpa)
{
    return call_view(vm, CONTROL_PAGE_REMOVE, (struct control_view){ .gpa = gpa });
}
