/* An HTTP/1.1 load generator: a fixed number of requests over CLIENTS keep-alive connections,
 * one thread, epoll. It exists because Python clients cost more CPU than what is measured here.
 *
 *   loadgen HOST PORT CLIENTS REQUESTS FILE [PAUSE_US SEED]
 *
 * Each client asks again as soon as it has its answer (closed loop), or after a pause of
 * PAUSE_US microseconds on average, drawn from an exponential distribution.
 *
 * FILE holds one whole request (head and body) that is sent again and again. Printed is one JSON
 * object; times are in microseconds. `first` is the time to the first byte of the body that is
 * not the head's (for a stream: the first event), `total` the time to the last byte, `gap` the
 * mean time between events of one streamed answer. An answer that is not 200, or torn, is an error.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 16384, READ_MAX = 262144, SILENCE_MS = 120000 };
enum state { IN_HEAD, IN_LENGTH, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER };

struct client {
    int fd;
    enum state state;
    size_t sent;
    char head[HEAD_MAX];
    size_t head_used;
    long long left;        /* bytes still to come of the body or the chunk */
    int status, closes;
    int newlines;          /* newlines seen in a row: two end an event */
    long events;
    double began, first, last_event;
    double wakes;          /* when its pause ends; 0: it has none */
    int busy;
};

static char *request;
static size_t request_size;
static struct sockaddr_in address;
static int queue;
static long wanted, started, done, errors, events_total;
static double *first_us, *total_us, *gap_us;
static long first_count, total_count, gap_count;
static double pause_us;

static double now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void die(const char *what) {
    perror(what);
    exit(2);
}

static void watch(struct client *c, int operation, unsigned events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(queue, operation, c->fd, &event) < 0) die("epoll_ctl");
}

static void open_connection(struct client *c) {
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0) die("socket");
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect");
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void push(struct client *c) {
    while (c->sent < request_size) {
        ssize_t n = write(c->fd, request + c->sent, request_size - c->sent);
        if (n < 0 && errno == EAGAIN) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (n <= 0) return; /* the read side sees the end */
        c->sent += (size_t)n;
    }
}

static void ask(struct client *c) {
    if (started >= wanted) {
        c->busy = 0;
        return;
    }
    started++;
    c->busy = 1;
    c->state = IN_HEAD;
    c->sent = c->head_used = 0;
    c->status = c->closes = c->newlines = 0;
    c->events = 0;
    c->first = c->last_event = 0;
    c->began = now_us();
    push(c);
}

static void rest(struct client *c) {
    if (pause_us <= 0) {
        ask(c);
        return;
    }
    c->busy = 0;
    c->wakes = now_us() - log(1 - drand48()) * pause_us;
}

/* Lets those ask whose pause is over; milliseconds until the next one, `most` at most. */
static int wake(struct client *clients, long count, int most) {
    double now = now_us(), next = now + most * 1e3;
    for (long i = 0; i < count; i++) {
        struct client *c = &clients[i];
        if (c->wakes > 0 && c->wakes <= now) {
            c->wakes = 0;
            ask(c);
        } else if (c->wakes > 0 && c->wakes < next) {
            next = c->wakes;
        }
    }
    return (int)ceil((next - now) / 1e3);
}

static void reopen(struct client *c) {
    close(c->fd);
    open_connection(c);
}

static void finish(struct client *c, double at) {
    done++;
    if (c->status != 200) {
        errors++;
    } else {
        if (c->first > 0) first_us[first_count++] = c->first - c->began;
        total_us[total_count++] = at - c->began;
        if (c->events > 2) gap_us[gap_count++] = (c->last_event - c->first) / (c->events - 1);
        events_total += c->events;
    }
    if (c->closes) reopen(c);
    rest(c);
}

static void torn(struct client *c) {
    int was_busy = c->busy;
    reopen(c);
    if (was_busy) {
        done++;
        errors++;
        rest(c);
    }
}

static void on_body(struct client *c, const char *data, size_t size, double at) {
    if (c->first == 0) c->first = at;
    for (size_t i = 0; i < size; i++) {
        if (data[i] != '\n') {
            c->newlines = 0;
        } else if (++c->newlines == 2) {
            c->events++;
            c->last_event = at;
        }
    }
}

static const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, name, length) == 0) return line + 2 + length;
    return NULL;
}

/* 1: the answer is whole, 0: there is more to come, -1: it can't be read */
static int on_head(struct client *c) {
    const char *value;
    c->status = atoi(c->head + 9);
    value = header(c->head, "connection:");
    c->closes = value && strncasecmp(value + strspn(value, " "), "close", 5) == 0;
    if ((value = header(c->head, "content-length:"))) {
        c->left = atoll(value);
        c->state = IN_LENGTH;
        return c->left == 0;
    }
    if (!header(c->head, "transfer-encoding:")) return -1;
    c->head_used = 0;
    c->state = CHUNK_SIZE;
    return 0;
}

/* Takes one line into `head` up to its newline; the bytes used, `*whole` if the line ended. */
static size_t take_line(struct client *c, const char *data, size_t size, int *whole) {
    size_t i = 0;
    *whole = 0;
    while (i < size && !*whole) {
        *whole = data[i] == '\n';
        if (c->head_used < HEAD_MAX - 1) c->head[c->head_used++] = data[i];
        i++;
    }
    c->head[c->head_used] = 0;
    return i;
}

static int feed(struct client *c, const char *data, size_t size, double at) {
    int whole;
    while (size) {
        size_t used;
        switch (c->state) {
        case IN_HEAD:
            used = take_line(c, data, size, &whole);
            if (whole && c->head_used >= 4 &&
                memcmp(c->head + c->head_used - 4, "\r\n\r\n", 4) == 0) {
                int result = on_head(c);
                if (result) return result;
            }
            break;
        case IN_LENGTH:
        case CHUNK_DATA:
            used = (long long)size < c->left ? size : (size_t)c->left;
            on_body(c, data, used, at);
            c->left -= (long long)used;
            if (c->left == 0) {
                if (c->state == IN_LENGTH) return 1;
                c->state = CHUNK_END;
                c->head_used = 0;
            }
            break;
        case CHUNK_SIZE:
            used = take_line(c, data, size, &whole);
            if (whole) {
                c->left = strtoll(c->head, NULL, 16);
                c->head_used = 0;
                c->state = c->left ? CHUNK_DATA : TRAILER;
            }
            break;
        case CHUNK_END:
            used = take_line(c, data, size, &whole);
            if (whole) {
                c->head_used = 0;
                c->state = CHUNK_SIZE;
            }
            break;
        default: /* TRAILER: lines up to an empty one */
            used = take_line(c, data, size, &whole);
            if (whole) {
                if (c->head_used <= 2) return 1;
                c->head_used = 0;
            }
        }
        data += used;
        size -= used;
    }
    return 0;
}

static void on_readable(struct client *c) {
    static char buffer[READ_MAX];
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    double at = now_us();
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        torn(c);
        return;
    }
    if (!c->busy) return;
    int result = feed(c, buffer, (size_t)n, at);
    if (result > 0) finish(c, at);
    if (result < 0) torn(c);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_times(const char *name, double *values, long count) {
    double sum = 0;
    qsort(values, (size_t)count, sizeof *values, ascending);
    for (long i = 0; i < count; i++) sum += values[i];
    printf(", \"%s\": ", name);
    if (!count) {
        printf("null");
        return;
    }
    printf("{\"mean\": %.1f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f}", sum / count,
           values[count / 2], values[count * 9 / 10], values[count * 99 / 100]);
}

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    request_size = (size_t)ftell(file);
    rewind(file);
    request = malloc(request_size);
    if (!request || fread(request, 1, request_size, file) != request_size) die(path);
    fclose(file);
}

static void run(struct client *clients, long count) {
    struct epoll_event ready[256];
    double heard = now_us();
    for (long i = 0; i < count; i++) rest(&clients[i]);
    while (done < wanted) {
        int n = epoll_wait(queue, ready, 256, wake(clients, count, SILENCE_MS));
        if (n < 0 && errno != EINTR) die("epoll_wait");
        if (n > 0) heard = now_us();
        if (n == 0 && now_us() - heard > SILENCE_MS * 1e3 + pause_us * 100) {
            fprintf(stderr, "loadgen: nothing arrived for 120 s\n");
            exit(3);
        }
        for (int i = 0; i < n; i++) {
            struct client *c = ready[i].data.ptr;
            if (ready[i].events & EPOLLOUT) {
                watch(c, EPOLL_CTL_MOD, EPOLLIN);
                push(c);
            }
            if (ready[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) on_readable(c);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 6 && argc != 8) {
        fprintf(stderr, "usage: loadgen HOST PORT CLIENTS REQUESTS FILE [PAUSE_US SEED]\n");
        return 2;
    }
    if (argc == 8) {
        pause_us = atof(argv[6]);
        srand48(atol(argv[7]));
    }
    long count = atol(argv[3]);
    wanted = atol(argv[4]);
    if (count < 1 || wanted < 1) return 2;
    address.sin_family = AF_INET;
    address.sin_port = htons((unsigned short)atoi(argv[2]));
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) die(argv[1]);
    read_request(argv[5]);
    struct client *clients = calloc((size_t)count, sizeof *clients);
    first_us = calloc((size_t)wanted, sizeof *first_us);
    total_us = calloc((size_t)wanted, sizeof *total_us);
    gap_us = calloc((size_t)wanted, sizeof *gap_us);
    if (!clients || !first_us || !total_us || !gap_us) die("calloc");
    if ((queue = epoll_create1(0)) < 0) die("epoll_create1");
    for (long i = 0; i < count; i++) open_connection(&clients[i]);
    double began = now_us();
    run(clients, count);
    printf("{\"requests\": %ld, \"errors\": %ld, \"events\": %ld, \"seconds\": %.6f", done, errors,
           events_total, (now_us() - began) / 1e6);
    print_times("first", first_us, first_count);
    print_times("total", total_us, total_count);
    print_times("gap", gap_us, gap_count);
    printf("}\n");
    return 0;
}
