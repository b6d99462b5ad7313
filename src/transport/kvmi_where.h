/* SPDX-License-Identifier: MIT */
/*
 * Where a KVMI tool listens and what it may do there, as users write it: unix:PATH, vsock:PORT or vsock:CID:PORT, and options behind commas. A comma that
 * belongs to a value is written twice.
 */
#ifndef VITRINE_TRANSPORT_KVMI_WHERE_H
#define VITRINE_TRANSPORT_KVMI_WHERE_H

#include <linux/vm_sockets.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "front/kvmi/kvmi.h"

#define KVMI_KEY_HASH_BYTES 20

struct kvmi_where {
    union {
        struct sockaddr any;
        struct sockaddr_un un;
        struct sockaddr_vm vm;
    } address;
    socklen_t address_bytes;
    char name[128]; /* without the options: two that are the same socket have the same name */
    bool has_key;
    uint8_t key_hash[KVMI_KEY_HASH_BYTES];
    struct kvmi_options options;
};

/* NULL, or why not. */
const char *kvmi_where_parse(const char *text, struct kvmi_where *out);
/* For one that is there already: its options do not matter. */
const char *kvmi_where_name(const char *text, struct kvmi_where *out);

#endif
