/* SPDX-License-Identifier: MIT */
/* The part of <vitrine/inspect.h> about tools that listen; see inspect.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/inspect_priv.h"
#include "lib/where.h"

static int call_where(struct vitrine_vm *vm, enum control_call call, const char *where)
{
    struct control_vm in = { .number = vm->number };
    char *absolute = where ? where_absolute(where) : NULL;
    size_t bytes = absolute ? strlen(absolute) : 0;
    ssize_t n = -1;
    if (bytes > CONTROL_WHERE_MAX || (where && absolute && !bytes))
        errno = EINVAL;
    else if (!where || absolute)
        n = inspect_call(vm, call, &in, sizeof in, absolute, (uint32_t)bytes, NULL, 0);
    int saved = errno;
    free(absolute);
    errno = saved;
    return n < 0 ? -1 : 0;
}

int vitrine_vm_attach(struct vitrine_vm *vm, const char *where)
{
    return call_where(vm, CONTROL_ATTACH, where);
}

int vitrine_vm_detach(struct vitrine_vm *vm, const char *where)
{
    return call_where(vm, CONTROL_DETACH, where);
}

int vitrine_vm_endpoints(struct vitrine_vm *vm, struct vitrine_endpoint *out, unsigned n)
{
    return inspect_call_array(vm, CONTROL_ENDPOINTS, out, sizeof *out, n);
}
