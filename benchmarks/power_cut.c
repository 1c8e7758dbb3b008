/* Remembers a folder as a power cut would leave it: each file as of its last fsync, each folder's names as of theirs.
 *
 * LD_PRELOAD it with CUT_LIVE (the folder) and CUT_KEPT (where to keep). A synced file is copied to CUT_KEPT/INODE
 * before its fsync returns; CUT_KEPT/log gets "F inode path", or "D path" and an "N inode name" for each name in it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void say(const char *text, size_t length) {
    char name[4096];
    snprintf(name, sizeof name, "%s/log", getenv("CUT_KEPT"));
    int log = open(name, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (log < 0 || write(log, text, length) != (ssize_t)length) abort();
    close(log);
}

static void copy(const char *from, const char *to) {
    char block[65536];
    ssize_t got;
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (in < 0 || out < 0) abort();
    while ((got = read(in, block, sizeof block)) > 0)
        if (write(out, block, got) != got) abort();
    close(in);
    close(out);
}

static void list(const char *path) {
    size_t room = 1 << 20, length = 0;
    char *text = malloc(room);
    DIR *folder = opendir(path);
    struct dirent *entry;
    length += snprintf(text, room, "D %s\n", path);
    while (folder && (entry = readdir(folder))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        if (room - length < 1024) text = realloc(text, room *= 2);
        length += snprintf(text + length, room - length, "N %lu %s\n", (unsigned long)entry->d_ino, entry->d_name);
    }
    if (folder) closedir(folder);
    say(text, length);
    free(text);
}

static int synced(int file, int (*really)(int)) {
    const char *live = getenv("CUT_LIVE"), *kept = getenv("CUT_KEPT");
    char link[64], path[4096], part[4096], whole[4096], line[8192];
    struct stat found;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (!live || !kept || length < 0) return really(file);
    path[length] = 0;
    if (strncmp(path, live, strlen(live)) || fstat(file, &found)) return really(file);
    if (S_ISREG(found.st_mode)) {  /* copied first: what is written meanwhile is not promised */
        snprintf(part, sizeof part, "%s/%lu.%d.%d", kept, (unsigned long)found.st_ino, getpid(), gettid());
        snprintf(whole, sizeof whole, "%s/%lu", kept, (unsigned long)found.st_ino);
        copy(link, part);
    }
    int result = really(file);
    if (result) return result;
    if (S_ISREG(found.st_mode)) {
        if (rename(part, whole)) abort();
        say(line, snprintf(line, sizeof line, "F %lu %s\n", (unsigned long)found.st_ino, path));
    } else if (S_ISDIR(found.st_mode)) {
        list(path);
    }
    return result;
}

int fsync(int file) { return synced(file, (int (*)(int))dlsym(RTLD_NEXT, "fsync")); }
int fdatasync(int file) { return synced(file, (int (*)(int))dlsym(RTLD_NEXT, "fdatasync")); }
