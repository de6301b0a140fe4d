// A disk for one database that is slow, hangs on demand, and shows what a power cut would leave.
//
// Preloaded into a process, it stands before fsync() and fdatasync() for the files whose path
// begins with SLOW_DISK_FILE. Each call waits SLOW_DISK_DELAY_US, and as long as there is a file
// "hold" in the directory SLOW_DISK_STATE (a file "held" tells that one does); then the real call
// is made, and what is in the file is copied to NAME.synced in that directory. Those copies are all
// that a disk which forgets whatever was not synced has after a power cut.
//
// The file is read through the caller's descriptor: closing another one would drop the locks that
// SQLite holds on it.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_BYTES = 4096, PIECE_BYTES = 1 << 16 };

static void give_up(const char *what) {
  perror(what);
  abort();  // a test must not go on with less than it believes to have
}

static void name_in_state(char *name, const char *file, const char *ending) {
  const char *state = getenv("SLOW_DISK_STATE");
  if (state == NULL) give_up("SLOW_DISK_STATE");
  snprintf(name, PATH_BYTES, "%s/%s%s", state, file, ending);
}

static int is_ours(int descriptor, char *path) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t size = readlink(link, path, PATH_BYTES - 1);
  const char *file = getenv("SLOW_DISK_FILE");
  if (size < 0 || file == NULL) return 0;
  path[size] = '\0';
  return strncmp(path, file, strlen(file)) == 0;
}

static void wait_for_the_disk(void) {
  char hold[PATH_BYTES], held[PATH_BYTES];
  const char *delay = getenv("SLOW_DISK_DELAY_US");
  if (delay != NULL) usleep((useconds_t)atoi(delay));
  name_in_state(hold, "hold", "");
  name_in_state(held, "held", "");
  while (access(hold, F_OK) == 0) {
    int told = open(held, O_WRONLY | O_CREAT, 0600);
    if (told < 0) give_up(held);
    close(told);
    usleep(1000);
  }
}

static void keep(int descriptor, const char *path) {
  static _Thread_local char piece[PIECE_BYTES];
  char kept[PATH_BYTES], unfinished[PATH_BYTES];
  name_in_state(kept, strrchr(path, '/') + 1, ".synced");
  name_in_state(unfinished, strrchr(path, '/') + 1, ".unfinished");
  int copy = open(unfinished, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (copy < 0) give_up(unfinished);
  off_t offset = 0;
  for (ssize_t size; (size = pread(descriptor, piece, sizeof piece, offset)) != 0; offset += size)
    if (size < 0 || write(copy, piece, (size_t)size) != size) give_up(unfinished);
  close(copy);
  if (rename(unfinished, kept)) give_up(kept);  // whole, whenever this process is killed
}

static int sync_slowly(int descriptor, const char *name) {
  char path[PATH_BYTES];
  int (*sync_really)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  if (!is_ours(descriptor, path)) return sync_really(descriptor);
  wait_for_the_disk();
  int failed = sync_really(descriptor);
  if (!failed) keep(descriptor, path);
  return failed;
}

int fsync(int descriptor) { return sync_slowly(descriptor, "fsync"); }
int fdatasync(int descriptor) { return sync_slowly(descriptor, "fdatasync"); }
