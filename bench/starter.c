/* Starts processes, at most so many at a time, and tells what each one cost: the same quick starter for all that is
 * compared, where Python's own takes a millisecond for each process.
 *
 *     starter AT-A-TIME FILE
 *
 * The file has for each process its arguments, an empty string, its environment, an empty string, and the file that is
 * its stdin; all of them end with a zero byte. stdout and stderr go to files of that name with .out and .err behind it.
 * Printed are when it began (CLOCK_MONOTONIC) and the whole in ns, then a line for each: exit status as of waitpid(2), wall time in ns, CPU time in us,
 * what it executed and waited for included.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct job {
	char **arguments, **environment;
	char *in, out[4096], errors[4096];
	pid_t pid;
	int status;
	long long began, ended, cpu_us;
};

static char *at, *end;

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void *need(void *memory)
{
	if (!memory)
		err(1, "memory");
	return memory;
}

static char *string(void)
{
	char *found = at;

	if (at >= end)
		errx(1, "the file of jobs ends in the middle of one");
	at += strlen(at) + 1;
	return found;
}

/* The strings up to an empty one, as exec wants them. */
static char **strings(void)
{
	char **found = NULL;
	size_t count = 0;

	do {
		found = need(realloc(found, (count + 1) * sizeof(*found)));
		found[count] = string();
	} while (*found[count++]);
	found[count - 1] = NULL;
	return found;
}

static void map_file(const char *path)
{
	struct stat about;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &about))
		err(1, "%s", path);
	at = need(malloc(about.st_size + 1));
	if (read(fd, at, about.st_size) != about.st_size)
		err(1, "%s", path);
	end = at + about.st_size;
	*end = 0;
	close(fd);
}

static void start(struct job *job)
{
	posix_spawn_file_actions_t files;

	posix_spawn_file_actions_init(&files);
	posix_spawn_file_actions_addopen(&files, 0, job->in, O_RDONLY, 0);
	posix_spawn_file_actions_addopen(&files, 1, job->out, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	posix_spawn_file_actions_addopen(&files, 2, job->errors, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	job->began = now();
	if (posix_spawnp(&job->pid, job->arguments[0], &files, NULL, job->arguments, job->environment))
		errx(1, "%s cannot be started", job->arguments[0]);
	posix_spawn_file_actions_destroy(&files);
}

static void wait_for_one(struct job *jobs, size_t count)
{
	struct rusage used;
	struct job *job;
	int status;
	pid_t pid = wait4(-1, &status, 0, &used);

	for (job = jobs; job < jobs + count; job++) {
		if (job->pid != pid)
			continue;
		job->ended = now();
		job->pid = 0;
		job->status = status;
		job->cpu_us = (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000000LL
			+ used.ru_utime.tv_usec + used.ru_stime.tv_usec;
	}
}

int main(int argc, char **argv)
{
	struct job *jobs = NULL, *job;
	size_t count = 0, started, running = 0, most = argc == 3 ? strtoul(argv[1], NULL, 10) : 0;
	long long began;

	if (!most)
		errx(1, "usage: starter AT-A-TIME FILE");
	map_file(argv[2]);
	while (at < end) {
		jobs = need(realloc(jobs, (count + 1) * sizeof(*jobs)));
		job = memset(&jobs[count++], 0, sizeof(*jobs));
		job->arguments = strings();
		job->environment = strings();
		job->in = string();
		snprintf(job->out, sizeof(job->out), "%s.out", job->in);
		snprintf(job->errors, sizeof(job->errors), "%s.err", job->in);
	}
	began = now();
	for (started = 0; started < count || running;) {
		if (started < count && running < most) {
			start(&jobs[started++]);
			running++;
		} else {
			wait_for_one(jobs, started);
			running--;
		}
	}
	printf("%lld %lld\n", began, now() - began);
	for (job = jobs; job < jobs + count; job++)
		printf("%d %lld %lld\n", job->status, job->ended - job->began, job->cpu_us);
	return 0;
}
