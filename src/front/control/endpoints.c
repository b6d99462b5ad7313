/* SPDX-License-Identifier: MIT */
/* Tools that listen: the calls about them go to transport, which connects. See control.h. */
#include <errno.h>
#include <string.h>

#include "core/vm.h"
#include "front/control/control_priv.h"

static const struct control_endpoints *endpoints;

void control_set_endpoints(const struct control_endpoints *e)
{
    endpoints = e;
}

/* The text behind the VM's number, with its end. */
static int where_of(const struct control_arg *a, char where[CONTROL_WHERE_MAX + 1])
{
    size_t bytes = a->in_bytes - sizeof(struct control_vm);
    if (!endpoints)
        return -ENOSYS;
    if (bytes > CONTROL_WHERE_MAX)
        return -EINVAL;
    memcpy(where, (const struct control_vm *)a->in + 1, bytes);
    where[bytes] = '\0';
    return strlen(where) == bytes ? 0 : -EINVAL;
}

int control_attach(struct control_arg *a)
{
    char where[CONTROL_WHERE_MAX + 1];
    int r = where_of(a, where);
    return r ? r : endpoints->attach(a->vm->number, where);
}

int control_detach(struct control_arg *a)
{
    char where[CONTROL_WHERE_MAX + 1];
    int r = where_of(a, where);
    return r ? r : endpoints->detach(a->vm->number, where);
}

int control_endpoints_call(struct control_arg *a)
{
    unsigned n = endpoints ? endpoints->list(a->vm->number, a->out, CONTROL_PAYLOAD_MAX / sizeof(struct vitrine_endpoint)) : 0;
    a->out_bytes = n * (uint32_t)sizeof(struct vitrine_endpoint);
    return 0;
}
