/* The native launcher: has the resident agent do a verb or, where none answers, becomes the Python plugin. It never
 * forks. docs/launcher.md tells about it, docs/agent-protocol.md is the contract. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#ifndef DEADLINE_MS /* tests build one that gives up sooner */
#define DEADLINE_MS 100000
#endif
#define VERSIONS "{\"cniVersion\":\"1.1.0\",\"supportedVersions\":" \
    "[\"0.1.0\",\"0.2.0\",\"0.3.0\",\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]}\n"
#define LATE "time is up; try again, and see what 'calicoctl node status' says about the agent"
enum { LOST, PLUGIN, ENV, STDIN, NO_NETNS, HOST_NETNS, END, TAKEN, RESULT = 18, DECLINED };
enum { PROTOCOL = 1, SILENCE_MS = 2000, RETRY_MS = 10, BAD_ENVIRONMENT = 4, IO_FAILURE = 5, TRY_AGAIN = 11 };
enum { MOST_BYTES = 8 << 20, MOST_QUEUED = 4096, MOST_QUEUED_BYTES = 1 << 20, PAGE = 4096 };
static int64_t deadline;
static const char *name = "calico", *python; /* which of the two executables this is; the plugin to become */
static char request[MOST_BYTES], answer[MOST_BYTES]; /* PLUGIN to END; a payload. Memory comes as it is used. */
static size_t size, stdin_at, stdin_size, answer_size; static int netns = -1;

static int64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Wait until something can be done with fd; false when `until` or the deadline comes first. */
static bool await(int fd, short events, int64_t until) {
    for (;;) {
        int64_t left = (until < deadline ? until : deadline) - now_ms();
        int ready = poll(&(struct pollfd){.fd = fd, .events = events}, 1, left > 0 ? (int)left : 0);
        if (ready >= 0 || errno != EINTR) return ready > 0;
    }
}

static bool is_passing(void) { return errno == EINTR || errno == EAGAIN; }
static bool put(int fd, const char *data, size_t left) {
    if (fd == STDOUT_FILENO) signal(SIGPIPE, SIG_IGN); /* nothing is exec'd any more */
    while (left) {
        if (!await(fd, POLLOUT, deadline)) return false;
        ssize_t n = write(fd, data, left < PAGE ? left : PAGE); /* of a pipe, poll promises no more than PIPE_BUF */
        if (n < 0 && !is_passing()) return false;
        if (n > 0) data += n, left -= (size_t)n;
    }
    return true;
}

/* Answer with a CNI error; nothing of the environment is in it. */
static _Noreturn void fail(int code, const char *msg, int error) {
    const char *reason = error == ENOENT ? "absent" : strerror(error); /* go-cni takes ENOENT's own words for success */
    signal(SIGPIPE, SIG_IGN);
    dprintf(1, "{\"cniVersion\":\"1.1.0\",\"code\":%d,\"msg\":\"%s\",\"details\":\"%s\"}\n", code, msg, reason);
    _exit(1);
}
static const char *setting(const char *variable, const char *otherwise) {
    const char *value = getenv(variable);
    return value && *value ? value : otherwise;
}

static void add_frame(uint32_t kind, const void *payload, size_t length) {
    if (size + length > MOST_BYTES - PAGE / 2) fail(BAD_ENVIRONMENT, "too many variables are set: unset some", E2BIG);
    memcpy(request + size, (uint32_t[]){kind, (uint32_t)length}, 8);
    memcpy(request + size + 8, payload, length);
    size += 8 + length;
}

/* Make the request, with all of stdin; false, errno saying why, when that cannot be read. */
static bool make_request(void) {
    struct stat host;
    const char *path = setting("CNI_NETNS", NULL);
    size = 0;
    add_frame(PLUGIN, name, strlen(name));
    for (char **entry = environ; *entry; entry++)
        if (!strncmp(*entry, "CNI_", 4) || !strncmp(*entry, "CALICO_", 7) || !strncmp(*entry, "ETCD_", 5) ||
            !strncmp(*entry, "DATASTORE_TYPE=", 15) || !strncmp(*entry, "NO_DEFAULT_POOLS=", 17))
            add_frame(ENV, *entry, strlen(*entry));
    if (path && (netns = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) < 0)
        add_frame(NO_NETNS, &(uint32_t){(uint32_t)errno}, 4);
    if (!stat("/proc/self/ns/net", &host)) add_frame(HOST_NETNS, (uint64_t[]){host.st_dev, host.st_ino}, 16);
    add_frame(STDIN, "", 0);
    size_t begin = size, most = MOST_BYTES - PAGE;
    for (ssize_t n = 1; n && size < most;) {
        if (!await(STDIN_FILENO, POLLIN, deadline)) fail(TRY_AGAIN, LATE, ETIMEDOUT);
        n = read(STDIN_FILENO, request + size, most - size);
        if (n < 0 && !is_passing()) return false;
        if (n > 0) size += (size_t)n;
    }
    if (size >= most) fail(IO_FAILURE, "more than 8 MiB came on stdin, a configuration is shorter", EFBIG);
    stdin_at = begin, stdin_size = size - begin;
    memcpy(request + stdin_at - 4, &(uint32_t){(uint32_t)stdin_size}, 4);
    add_frame(END, &(uint32_t){PROTOCOL}, 4);
    return true;
}

/* Read exactly so many bytes from the agent; false when it ends, or is silent until then (0: for the time allowed). */
static bool take(int fd, void *into, size_t left, int64_t until) {
    for (char *to = into; left;) {
        ssize_t n = read(fd, to, left);
        if (n > 0) to += n, left -= (size_t)n;
        else if (n == 0 || !is_passing() || !await(fd, POLLIN, until ? until : now_ms() + SILENCE_MS)) return false;
    }
    return true;
}

/* Return a connection to an agent that has greeted us and may be trusted, -1 when there is none. */
static int reach_agent(void) {
    struct { char magic[8]; uint32_t oldest, newest; } greeting;
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    struct ucred peer;
    int64_t until = now_ms() + SILENCE_MS;
    const char *path = setting("CALICO_CNI_SOCKET", "/run/calico/cni.sock");
    if (strlen(path) >= sizeof place.sun_path) return -1;
    strcpy(place.sun_path, path);
    int refused, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    while ((refused = connect(fd, (struct sockaddr *)&place, sizeof place)) && is_passing() && now_ms() < until)
        await(-1, 0, now_ms() + RETRY_MS); /* its backlog is full; with any other error nobody listens */
    if (!refused && !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof peer}) &&
        (peer.uid == 0 || peer.uid == geteuid()) && take(fd, &greeting, sizeof greeting, until) &&
        !memcmp(greeting.magic, "cni-cali", 8) && greeting.oldest <= PROTOCOL && PROTOCOL <= greeting.newest)
        return fd;
    return close(fd), -1;
}

/* An ADD that worked is undone by an agent that has hung up before it heard TAKEN. */
static bool is_undone(int fd) {
    bool has_worked = !strcmp(setting("CNI_COMMAND", ""), "ADD") && !memcmp(answer, "\0\0\0\0", 4);
    return has_worked && recv(fd, &(char){0}, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* Send the request and wait for what becomes of it: RESULT, which is in `answer` then, DECLINED, or LOST. */
static uint32_t converse(int fd) {
    struct { size_t length; int level, type, fd; } passed = {CMSG_LEN(sizeof netns), SOL_SOCKET, SCM_RIGHTS, netns};
    uint32_t header[2]; /* kind, length */
    size_t sent = 0;
    while (sent < size) {
        struct msghdr message = {.msg_iov = &(struct iovec){request + sent, size - sent}, .msg_iovlen = 1};
        if (!sent && netns >= 0) message.msg_control = &passed, message.msg_controllen = sizeof passed;
        ssize_t n = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (n >= 0) sent += (size_t)n;
        else if (!is_passing()) break; /* it has hung up, but may have answered before */
        else if (!await(fd, POLLOUT, now_ms() + SILENCE_MS)) return DECLINED;
    }
    while (take(fd, header, sizeof header, 0) && (answer_size = header[1]) <= MOST_BYTES) {
        if (!take(fd, answer, answer_size, 0)) break;
        if (header[0] == DECLINED) return DECLINED;
        if (header[0] == RESULT && answer_size >= 4) return is_undone(fd) ? LOST : RESULT;
    }
    return sent < size ? DECLINED : LOST; /* without END nothing has been done */
}

static _Noreturn void finish(int fd) { /* by handing the answer on; what cannot be handed on is not TAKEN */
    if (deadline > now_ms() + DEADLINE_MS / 5) deadline = now_ms() + DEADLINE_MS / 5; /* the agent waits a bit longer */
    if (!put(STDOUT_FILENO, answer + 4, answer_size - 4) || now_ms() >= deadline) _exit(1);
    if (send(fd, (uint32_t[]){TAKEN, 0}, 8, MSG_NOSIGNAL | MSG_DONTWAIT) != 8 && is_undone(fd)) _exit(1);
    _exit(memcmp(answer + 1, "\0\0\0", 3) ? 1 : answer[0]); /* no exit code has more than a byte */
}

static void become_python(char **arguments, bool is_agent_lost) { /* stdin as if unread; returns if it fails */
    if (is_agent_lost && setenv("CALICO_AGENT_LOST", "1", 1)) return;
    if (stdin_at) {
        int again = memfd_create("stdin", MFD_CLOEXEC);
        if (again < 0 || !put(again, request + stdin_at, stdin_size) || lseek(again, 0, 0) || dup2(again, 0)) return;
    }
    execv(python, arguments);
}

static int save(int folder, const char *file) { /* the request, whole or not at all; returns 0, or why not */
    char half[32];
    snprintf(half, sizeof half, ".%ld.tmp", (long)getpid());
    int fd = openat(folder, half, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd >= 0 && put(fd, request, size) && !fsync(fd) && !renameat(folder, half, folder, file) && !fsync(folder))
        return 0;
    int why = errno;
    if (fd >= 0) unlinkat(folder, half, 0);
    return why;
}

/* Name a DEL's file after the FNV-1a hash of whose it is: nothing of the environment comes into a path. */
static void name_file(char *file, size_t room) {
    const char *whose[] = {name, setting("CNI_CONTAINERID", ""), setting("CNI_IFNAME", ""), request + stdin_at};
    size_t lengths[] = {strlen(whose[0]) + 1, strlen(whose[1]) + 1, strlen(whose[2]) + 1, stdin_size};
    uint64_t hash = 14695981039346656037u;
    if (!*whose[1] || !*whose[2]) fail(BAD_ENVIRONMENT, "CNI_CONTAINERID or CNI_IFNAME is missing", EINVAL);
    for (int i = 0; i < 4; i++)
        for (size_t at = 0; at < lengths[i]; at++) hash = (hash ^ (unsigned char)whose[i][at]) * 1099511628211u;
    snprintf(file, room, "%016llx.del", (unsigned long long)hash);
}

static _Noreturn void queue(void) {
    char file[32], *path = strdup(setting("CALICO_CNI_QUEUE", "/var/lib/calico/cni/queue"));
    int others = 0, why, fd;
    if (!stdin_at && !make_request()) fail(IO_FAILURE, "stdin with the network configuration cannot be read", errno);
    name_file(file, sizeof file);
    umask(022);
    for (char *slash = path; slash && (slash = strchr(slash + 1, '/')); *slash = '/') {
        *slash = '\0';
        mkdir(path, 0755);
    }
    DIR *folder = path && (!mkdir(path, 0700) || errno == EEXIST) ? opendir(path) : NULL;
    if (!folder) fail(TRY_AGAIN, "the queue for DELs cannot be opened; start the agent", errno);
    for (struct dirent *entry; (entry = readdir(folder));)
        others += entry->d_name[0] != '.' && strcmp(entry->d_name, file);
    if (size > MOST_QUEUED_BYTES || others >= MOST_QUEUED) fail(TRY_AGAIN, "the queue is full; start the agent", E2BIG);
    if ((why = save(dirfd(folder), file))) fail(TRY_AGAIN, "the DEL could not be queued; start the agent", why);
    /* An agent that has come up meanwhile may have looked too early. */
    if ((fd = reach_agent()) < 0 || converse(fd) != RESULT) _exit(0);
    if (!memcmp(answer, "\0\0\0\0", 4)) unlinkat(dirfd(folder), file, 0);
    finish(fd);
}

static bool ask_agent(void) { /* returns, if at all, whether the agent was lost while it might have done it */
    int fd = reach_agent();
    uint32_t said = fd >= 0 && make_request() ? converse(fd) : DECLINED;
    if (said == RESULT) finish(fd);
    if (now_ms() >= deadline) fail(TRY_AGAIN, LATE, ETIMEDOUT);
    close(fd);
    return said == LOST;
}

int main(int argc, char **argv) {
    static char beside[PAGE + 8];
    const char *own = (const char *)getauxval(AT_EXECFN), *command = argc > 1 ? "" : setting("CNI_COMMAND", "");
    const char *base = strrchr(own, '/') ? strrchr(own, '/') + 1 : own;
    deadline = now_ms() + DEADLINE_MS;
    for (int fd = 0; fd <= STDERR_FILENO; fd++) /* something in place of what is closed of them */
        if (fcntl(fd, F_GETFD) < 0) open("/", O_PATH | O_CLOEXEC);
    unsetenv("CALICO_AGENT_LOST");
    snprintf(beside, sizeof beside, "%s.py", own);
    python = setting("CALICO_PYTHON_PLUGIN", beside);
    if (strcmp(base, "calico") && strcmp(base, "calico-ipam")) base = program_invocation_short_name;
    if (!strcmp(base, "calico-ipam")) name = base;
    if (!strcmp(command, "VERSION")) _exit(!put(STDOUT_FILENO, VERSIONS, sizeof VERSIONS - 1));
    become_python(argv, *command && ask_agent());
    if (!strcmp(command, "DEL")) queue();
    fail(TRY_AGAIN, "no agent answers, and there is no Python plugin to run: run install-cni", errno);
}
