/* reader PORT PATHS CONNECTIONS LINE SECONDS: clients on lines of their own.
 *
 * Each connection asks for one path of the file PATHS after the other over HTTP/1.1, and takes LINE
 * bytes a second of the answers, every 5 ms what it may, at most a tenth of a second's at once. The
 * bytes of bodies are dropped in the kernel, so the reader costs little. Every answer must be a 200
 * with a Content-Length. Prints the answers that ended, the bytes of bodies and the seconds that it
 * took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 1024, PATHS_MAX = 1 << 20, HEAD_BYTES = 4096 };
static const struct timespec TICK = {0, 5000000};

struct connection {
    int socket;
    long long left; /* of the body; 0 before its head was taken */
    double credit; /* bytes that it may take now */
};

static struct connection connections[CONNECTIONS_MAX];
static char *paths[PATHS_MAX];
static int port, path_count, next_path;
static char dropped[1 << 20];

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static void ask(struct connection *connection) {
    char request[512];
    int bytes = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n",
                         paths[next_path++ % path_count], port);
    if (send(connection->socket, request, bytes, MSG_NOSIGNAL) != bytes) fail("send");
}

static void open_connection(struct connection *connection) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connection->socket = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(connection->socket, (struct sockaddr *)&address, sizeof address) < 0)
        fail("connect");
    ask(connection);
}

/* Bytes that came, 0 where none are there yet. */
static size_t receive(struct connection *connection, void *into, size_t max, int flags) {
    ssize_t bytes = recv(connection->socket, into, max, flags | MSG_DONTWAIT);
    if (bytes < 0 && errno == EAGAIN) return 0;
    if (bytes <= 0) fail("an answer broke off");
    return bytes;
}

/* Takes the head if all of it is there, and nothing behind it; whether it did. */
static int take_head(struct connection *connection) {
    char head[HEAD_BYTES + 1], *end, *length;
    head[receive(connection, head, HEAD_BYTES, MSG_PEEK)] = 0;
    end = strstr(head, "\r\n\r\n");
    if (!end) return 0;
    receive(connection, head, end + 4 - head, 0);
    *end = 0;
    length = strcasestr(head, "\r\ncontent-length:");
    if (strncmp(head, "HTTP/1.1 200 ", 13) || !length) {
        fprintf(stderr, "no 200 with a length:\n%s\n", head);
        exit(1);
    }
    connection->left = atoll(length + 17);
    return 1;
}

int main(int count, char **words) {
    char line[512];
    long long bytes = 0, answers = 0;
    double start, last, line_rate, seconds;
    int connection_count;
    FILE *list;
    if (count != 6) {
        fprintf(stderr, "usage: reader PORT PATHS CONNECTIONS LINE SECONDS\n");
        return 2;
    }
    port = atoi(words[1]);
    connection_count = atoi(words[3]);
    line_rate = atof(words[4]);
    seconds = atof(words[5]);
    if (connection_count < 1 || connection_count > CONNECTIONS_MAX) fail("CONNECTIONS");
    if (!(list = fopen(words[2], "r"))) fail(words[2]);
    while (path_count < PATHS_MAX && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        paths[path_count++] = strdup(line);
    }
    if (!path_count) fail(words[2]);
    for (int each = 0; each < connection_count; each++) open_connection(&connections[each]);
    for (start = last = now(); last - start < seconds;) {
        double time;
        nanosleep(&TICK, NULL);
        time = now();
        for (int each = 0; each < connection_count; each++) {
            struct connection *connection = &connections[each];
            connection->credit += (time - last) * line_rate;
            if (connection->credit > line_rate / 10) connection->credit = line_rate / 10;
            while (connection->credit >= 1) {
                size_t wanted = sizeof dropped, came;
                if (!connection->left && !take_head(connection)) break;
                if (connection->left < (long long)wanted) wanted = connection->left;
                if (connection->credit < wanted) wanted = connection->credit;
                came = wanted ? receive(connection, dropped, wanted, MSG_TRUNC) : 0;
                if (wanted && !came) break;
                bytes += came;
                connection->credit -= came;
                connection->left -= came;
                if (!connection->left) {
                    answers++;
                    ask(connection);
                }
            }
        }
        last = time;
    }
    printf("%lld answers, %lld bytes, %.6f seconds\n", answers, bytes, last - start);
    return 0;
}
