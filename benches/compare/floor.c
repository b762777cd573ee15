/* floor PORT FOLDER READY ABSENT PACE NAME_AT: the least that a server can do, to compare with.
 *
 * Two threads, each with a listening socket of its own on the port (SO_REUSEPORT) and an epoll
 * loop of its own. A request for /nar/NAME gets a short head and the file NAME of FOLDER by
 * sendfile; one for a path that begins with /0000 gets the bytes of the file ABSENT, and any
 * other those of READY: whole answers, head included. PACE is how many bytes a second the kernel
 * sends on a connection at most, 0 for no limit. Where NAME_AT is not 0, the first 32 letters of the
 * path stand in READY at that place, so that it is about what was asked for. It reads no header,
 * keeps no time limits and takes no second request before the first is answered: never use it for
 * anything else.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { THREADS = 2, EVENTS = 64, HEAD_BYTES = 4096, NARS_MAX = 4096, NAME_BYTES = 128 };

struct nar {
    char name[NAME_BYTES];
    char head[256];
    int head_bytes;
    int file;
    off_t bytes;
};

struct answer {
    char *text;
    size_t bytes;
};

struct connection {
    int socket;
    size_t filled;
    char request[HEAD_BYTES];
    const struct nar *nar; /* the body under way, or NULL */
    off_t at;
};

static struct nar nars[NARS_MAX];
static int nar_count;
static struct answer ready, absent;
static int port;
static unsigned pace;
static size_t name_at;
static __thread char *named; /* this thread's READY, for names to stand in */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int by_name(const void *left, const void *right) {
    return strcmp(((const struct nar *)left)->name, ((const struct nar *)right)->name);
}

/* Opens every file of the folder once, and writes its head once. */
static void open_nars(const char *folder) {
    DIR *entries = opendir(folder);
    struct dirent *entry;
    if (!entries) fail(folder);
    while ((entry = readdir(entries)) && nar_count < NARS_MAX) {
        struct nar *nar = &nars[nar_count];
        struct stat status;
        if (entry->d_name[0] == '.' || strlen(entry->d_name) >= NAME_BYTES) continue;
        nar->file = openat(dirfd(entries), entry->d_name, O_RDONLY);
        if (nar->file < 0 || fstat(nar->file, &status) < 0) fail(entry->d_name);
        strcpy(nar->name, entry->d_name);
        nar->bytes = status.st_size;
        nar->head_bytes = snprintf(nar->head, sizeof nar->head,
            "HTTP/1.1 200 OK\r\nContent-Type: application/x-nix-nar\r\n"
            "Content-Length: %lld\r\n\r\n", (long long)nar->bytes);
        nar_count++;
    }
    closedir(entries);
    qsort(nars, nar_count, sizeof *nars, by_name);
}

static struct answer read_answer(const char *path) {
    struct answer answer;
    struct stat status;
    int file = open(path, O_RDONLY);
    if (file < 0 || fstat(file, &status) < 0) fail(path);
    answer.bytes = status.st_size;
    answer.text = malloc(answer.bytes + 1);
    if (!answer.text || read(file, answer.text, answer.bytes) != (ssize_t)answer.bytes) fail(path);
    close(file);
    return answer;
}

static int listen_on_port(void) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(listener, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) fail("bind");
    if (listen(listener, 4096) < 0) fail("listen");
    return listener;
}

static void drop(struct connection *connection) {
    close(connection->socket);
    free(connection);
}

static void watch(int loop, struct connection *connection, int change, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(loop, change, connection->socket, &event) < 0) fail("epoll_ctl");
}

/* Sends what the socket takes; 1 when the body is out, 0 when it waits, -1 at an end. */
static int send_body(struct connection *connection) {
    const struct nar *nar = connection->nar;
    while (connection->at < nar->bytes) {
        size_t left = nar->bytes - connection->at;
        ssize_t sent = sendfile(connection->socket, nar->file, &connection->at, left);
        if (sent < 0 && errno == EAGAIN) return 0;
        if (sent <= 0) return -1;
    }
    connection->nar = NULL;
    return 1;
}

static int send_nar(int loop, struct connection *connection, const char *name) {
    struct nar wanted;
    size_t length = strcspn(name, " ");
    int state;
    if (length >= NAME_BYTES) return -1;
    memcpy(wanted.name, name, length);
    wanted.name[length] = 0;
    connection->nar = bsearch(&wanted, nars, nar_count, sizeof *nars, by_name);
    if (!connection->nar) return -1;
    connection->at = 0;
    if (send(connection->socket, connection->nar->head, connection->nar->head_bytes,
             MSG_MORE | MSG_NOSIGNAL) != connection->nar->head_bytes) return -1;
    state = send_body(connection);
    if (state == 0) watch(loop, connection, EPOLL_CTL_MOD, EPOLLOUT);
    return state;
}

/* Reads, and answers once the head is whole; -1 where the connection is to be closed. */
static int take_request(int loop, struct connection *connection) {
    const struct answer *answer;
    ssize_t got = recv(connection->socket, connection->request + connection->filled,
                       HEAD_BYTES - 1 - connection->filled, 0);
    if (got <= 0) return got < 0 && errno == EAGAIN ? 0 : -1;
    connection->filled += got;
    connection->request[connection->filled] = 0;
    if (connection->filled < 4 ||
        memcmp(connection->request + connection->filled - 4, "\r\n\r\n", 4))
        return connection->filled < HEAD_BYTES - 1 ? 0 : -1;
    connection->filled = 0;
    if (!strncmp(connection->request, "GET /nar/", 9))
        return send_nar(loop, connection, connection->request + 9);
    answer = strncmp(connection->request, "GET /0000", 9) ? &ready : &absent;
    if (name_at && answer == &ready) {
        if (!named && !(named = malloc(ready.bytes))) fail("malloc");
        memcpy(named, ready.text, ready.bytes);
        memcpy(named + name_at, connection->request + 5, 32);
        return send(connection->socket, named, ready.bytes, MSG_NOSIGNAL)
            == (ssize_t)ready.bytes ? 1 : -1;
    }
    return send(connection->socket, answer->text, answer->bytes, MSG_NOSIGNAL)
        == (ssize_t)answer->bytes ? 1 : -1;
}

static void accept_all(int loop, int listener) {
    int one = 1, socket;
    while ((socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *connection = calloc(1, sizeof *connection);
        if (!connection) fail("calloc");
        connection->socket = socket;
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (pace) setsockopt(socket, SOL_SOCKET, SO_MAX_PACING_RATE, &pace, sizeof pace);
        watch(loop, connection, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void *serve(void *unused) {
    int loop = epoll_create1(0), listener = listen_on_port();
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    (void)unused;
    if (loop < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event) < 0) fail("epoll");
    for (;;) {
        int count = epoll_wait(loop, events, EVENTS, -1);
        for (int number = 0; number < count; number++) {
            struct connection *connection = events[number].data.ptr;
            int state;
            if (!connection) {
                accept_all(loop, listener);
                continue;
            }
            if (connection->nar) {
                state = send_body(connection);
                if (state == 1) watch(loop, connection, EPOLL_CTL_MOD, EPOLLIN);
            } else {
                state = take_request(loop, connection);
            }
            if (state < 0) drop(connection);
        }
    }
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t thread;
    if (count != 7) {
        fprintf(stderr, "usage: floor PORT FOLDER READY ABSENT PACE NAME_AT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    port = atoi(arguments[1]);
    pace = strtoul(arguments[5], NULL, 10);
    name_at = strtoul(arguments[6], NULL, 10);
    open_nars(arguments[2]);
    ready = read_answer(arguments[3]);
    if (name_at && name_at + 32 > ready.bytes) return 2;
    absent = read_answer(arguments[4]);
    for (int number = 1; number < THREADS; number++)
        if (pthread_create(&thread, NULL, serve, NULL)) fail("pthread_create");
    serve(NULL);
    return 0;
}
