// SPDX-License-Identifier: GPL-2.0-only
/*
 * A module with a bug, to be found by running its crash backwards (README.md).
 *
 * It keeps meters and listeners. /proc/meter takes one command per write:
 *   open NAME     a meter; its zero point is measured CALIBRATION_MS later, by a timer
 *   close NAME    forget the meter
 *   listen NAME   somebody who wants to hear of alarms
 *   alarm LEVEL   tell all listeners
 *
 * The bug: close does not stop the timer. If the meter is closed before its calibration is done, the timer writes into
 * memory that belongs to whoever got it next.
 */
#include <linux/kernel.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/timer.h>
#include <linux/uaccess.h>

#define CALIBRATION_MS 60
#define NAME_SIZE 200

struct meter {
	struct list_head link;
	char name[NAME_SIZE];
	s64 zero;		/* what an idle sensor reads, in microvolts */
	s64 last_reading;
};

struct listener;

struct listener_ops {
	void (*alarm)(struct listener *listener, int level);
};

/* As large as a meter, so both come from the same slab cache. */
struct listener {
	struct list_head link;
	char name[NAME_SIZE];
	const struct listener_ops *ops;
	unsigned long alarms;
};

static LIST_HEAD(meters);
static LIST_HEAD(listeners);
static DEFINE_MUTEX(lock);

static s64 read_sensor(void)
{
	return 7210;
}

/* One sensor, one calibration at a time. */
static struct {
	struct timer_list timer;
	struct meter *meter;
} calibration;

static void calibration_done(struct timer_list *timer)
{
	struct meter *meter = calibration.meter;

	meter->zero = read_sensor();
}

static noinline int meter_open(const char *name)
{
	struct meter *meter = kzalloc(sizeof(*meter), GFP_KERNEL);

	if (!meter)
		return -ENOMEM;
	strscpy(meter->name, name, sizeof(meter->name));
	list_add_tail(&meter->link, &meters);
	calibration.meter = meter;
	mod_timer(&calibration.timer, jiffies + msecs_to_jiffies(CALIBRATION_MS));
	return 0;
}

static noinline int meter_close(const char *name)
{
	struct meter *meter;

	list_for_each_entry(meter, &meters, link) {
		if (strcmp(meter->name, name) == 0) {
			list_del(&meter->link);
			kfree(meter);	/* and calibration.meter still points to it */
			return 0;
		}
	}
	return -ENOENT;
}

static void print_alarm(struct listener *listener, int level)
{
	listener->alarms++;
	pr_info("%s hears alarm %d\n", listener->name, level);
}

static const struct listener_ops printing = { .alarm = print_alarm };

static noinline int listen(const char *name)
{
	struct listener *listener = kzalloc(sizeof(*listener), GFP_KERNEL);

	if (!listener)
		return -ENOMEM;
	strscpy(listener->name, name, sizeof(listener->name));
	listener->ops = &printing;
	list_add_tail(&listener->link, &listeners);
	return 0;
}

static noinline void raise_alarm(int level)
{
	struct listener *listener;

	list_for_each_entry(listener, &listeners, link)
		listener->ops->alarm(listener, level);
}

static int run_command(char *command)
{
	char *word = strsep(&command, " ");
	int level;

	if (!command)
		return -EINVAL;
	if (strcmp(word, "open") == 0)
		return meter_open(command);
	if (strcmp(word, "close") == 0)
		return meter_close(command);
	if (strcmp(word, "listen") == 0)
		return listen(command);
	if (strcmp(word, "alarm") == 0 && kstrtoint(command, 10, &level) == 0) {
		raise_alarm(level);
		return 0;
	}
	return -EINVAL;
}

static ssize_t meter_write(struct file *file, const char __user *data, size_t size, loff_t *offset)
{
	char command[64];
	int error;

	if (size >= sizeof(command))
		return -EINVAL;
	if (copy_from_user(command, data, size))
		return -EFAULT;
	command[size] = '\0';
	mutex_lock(&lock);
	error = run_command(strim(command));
	mutex_unlock(&lock);
	return error ? error : size;
}

static const struct proc_ops meter_proc_ops = { .proc_write = meter_write };

static int __init stray_write_init(void)
{
	BUILD_BUG_ON(sizeof(struct meter) != sizeof(struct listener));
	timer_setup(&calibration.timer, calibration_done, 0);
	return proc_create("meter", 0200, NULL, &meter_proc_ops) ? 0 : -ENOMEM;
}

static void __exit stray_write_exit(void)
{
	struct listener *listener, *next_listener;
	struct meter *meter, *next_meter;

	remove_proc_entry("meter", NULL);
	del_timer_sync(&calibration.timer);
	list_for_each_entry_safe(meter, next_meter, &meters, link)
		kfree(meter);
	list_for_each_entry_safe(listener, next_listener, &listeners, link)
		kfree(listener);
}

module_init(stray_write_init);
module_exit(stray_write_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A stray write, to be found backwards");
