/* SPDX-License-Identifier: MIT */
/* See kvmi_where.h. No state, no lock. */
#include "transport/kvmi_where.h"

#include <nettle/sha1.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES 1024u
#define PRIVILEGED_PORTS 1024u

_Static_assert(KVMI_KEY_HASH_BYTES == SHA1_DIGEST_SIZE, "the cookie is a SHA-1");

/* Up to the next comma that is not doubled, into `out` of TEXT_BYTES. Where the next part begins, NULL at the end. */
static const char *take_part(const char *text, char *out)
{
    const char *next = NULL;
    while (*text && !next) {
        if (*text == ',' && *++text != ',')
            next = text;
        else
            *out++ = *text++;
    }
    *out = '\0';
    return next;
}

static const char *parse_unix(const char *path, struct kvmi_where *out)
{
    size_t bytes = strlen(path);
    if (!bytes)
        return "the path is missing";
    if (bytes >= sizeof out->address.un.sun_path)
        return "the path is too long for a socket";
    out->address.un.sun_family = AF_UNIX;
    memcpy(out->address.un.sun_path, path, bytes);
    out->address_bytes = sizeof out->address.un;
    snprintf(out->name, sizeof out->name, "unix:%s", path);
    return NULL;
}

static bool parse_number(const char *text, char end, uint32_t *out, const char **rest)
{
    char *stop;
    if (*text < '0' || *text > '9')
        return false;
    unsigned long long value = strtoull(text, &stop, 10);
    *out = (uint32_t)value;
    *rest = stop + 1;
    return value < VMADDR_PORT_ANY && *stop == end;
}

/* The port alone: on this machine. */
static const char *parse_vsock(const char *text, struct kvmi_where *out)
{
    uint32_t cid = VMADDR_CID_LOCAL, port;
    const char *rest = text;
    if (strchr(text, ':') && !parse_number(text, ':', &cid, &rest))
        return "the CID is not a number";
    if (!parse_number(rest, '\0', &port, &rest))
        return "the port is not a number";
    out->address.vm.svm_family = AF_VSOCK;
    out->address.vm.svm_cid = cid;
    out->address.vm.svm_port = port;
    out->address_bytes = sizeof out->address.vm;
    snprintf(out->name, sizeof out->name, "vsock:%u:%u", cid, port);
    return NULL;
}

static const char *parse_socket(const char *text, struct kvmi_where *out)
{
    if (!strncmp(text, "unix:", 5))
        return parse_unix(text + 5, out);
    if (!strncmp(text, "vsock:", 6))
        return parse_vsock(text + 6, out);
    return "only unix:PATH, vsock:PORT and vsock:CID:PORT are known";
}

static const char *parse_key(const char *key, struct kvmi_where *out)
{
    struct sha1_ctx sha;
    if (!*key)
        return "the key is empty";
    sha1_init(&sha);
    sha1_update(&sha, strlen(key), (const uint8_t *)key);
    sha1_digest(&sha, sizeof out->key_hash, out->key_hash);
    out->has_key = true;
    return NULL;
}

static const char *parse_guest(const char *which, struct kvmi_where *out)
{
    if (!*which || strlen(which) >= sizeof out->options.guest)
        return "guest= needs the name or pid of a machine";
    strcpy(out->options.guest, which);
    return NULL;
}

static const char *parse_option(const char *text, struct kvmi_where *out)
{
    if (!strncmp(text, "key=", 4))
        return parse_key(text + 4, out);
    if (!strncmp(text, "dialect=", 8))
        return kvmi_dialect_parse(text + 8, &out->options.dialect);
    if (!strncmp(text, "allow=", 6))
        return kvmi_policy_parse(text + 6, KVMI_POLICY_ALLOW, &out->options.policy);
    if (!strncmp(text, "deny=", 5))
        return kvmi_policy_parse(text + 5, KVMI_POLICY_DENY, &out->options.policy);
    if (!strncmp(text, "guest=", 6))
        return parse_guest(text + 6, out);
    return "the options are key=, dialect=, allow=, deny= and guest=";
}

const char *kvmi_where_name(const char *text, struct kvmi_where *out)
{
    char part[TEXT_BYTES];
    if (strlen(text) >= sizeof part)
        return "it is too long";
    memset(out, 0, sizeof *out);
    const char *next = take_part(text, part), *why = parse_socket(part, out);
    while (!why && next) {
        next = take_part(next, part);
        why = parse_option(part, out);
    }
    return why ? why : kvmi_options_check(&out->options);
}

const char *kvmi_where_parse(const char *text, struct kvmi_where *out)
{
    const char *why = kvmi_where_name(text, out);
    /* Any user may listen there, and a vsock does not say who does. */
    if (!why && out->address.any.sa_family == AF_VSOCK && out->address.vm.svm_port >= PRIVILEGED_PORTS && !out->has_key)
        return "a vsock does not say whose the tool is: ports from 1024 on need a key=";
    return why;
}
